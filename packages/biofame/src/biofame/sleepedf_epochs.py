"""From the stages of a hypnogram to labelled epochs of 30 s.

Stages 3 and 4 are one class, epochs of movement or without a stage are left out, and so is wake
long before and after sleep (spec 3). Unlike the released code, which stops, a stage that does not
last a multiple of 30 s gives its whole epochs; whatever is left out is counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofame.edf_annotations import Annotation

EPOCH_SECONDS = 30
CLASSES = ("W", "N1", "N2", "N3", "REM")
WAKE = CLASSES.index("W")
LABELS = {
    "Sleep stage W": 0,
    "Sleep stage 1": 1,
    "Sleep stage 2": 2,
    "Sleep stage 3": 3,
    "Sleep stage 4": 3,
    "Sleep stage R": 4,
}
LEFT_OUT = {"Sleep stage ?": "unknown_stage", "Movement time": "movement"}
# Onsets are decimal numbers.
SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Epochs:
    """Labelled epochs of a recording, by time.

    Attributes:
        starts: int64 `[n]`, first sample of each.
        labels: int64 `[n]`, index in `CLASSES`.
        dropped: Reason to number of epochs left out (`other_annotation`: of annotations;
            `part_of_epoch`: of stages that end with less than an epoch).
    """

    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    dropped: Counter[str]


def stage_epochs(annotations: Sequence[Annotation], *, samples: int, rate: float) -> Epochs:
    """Return the epochs with a stage that lie wholly within a recording.

    Args:
        annotations: Of the hypnogram.
        samples: Length of the recording.
        rate: Samples per second.
    """
    length = round(EPOCH_SECONDS * rate)
    covered = np.zeros(samples, dtype=np.bool_)
    dropped: Counter[str] = Counter()
    kept: list[tuple[int, int]] = []
    for one in annotations:
        if one.text not in LABELS and one.text not in LEFT_OUT:
            dropped["other_annotation"] += 1
            continue
        starts = _starts(one, rate)
        covered[max(0, round(one.onset * rate)) : max(0, _end(one, rate))] = True
        inside = [start for start in starts if 0 <= start <= samples - length]
        if one.text in LEFT_OUT:
            dropped[LEFT_OUT[one.text]] += len(inside)
            continue
        dropped["outside_recording"] += len(starts) - len(inside)
        dropped["part_of_epoch"] += one.duration - len(starts) * EPOCH_SECONDS > SLACK
        kept.extend((start, LABELS[one.text]) for start in inside)
    dropped["without_annotation"] += int(samples - covered.sum()) // length
    return _without_overlap(kept, length, dropped)


def trim_wake(epochs: Epochs, *, minutes: float) -> Epochs:
    """Return the epochs from `minutes` before the first that is not wake to as long after the last.

    As in the released code, the minutes are counted in the epochs that are left.

    Raises:
        ValueError: There is no epoch of sleep.
    """
    asleep = np.flatnonzero(epochs.labels != WAKE)
    if not len(asleep):
        raise ValueError(f"none of its {len(epochs.labels)} epochs with a stage is sleep")
    edge = int(minutes * 60 / EPOCH_SECONDS)
    kept = slice(max(0, int(asleep[0]) - edge), int(asleep[-1]) + edge + 1)
    starts = epochs.starts[kept]
    trimmed = Counter(wake_trimmed=len(epochs.starts) - len(starts))
    return Epochs(starts, epochs.labels[kept], epochs.dropped + trimmed)


def _starts(one: Annotation, rate: float) -> list[int]:
    count = int(one.duration / EPOCH_SECONDS + SLACK)
    return [round((one.onset + EPOCH_SECONDS * n) * rate) for n in range(count)]


def _end(one: Annotation, rate: float) -> int:
    return round((one.onset + one.duration) * rate)


def _without_overlap(kept: list[tuple[int, int]], length: int, dropped: Counter[str]) -> Epochs:
    """Leave out an epoch that begins within the one before, as two stages cannot both be true."""
    starts: list[int] = []
    labels: list[int] = []
    for start, label in sorted(kept, key=lambda epoch: epoch[0]):
        if starts and start < starts[-1] + length:
            dropped["overlap"] += 1
            continue
        starts.append(start)
        labels.append(label)
    # Counts of zero go.
    return Epochs(np.array(starts, np.int64), np.array(labels, np.int64), +dropped)
