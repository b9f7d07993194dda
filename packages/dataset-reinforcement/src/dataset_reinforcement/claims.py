"""What `reproduce` concludes from its measurements: paired differences over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tenfold.results import Result, Row, judged
from tenfold.statistics import Interval, mean_interval

ERM, UNSMOOTHED, KD, DR = "ERM", "ERM, no smoothing", "KD on the fly", "reinforced"
UNAUGMENTED, MIXED, MIXED_RANDOM = "reinforced, RRC", "reinforced, +M*", "reinforced, +M*+R*"
"""Other augmentations than that of `DR`, where there are several: shown, not judged."""
BASELINES = (ERM, UNSMOOTHED)
DEAREST = 1.15
LEAST_GAIN = 0.005
"""Of top-1 on corrupted images (spec 7a)."""
LARGEST_LOSS = 0.01
"""Of top-1, against distillation on the fly (spec 7a)."""
PAPER = "arXiv 2303.08983"

Values = Mapping[str, Mapping[str, list[float]]]
"""Metric (`top1`, `ece`, `corrupted_top1`, a cost) to arm to one value a seed."""
Cost = Literal["cpu_s", "s_per_epoch"]
NAMES = {
    "top1": "test/top1",
    "ece": "test/ece",
    "corrupted_top1": "corrupted/top1",
    "cpu_s": "train/cpu_s",
    "s_per_epoch": "time/s_per_epoch",
    "busy_share": "gpu/busy_share",
}
"""Metrics as they are called in result files."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was run, for the result files.

    Attributes:
        scale: Name of the scale.
        notes: What a reader should know.
        cost: Which of the costs is compared: CPU seconds of a run, or seconds an epoch.
    """

    scale: str
    notes: str
    cost: Cost = "cpu_s"


def judge(runs: Mapping[str, Values], setting: Setting) -> dict[str, Result]:
    """Judge the five claims over all students; a claim holds when it does for each of them.

    Args:
        runs: Values by student, each of `ERM`, `KD`, `DR` and what else there is.
        setting: What was run.

    Returns:
        Results by file name.
    """
    return {
        "accuracy": _accuracy(runs, setting),
        "robustness": _robustness(runs, setting),
        "calibration": _calibration(runs, setting),
        "storing": _storing(runs, setting),
        "cost": _cost(runs, setting),
    }


def _accuracy(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, gains = _gains(runs, "top1")
    single = len(gains[0]) == 1
    beyond = "in one seed" if single else "by more than the 95 % interval of the mean"
    return _result(
        f"Reinforced students beat {_beaten(runs)} {beyond}",
        "abstract (ResNet-50 on ImageNet: +1.7 points)",
        rows,
        margin=min(_interval(each).low for each in gains),
        setting=setting,
        margin_of="the smallest gain" if single else "the lowest end of the gains' intervals",
    )


def _robustness(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, gains = _gains(runs, "corrupted_top1")
    return _result(
        f"On corrupted images too reinforced students beat {_beaten(runs)} by half a point or more "
        "on average",
        "abstract (up to 20 % better on ImageNet-R, -A and -C)",
        rows,
        margin=min(_interval(each).mean for each in gains) - LEAST_GAIN,
        setting=setting,
        margin_of="the smallest mean gain less half a point",
    )


def _beaten(runs: Mapping[str, Values]) -> str:
    unsmoothed = any(UNSMOOTHED in values["top1"] for values in runs.values())
    return "ERM, smoothed or not," if unsmoothed else "the paper's ERM"


def _gains(runs: Mapping[str, Values], metric: str) -> tuple[list[Row], list[list[float]]]:
    """Return the rows of a metric, and the gains of each student over each baseline."""
    rows, gains = _rows(runs, metric), []
    for student, values in runs.items():
        for arm in BASELINES:
            if arm in values[metric]:
                gains.append(_differences(values, metric, DR, arm))
                rows.append(Row.of(f"{student}: {DR} - {arm}", f"gain/{metric}", gains[-1]))
    return rows, gains


def _calibration(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, gains = _rows(runs, "ece"), []
    for student, values in runs.items():
        falls = _differences(values, "ece", ERM, DR)
        rows.append(Row.of(f"{student}: {ERM} - {DR}", "gain/ece", falls))
        gains.append(_interval(falls).mean)
    return _result(
        "Reinforced students have a lower calibration error than the paper's ERM",
        "abstract (ResNet-50: ECE 9.9 % lower)",
        rows,
        margin=min(gains),
        setting=setting,
        margin_of="the smallest mean difference of ECE",
    )


def _storing(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, margins = _rows(runs, "top1"), []
    for student, values in runs.items():
        differences = _differences(values, "top1", DR, KD)
        rows.append(Row.of(f"{student}: {DR} - {KD}", "gain/top1", differences))
        margins.append(_storing_margin(differences))
    return _result(
        "Storing loses nothing: reinforced students are within noise, and within one point, of "
        "distillation on the fly",
        "figure 1 (81.5 at 1000 epochs, KD 81.5 at 300)",
        rows,
        margin=min(margins),
        setting=setting,
        margin_of="the smaller of the mean difference plus one point and the upper end of its 95 % "
        "interval, of the worse student",
    )


def _storing_margin(differences: Sequence[float]) -> float:
    within_a_point = _interval(differences).mean + LARGEST_LOSS
    if len(differences) == 1:  # of which no noise is known
        return within_a_point
    return min(within_a_point, _interval(differences).high)


def _cost(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, margins, cost = _rows(runs, setting.cost), [], setting.cost
    for student, values in runs.items():
        for arm in (DR, KD):
            pairs = zip(values[cost][arm], values[cost][ERM], strict=True)
            ratios = [ours / erm for ours, erm in pairs]
            rows.append(Row.of(f"{student}: {arm} / {ERM}", f"ratio/{cost}", ratios))
            if arm == DR:
                margins.append(DEAREST - _interval(ratios).mean)
    if cost == "s_per_epoch":
        rows += _rows(runs, "busy_share")
    return _result(
        f"A reinforced run costs at most {DEAREST} of an ERM run of equal steps",
        "figure 1 (0.96-1.00 of ERM's time an epoch, KD 8.0)",
        rows,
        margin=min(margins),
        setting=setting,
        margin_of=f"{DEAREST} less the largest mean ratio",
    )


def _interval(values: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean; a single value has none, and stands for itself."""
    return mean_interval(values) if len(values) > 1 else Interval(values[0], values[0], values[0])


def _differences(values: Values, metric: str, ours: str, theirs: str) -> list[float]:
    pairs = zip(values[metric][ours], values[metric][theirs], strict=True)
    return [one - other for one, other in pairs]


def _rows(runs: Mapping[str, Values], metric: str) -> list[Row]:
    return [
        Row.of(f"{student}: {arm}", NAMES[metric], per_seed)
        for student, values in runs.items()
        for arm, per_seed in values[metric].items()
    ]


def _result(
    claim: str, paper: str, rows: list[Row], *, margin: float, setting: Setting, margin_of: str
) -> Result:
    return judged(
        "dataset-reinforcement",
        claim,
        paper=f"{PAPER}, {paper}",
        scale=setting.scale,
        rows=rows,
        margin=margin,
        notes=f"The margin is {margin_of}. {setting.notes}",
    )
