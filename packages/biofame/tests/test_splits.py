import logging
from pathlib import Path

import numpy as np
import pytest

from biofame.splits import check_leakage, check_overlap, missing_classes, split_subjects
from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store


def _store(
    folder: Path,
    subjects: list[str],
    splits: list[str],
    *,
    labels: list[int] | None = None,
    recordings: list[str] | None = None,
) -> SignalStore:
    n = len(subjects)
    windows = Windows(
        samples=np.zeros((n, 1, 4), np.float32),
        labels=np.asarray(labels or [0] * n),
        subjects=subjects,
        recordings=recordings or subjects,
        onsets=np.arange(n, dtype=np.float64),
        splits=splits,
    )
    info = StoreInfo(channels=("eeg",), units=("uV",), rate=1.0, classes=("a", "b", "c"))
    write_store(folder, info, [windows])
    return open_store(folder)


def test_subjects_are_split_whole_and_by_shares() -> None:
    subjects = [f"s{number:02}" for number in range(20) for _ in range(3)]
    split = split_subjects(subjects, seed=0)
    of = {name: {str(s) for s in split[np.asarray(subjects) == name]} for name in subjects}
    assert all(len(splits) == 1 for splits in of.values())
    counts = [sum(splits == {name} for splits in of.values()) for name in ("train", "val", "test")]
    assert counts == [12, 4, 4]


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_windows() -> None:
    subjects = np.asarray([f"s{number}" for number in range(30)])
    first = split_subjects(subjects, seed=0)
    assert (first == split_subjects(subjects, seed=0)).all()
    assert (first[::-1] == split_subjects(subjects[::-1], seed=0)).all()
    assert (first != split_subjects(subjects, seed=1)).any()


@pytest.mark.parametrize(
    ("number", "shares", "expected"),
    [
        (3, (0.6, 0.2, 0.2), [1, 1, 1]),
        (4, (0.6, 0.2, 0.2), [2, 1, 1]),
        (3, (0.98, 0.01, 0.01), [1, 1, 1]),
        (10, (0.8, 0.0, 0.2), [8, 0, 2]),
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),
        (7, (0.5, 0.25, 0.25), [3, 2, 2]),
        (2, (1.0, 0.0, 0.0), [2, 0, 0]),
    ],
)
def test_counts(number: int, shares: tuple[float, ...], expected: list[int]) -> None:
    split = split_subjects([f"s{place}" for place in range(number)], shares=shares, seed=3)
    assert [(split == name).sum() for name in ("train", "val", "test")] == expected


@pytest.mark.parametrize(
    ("subjects", "shares", "message"),
    [
        (["a", "b"], (0.6, 0.2, 0.2), "2 subjects cannot fill 3 splits"),
        (["a", ""], (1.0, 0.0, 0.0), "no subject"),
        (["a"], (0.5, 0.5, 0.5), "three numbers >= 0 of sum 1"),
        (["a"], (1.5, -0.5, 0.0), "three numbers >= 0 of sum 1"),
        (["a"], (0.5, 0.5), "three numbers >= 0 of sum 1"),
    ],
)
def test_splits_that_cannot_be(subjects: list[str], shares: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_subjects(subjects, shares=shares, seed=0)


def test_leakage_is_refused(tmp_path: Path) -> None:
    store = _store(tmp_path, ["ann", "bob", "ann"], ["train", "val", "test"])
    with pytest.raises(ValueError, match=r"1 subjects .* \(ann: test, train\): split by subject"):
        check_leakage(store)


def test_windows_of_no_split_do_not_leak(tmp_path: Path) -> None:
    check_leakage(_store(tmp_path, ["ann", "bob", "ann"], ["train", "val", ""]))


def test_recordings_stand_for_unknown_subjects(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = ["train", "val"]
    check_leakage(_store(tmp_path / "a", ["", ""], splits, recordings=["r1", "r2"]))
    assert "2 windows have no subject" in caplog.text
    with pytest.raises(ValueError, match="recording r1: train, val"):
        check_leakage(_store(tmp_path / "b", ["", ""], splits, recordings=["r1", "r1"]))


def test_overlap_warns_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = [f"s{number}" for number in range(8)]
    pretraining = _store(tmp_path / "a", [*people, ""], [""] * 9, recordings=[*people, "x"])
    target = _store(tmp_path / "b", ["s3", "new", "", "s1"], [""] * 4, recordings=list("abcd"))
    assert check_overlap(pretraining, target) == ("s1", "s3")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "SUBJECT OVERLAP: 2 of 3 subjects" in record.message
    assert "(s1, s3)" in record.message


def test_no_overlap_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = _store(tmp_path / "a", ["s1", ""], ["", ""])
    second = _store(tmp_path / "b", ["s2", ""], ["", ""])
    assert check_overlap(first, second) == ()
    assert not caplog.records


def test_missing_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = _store(tmp_path, ["a", "b", "c"], ["train", "train", "test"], labels=[0, -1, 1])
    assert missing_classes(store) == ("b", "c")
    assert "no training window of class b, c" in caplog.text
