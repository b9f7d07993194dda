"""What `reproduce` concludes from its measurements: paired differences over seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from biofame.study import FAME, INPUT, RELEASED
from tenfold.results import Result, Row, judged

PAPER = "arXiv 2309.05927"
LARGEST_ERROR = 0.7
SMALLEST_GAIN = 3.0
"""The least that is called learning: masked error over variance, points of accuracy."""

ROUNDING = 1e-4

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""Metric to arm to one value a seed."""


class Wording(NamedTuple):
    """How a demo is called, and what a reader should know of it."""

    name: str
    notes: str


def judge(values: Values, *, demo: str, wording: Wording, scale: str) -> dict[str, Result]:
    """Judge the claims about one demo; what is not judged stands in the tables.

    Args:
        values: Of `study.measure`.
        demo: Key of the result files.
        wording: Name and notes.
        scale: Name of the scale.

    Returns:
        Results by file name.
    """
    accuracy, dropout = values["accuracy"], values["dropout_accuracy"]
    ours, scratch = f"{FAME}, pre-trained", f"{FAME}, scratch"
    other = f"{INPUT}, pre-trained"
    error = values["masked_error"][FAME]
    structure = [max(each) for each in zip(*values["structure"].values(), strict=True)]
    gains = _differences(accuracy, ours, scratch)
    robust = _differences(dropout, ours, other)

    def claim(text: str, margin: float, why: str, *rows: Row) -> Result:
        return judged(
            "biofame",
            f"On {wording.name}, {text}",
            paper=f"{PAPER}, {why}",
            scale=scale,
            rows=rows,
            margin=margin,
            notes=wording.notes,
        )

    return {
        f"reconstruction_{demo}": claim(
            f"the error of masked patches is at most {LARGEST_ERROR} of their variance, in the "
            "mean over channels and seeds",
            LARGEST_ERROR - _mean(error),
            "pre-training (a check that it learns at all)",
            *_rows("val/masked_error", values["masked_error"]),
        ),
        f"few_labels_{demo}": claim(
            f"pre-training brings {SMALLEST_GAIN:g} points of accuracy over random weights with "
            "few labels, in the mean over seeds",
            _mean(gains) - SMALLEST_GAIN,
            "abstract (+5.5 % accuracy over the best before)",
            *_rows("test/accuracy_percent", accuracy),
            *_label_rows(values),
            Row.of(f"{ours} - scratch", "gain/accuracy_points", gains),
        ),
        f"sensor_dropout_{demo}": claim(
            "with sensors taken away at the test only it is as accurate as a transformer that "
            "masks its input, in the mean over subsets and seeds",
            _mean(robust),
            "abstract (robust to modality dropout)",
            *_rows("test/dropout_accuracy_percent", dropout),
            *_rows("test/dropout_loss_percent", values["dropout_loss"]),
            *_subset_rows(values),
            Row.of(f"{ours} - {INPUT}", "gain/dropout_accuracy_points", robust),
        ),
        f"structure_{demo}": claim(
            "an absent channel is as one that never was, channels have no order, and the pool "
            "operator's encoder follows a shift of its tokens, up to rounding, in every seed",
            ROUNDING - max(structure),
            "section 3 (any channels; filters over tokens)",
            *_rows("largest_relative_difference", values["structure"]),
        ),
    }


def judge_ladder(values: Values, *, wording: Wording, scale: str) -> Result:
    """Compare the released settings and each change on the way to the demo's own."""
    gain = values["gain"]
    return judged(
        "biofame",
        f"On {wording.name}, the released options gain less from pre-training than the demo's "
        "own, in the mean over seeds",
        paper=f"{PAPER}, released code",
        scale=scale,
        rows=[
            *_rows("val/masked_error", values["masked_error"]),
            *_rows("gain/accuracy_points", gain),
            *_rows("test/accuracy_percent", values["accuracy"]),
        ],
        margin=_mean(gain[FAME]) - _mean(gain[RELEASED]),
        notes=wording.notes,
    )


def with_gains(values: Mapping[str, Mapping[str, Sequence[float]]]) -> Values:
    """Return values with what pre-training brings each arm as `gain`."""
    accuracy = values["accuracy"]
    arms = [name.removesuffix(", scratch") for name in accuracy if name.endswith(", scratch")]
    gain = {arm: _differences(accuracy, f"{arm}, pre-trained", f"{arm}, scratch") for arm in arms}
    return {**values, "gain": gain}


def _label_rows(values: Values) -> list[Row]:
    """Return what was reached with other numbers of labels."""
    return [
        row
        for metric, arms in values.items()
        if metric.endswith("_labels")
        for row in _rows(f"test/{metric}", arms)
    ]


def _subset_rows(values: Values) -> list[Row]:
    prefix = "accuracy_"
    return [
        row
        for metric, arms in values.items()
        if metric.startswith(prefix) and not metric.endswith("_labels")
        for row in _rows(
            f"test/accuracy_percent_with_{metric.removeprefix(prefix)}",
            {arm: each for arm, each in arms.items() if arm.endswith("pre-trained")},
        )
    ]


def _rows(metric: str, arms: Mapping[str, Sequence[float]]) -> list[Row]:
    return [Row.of(arm, metric, each) for arm, each in arms.items()]


def _differences(arms: Mapping[str, Sequence[float]], first: str, second: str) -> list[float]:
    return [a - b for a, b in zip(arms[first], arms[second], strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
