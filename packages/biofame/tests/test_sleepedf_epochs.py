"""From stages to epochs: which are kept, with which label, and what is counted as left out."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from edf_files import Stage

from biofame.edf_annotations import Annotation
from biofame.sleepedf_epochs import Epochs, stage_epochs, trim_wake


def notes(stages: Sequence[Stage]) -> list[Annotation]:
    return [Annotation(*stage) for stage in stages]


def test_epochs_against_a_loop_over_seconds() -> None:
    names = ["Sleep stage W", "Sleep stage 1", "Sleep stage 4", "Sleep stage R", "Sleep stage ?"]
    expected_label = {"W": 0, "1": 1, "4": 3, "R": 4}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        stages: list[Stage] = []
        second = 0
        while second < 1500:
            second += int(rng.choice([0, 0, 0, 7, 30]))
            duration = int(rng.choice([30, 60, 90, 45]))
            stages.append((float(second), float(duration), str(rng.choice(names))))
            second += duration
        rate, length = 2.0, 1234
        expected = [
            (onset + begin, expected_label[text[-1]])
            for onset, duration, text in stages
            for begin in range(0, int(duration), 30)
            if begin + 30 <= duration and onset + begin + 30 <= length and text[-1] != "?"
        ]
        found = stage_epochs(notes(stages), samples=round(length * rate), rate=rate)
        assert list(zip((found.starts / rate).tolist(), found.labels.tolist(), strict=True)) == (
            expected
        )
        covered = np.zeros(length, bool)
        for onset, duration, _ in stages:
            covered[int(onset) : int(onset + duration)] = True
        assert found.dropped["without_annotation"] == int((~covered).sum()) // 30
        odd = sum(duration == 45 and text[-1] != "?" for _, duration, text in stages)
        assert found.dropped["part_of_epoch"] == odd


def test_what_is_left_out_is_counted() -> None:
    stages: list[Stage] = [
        (0.0, 75.0, "Sleep stage W"),  # two epochs and 15 s
        (105.0, 60.0, "Sleep stage 2"),  # after a gap of an epoch
        (150.0, 30.0, "Sleep stage 3"),  # within the one before
        (180.0, 30.0, "Lights off@@EEG F4-A1"),
        (180.0, 30.0, "Movement time"),
        (210.0, 20.0, "Sleep stage R"),
        (230.0, 90.0, "Sleep stage R"),  # two beyond the end
        (320.0, 60.0, "Sleep stage ?"),  # wholly beyond
    ]
    found = stage_epochs(notes(stages), samples=265, rate=1.0)
    assert found.starts.tolist() == [0, 30, 105, 135, 230]
    assert found.labels.tolist() == [0, 0, 2, 2, 4]
    assert found.dropped == {
        "part_of_epoch": 2,
        "without_annotation": 1,
        "overlap": 1,
        "other_annotation": 1,
        "movement": 1,
        "outside_recording": 2,
    }


def test_an_epoch_begins_at_the_sample_of_its_onset() -> None:
    stages: list[Stage] = [(0.29, 59.9999999, "Sleep stage 2"), (60.29, 30.0, "Sleep stage R")]
    found = stage_epochs(notes(stages), samples=20_000, rate=100.0)
    assert found.starts.tolist() == [29, 3029, 6029]
    assert not found.dropped["part_of_epoch"]


@pytest.mark.parametrize("minutes", [0, 0.5, 0.7, 1, 30, 1e6])
def test_wake_is_trimmed_as_in_the_released_code(minutes: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        before, after = rng.integers(0, 130, 2).tolist()
        sleep = rng.integers(0, 5, 20)
        sleep[[0, -1]] = 1
        labels = np.concatenate([np.zeros(before, int), sleep, np.zeros(after, int)])
        starts = 3000 * np.arange(len(labels))
        trimmed = trim_wake(Epochs(starts, labels, Counter(movement=2)), minutes=minutes)
        # Its indices: start = first - 2 w, end = last + 2 w, both within the night.
        edge = int(2 * minutes)
        begin, end = max(0, before - edge), min(len(labels) - 1, before + 19 + edge)
        assert trimmed.starts.tolist() == starts[begin : end + 1].tolist()
        assert trimmed.labels.tolist() == labels[begin : end + 1].tolist()
        gone = len(labels) - (end + 1 - begin)
        assert trimmed.dropped == Counter(movement=2) + Counter(wake_trimmed=gone)


def test_a_night_without_sleep_is_refused() -> None:
    found = stage_epochs(notes([(0.0, 60.0, "Sleep stage W")]), samples=60, rate=1.0)
    with pytest.raises(ValueError, match="none of its 2 epochs with a stage is sleep"):
        trim_wake(found, minutes=30)
