"""What `reproduce` concludes from its measurements: paired differences over seeds."""

from collections.abc import Mapping
from dataclasses import dataclass

from tenfold.results import Result, Row, judged
from tenfold.statistics import mean_interval

ERM, UNSMOOTHED, KD, DR = "ERM", "ERM, no smoothing", "KD on the fly", "reinforced"
ARMS = (ERM, UNSMOOTHED, KD, DR)
DEAREST = 1.15
LARGEST_LOSS = 0.01
"""Of top-1, against distillation on the fly (spec 7a)."""
PAPER = "arXiv 2303.08983"

Values = Mapping[str, Mapping[str, list[float]]]
"""Metric (`top1`, `ece`, `cpu_s`) to arm to one value a seed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was run, for the result files."""

    scale: str
    notes: str


def judge(runs: Mapping[str, Values], setting: Setting) -> dict[str, Result]:
    """Judge the four claims over all students; a claim holds when it does for each of them.

    Args:
        runs: Values by student.
        setting: What was run.

    Returns:
        Results by file name.
    """
    return {
        "accuracy": _accuracy(runs, setting),
        "calibration": _calibration(runs, setting),
        "storing": _storing(runs, setting),
        "cost": _cost(runs, setting),
    }


def _accuracy(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, lows = _rows(runs, "top1", "test/top1"), []
    for student, values in runs.items():
        for arm in (ERM, UNSMOOTHED):
            gains = _differences(values, "top1", DR, arm)
            rows.append(Row.of(f"{student}: {DR} - {arm}", "gain/top1", gains))
            lows.append(mean_interval(gains).low)
    return _result(
        "Reinforced students beat ERM, smoothed or not, by more than the 95 % interval of the mean",
        f"{PAPER}, abstract (ResNet-50 on ImageNet: +1.7 points)",
        rows,
        margin=min(lows),
        setting=setting,
        margin_of="the lowest end of the intervals of the gain",
    )


def _calibration(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, gains = _rows(runs, "ece", "test/ece"), []
    for student, values in runs.items():
        falls = _differences(values, "ece", ERM, DR)
        rows.append(Row.of(f"{student}: {ERM} - {DR}", "gain/ece", falls))
        gains.append(sum(falls) / len(falls))
    return _result(
        "Reinforced students have a lower calibration error than the paper's ERM",
        f"{PAPER}, abstract (ResNet-50: ECE 9.9 % lower)",
        rows,
        margin=min(gains),
        setting=setting,
        margin_of="the smallest mean difference of ECE",
    )


def _storing(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, margins = _rows(runs, "top1", "test/top1"), []
    for student, values in runs.items():
        differences = _differences(values, "top1", DR, KD)
        rows.append(Row.of(f"{student}: {DR} - {KD}", "gain/top1", differences))
        interval = mean_interval(differences)
        margins.append(min(interval.high, interval.mean + LARGEST_LOSS))
    return _result(
        "Storing loses nothing: reinforced students are within noise, and within one point, of "
        "distillation on the fly",
        f"{PAPER}, figure 1 (81.5 at 1000 epochs, KD 81.5 at 300)",
        rows,
        margin=min(margins),
        setting=setting,
        margin_of="the smaller of the mean difference plus one point and the upper end of its 95 % "
        "interval, of the worse student",
    )


def _cost(runs: Mapping[str, Values], setting: Setting) -> Result:
    rows, margins = _rows(runs, "cpu_s", "train/cpu_s"), []
    for student, values in runs.items():
        for arm in (DR, KD):
            pairs = zip(values["cpu_s"][arm], values["cpu_s"][ERM], strict=True)
            ratios = [ours / erm for ours, erm in pairs]
            rows.append(Row.of(f"{student}: {arm} / {ERM}", "ratio/cpu_s", ratios))
            if arm == DR:
                margins.append(DEAREST - sum(ratios) / len(ratios))
    return _result(
        f"A reinforced run costs at most {DEAREST} of an ERM run of equal steps",
        f"{PAPER}, figure 1 (0.96-1.00 of ERM's time an epoch, KD 8.0)",
        rows,
        margin=min(margins),
        setting=setting,
        margin_of=f"{DEAREST} less the largest mean ratio",
    )


def _differences(values: Values, metric: str, ours: str, theirs: str) -> list[float]:
    pairs = zip(values[metric][ours], values[metric][theirs], strict=True)
    return [one - other for one, other in pairs]


def _rows(runs: Mapping[str, Values], metric: str, name: str) -> list[Row]:
    return [
        Row.of(f"{student}: {arm}", name, values[metric][arm])
        for student, values in runs.items()
        for arm in ARMS
    ]


def _result(
    claim: str, paper: str, rows: list[Row], *, margin: float, setting: Setting, margin_of: str
) -> Result:
    return judged(
        "dataset-reinforcement",
        claim,
        paper=paper,
        scale=setting.scale,
        rows=rows,
        margin=margin,
        notes=f"The margin is {margin_of}. {setting.notes}",
    )
