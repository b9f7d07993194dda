"""What `reproduce --scale gpu` concludes from its measurements."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from biofame.claims import LARGEST_ERROR, PAPER, SMALLEST_GAIN
from biofame.speed_gpu import ATTENTION, FILTER, NAIVE, Curve
from biofame.speed_gpu import OURS as OUR_WAY
from biofame.study_gpu import OURS, PUBLISHED
from tenfold.results import Result, Row, judged

LEAST_SPEED = 5.0
"""Times the windows a second of the naive way (spec 7b)."""
SCRATCH = "scratch"

Arms = Mapping[str, Sequence[float]]
"""Arm to one value a seed."""


def start_name(arm: str, start: str) -> str:
    """Return how an arm's fine-tuning is called; `start` is `pre-trained` or `scratch`."""
    return f"{arm}, {start}"


def judge_training(
    pretrained: Mapping[str, Arms], accuracy: Mapping[str, Arms], *, notes: str
) -> dict[str, Result]:
    """Judge what pre-training brings.

    Args:
        pretrained: Metric to arm to values; `masked_error` and `windows_per_s`.
        accuracy: Set of sensors (`eeg+eog`) to `start_name` to percent; all sensors come first.
        notes: What a reader should know.

    Returns:
        Results by file name.
    """
    whole = accuracy[next(iter(accuracy))]
    subsets = list(accuracy.values())[1:]
    dropped = {arm: _mean_over(subsets, arm) for arm in whole}
    error = pretrained["masked_error"]
    ahead = _differences(dropped, OURS)
    return {
        "reconstruction_nights": _result(
            f"With the settled settings the error of masked patches is at most {LARGEST_ERROR} of "
            "their variance, in the mean over sensors",
            "pre-training (a check that it learns at all)",
            [
                *_rows("val/masked_error", error),
                *_rows("time/windows_per_s", pretrained["windows_per_s"]),
            ],
            margin=LARGEST_ERROR - fmean(error[OURS]),
            notes=f"{notes} One pre-training serves all seeds.",
        ),
        "recipe_nights": _gain(whole, PUBLISHED, "The published recipe", notes),
        "few_labels_nights": _gain(whole, OURS, "Pre-training with the settled settings", notes),
        "dropout_nights": _result(
            "With sensors taken away at the test only, pre-trained networks (settled settings) are "
            "as accurate as those from random weights, in the mean over sets and seeds",
            "abstract (robust to modality dropout)",
            [
                *_rows("test/dropout_accuracy_percent", dropped),
                *[
                    row
                    for sensors, arms in accuracy.items()
                    for row in _rows(f"test/accuracy_percent_with_{sensors}", arms)
                ],
                Row.of(f"{OURS} - scratch", "gain/dropout_accuracy_points", ahead),
            ],
            margin=fmean(ahead),
            notes=f"{notes} The first rows are means over the sets that lack a sensor.",
        ),
    }


def judge_speed(
    rates: Mapping[int, Arms], curves: Sequence[Curve], *, notes: str
) -> dict[str, Result]:
    """Judge speed against the naive way, and of filters against attention.

    Args:
        rates: Windows of a step to `speed_gpu.time_training`'s values; the last is judged.
        curves: Encoders by length; the last is judged.
        notes: What a reader should know.

    Returns:
        Results by file name.
    """
    batch, last = list(rates)[-1], curves[-1]
    ratios = {size: _ratios(arms[OUR_WAY], arms[NAIVE]) for size, arms in rates.items()}
    gains = {curve.tokens: _ratios(curve.attention, curve.filter) for curve in curves}
    return {
        "throughput": _result(
            f"Training steps of {batch:,} windows are {LEAST_SPEED:g} or more times as fast as in "
            "the naive way of the released code, in the mean over rounds",
            "released code",
            [*_speed_rows(rates), *_ratio_rows(f"{OUR_WAY} / {NAIVE}", ratios, "batch")],
            margin=fmean(ratios[batch]) - LEAST_SPEED,
            notes=f"{notes} Ours: decoders side by side, filters chosen ahead, compiled, bfloat16 "
            "but for transforms, a fused update. Naive: written anew, as all products of the pool "
            "and a loop over decoders, eager, float32. Both on the same windows in memory; the "
            "margin is the mean ratio less the target.",
        ),
        "crossover": _result(
            f"At {last.tokens:,} tokens the filter encoder takes less time than one that attends",
            "section 3.2 (n log n)",
            [
                *[
                    Row.of(arm, f"time/us_per_token_at_{curve.tokens}", getattr(curve, arm))
                    for curve in curves
                    for arm in (FILTER, ATTENTION)
                ],
                *_ratio_rows(f"{ATTENTION} / {FILTER}", gains, "tokens"),
            ],
            margin=fmean(gains[last.tokens]) - 1,
            notes=f"{notes} Forward and backward of the encoder alone, no dropout, not compiled, "
            "the same number of tokens in all; the margin is the mean ratio less 1.",
        ),
    }


def _gain(whole: Arms, arm: str, what: str, notes: str) -> Result:
    gains = _differences(whole, arm)
    return _result(
        f"{what} brings {SMALLEST_GAIN:g} points of accuracy over random weights with few labels, "
        "in the mean over seeds",
        "abstract (+5.5 % accuracy over the best before)",
        [
            *_rows("test/accuracy_percent", whole),
            Row.of(f"{arm} - scratch", "gain/accuracy_points", gains),
        ],
        margin=fmean(gains) - SMALLEST_GAIN,
        notes=notes,
    )


def _result(claim: str, paper: str, rows: Sequence[Row], *, margin: float, notes: str) -> Result:
    return judged(
        "biofame",
        claim,
        paper=f"{PAPER}, {paper}",
        scale="gpu",
        rows=rows,
        margin=margin,
        notes=notes,
    )


def _rows(metric: str, arms: Arms) -> list[Row]:
    return [Row.of(arm, metric, each) for arm, each in arms.items()]


def _speed_rows(rates: Mapping[int, Arms]) -> list[Row]:
    rows: list[Row] = []
    for size, arms in rates.items():
        for name, each in arms.items():
            kind = "mem/peak_gib" if name.endswith("_gib") else "time/windows_per_s"
            rows.append(Row.of(name.removesuffix("_gib"), f"{kind}_at_batch_{size}", each))
    return rows


def _ratio_rows(arm: str, ratios: Mapping[int, Sequence[float]], what: str) -> list[Row]:
    return [Row.of(arm, f"ratio/at_{what}_{size}", each) for size, each in ratios.items()]


def _differences(arms: Arms, arm: str) -> list[float]:
    first, second = arms[start_name(arm, "pre-trained")], arms[start_name(arm, SCRATCH)]
    return [a - b for a, b in zip(first, second, strict=True)]


def _ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


def _mean_over(subsets: Sequence[Arms], arm: str) -> list[float]:
    return [fmean(each) for each in zip(*(arms[arm] for arms in subsets), strict=True)]
