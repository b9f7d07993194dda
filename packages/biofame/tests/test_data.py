"""Batches of windows: any start, any ranks, equal lengths, few labels, sequences."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from training_stores import make_store

from biofame.batches import WindowBatch, WindowSource, WindowStream
from biofame.data import SignalData
from biofame.few_labels import choose_any, choose_by_class, shares_of
from biofame.sequences import consecutive, groups_of
from biofame.store import SignalStore


def stream_of(
    store: SignalStore, batch_size: int = 8, *, context: int = 1, **options: int
) -> WindowStream:
    columns = np.arange(len(store.info.channels))
    source = WindowSource(store, columns, store.labels, context > 1)
    groups = groups_of(store, store.rows("train"), context=context, every_start=True)
    return WindowStream(source, groups, batch_size, 1, **options)


def take(stream: WindowStream, count: int) -> list[WindowBatch]:
    return list(itertools.islice(stream, count))


def rows_of(batch: WindowBatch) -> list[int]:
    return batch["samples"][..., 0, 0].flatten().int().tolist()


def data_of(
    path: Path, *, stage: str = "fit", ranks: int = 1, rank: int = 0, **options: Any
) -> SignalData:
    data = SignalData(path, **options)
    data.setup(stage)
    data.trainer = SimpleNamespace(  # what a loader asks of it
        global_step=0, accumulate_grad_batches=1, global_rank=rank, world_size=ranks
    )
    return data


def test_an_epoch_shows_every_window_once_and_a_row_is_one_window(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    stream = stream_of(store)
    epochs = [take(stream, 6)[:3], take(stream, 6)[3:]]
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in rows_of(batch)) == list(range(24))
    assert rows_of(epochs[0][0]) != rows_of(epochs[1][0])
    batch = epochs[0][0]
    rows = rows_of(batch)
    assert torch.equal(batch["samples"], torch.from_numpy(store.samples[rows]))
    assert batch["label"].tolist() == store.labels[rows].tolist()
    assert batch["keys"] == [store.key(row) for row in rows]
    assert (batch["channels"], batch["rate"]) == (("eeg", "emg"), 100.0)
    assert not {"present", "target"} & set(batch)


@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_stream_goes_on_from_any_batch(tmp_path: Path, start: int) -> None:
    store = make_store(tmp_path, lengths=(40, 30), targets=2)
    later = take(stream_of(store, 5, start=start), 9 - start)
    for one, other in zip(take(stream_of(store, 5), 9)[start:], later, strict=True):
        assert one["keys"] == other["keys"]
        for name in ("samples", "label", "target"):
            assert torch.equal(one[name], other[name])


def test_ranks_share_the_batches_of_one_process(tmp_path: Path) -> None:
    store = make_store(tmp_path, lengths=(40, 30, 30))
    alone = take(stream_of(store, 4), 7)
    ranks = [take(stream_of(store, 4, rank=rank, world_size=2), 7) for rank in range(2)]
    for whole, *shares in zip(alone, *ranks, strict=True):
        first, second = (rows_of(share) for share in shares)
        assert len(first) == len(second) == 2
        assert not set(first) & set(second)
        assert set(first) | set(second) == set(rows_of(whole))


def test_windows_of_a_batch_have_one_length_and_every_length_comes(tmp_path: Path) -> None:
    store = make_store(tmp_path, lengths=(40, 30, 20, 30))
    batches = take(stream_of(store, 8), 3)
    # Six windows each of 40 and of 20 samples fill no batch of 8, and are one of 6.
    sizes = sorted((len(batch["keys"]), batch["samples"].shape[-1]) for batch in batches)
    assert sizes == [(6, 20), (6, 40), (8, 30)]
    for batch in batches:
        rows = rows_of(batch)
        assert set(store.lengths[rows]) == {batch["samples"].shape[-1]}
        length = batch["samples"].shape[-1]
        assert torch.equal(batch["samples"], torch.from_numpy(store.samples[rows][..., :length]))


def test_channels_are_chosen_and_ordered_and_absent_ones_are_told(tmp_path: Path) -> None:
    store = make_store(tmp_path, channels=("eeg", "emg", "eog"), absent=[(24, 1), (25, 1), (25, 2)])
    data = data_of(tmp_path, channels=["eog", "emg"], batch_size=4)
    assert data.channels == ("eog", "emg")
    first, second = itertools.islice(data.val_dataloader(), 2)
    # Row 25 has none of the two channels and is left out.
    assert first["keys"] == [store.key(row) for row in (24, 26, 27, 28)]
    assert torch.equal(
        first["samples"], torch.from_numpy(store.samples[[24, 26, 27, 28]][:, [2, 1]])
    )
    assert first["present"].tolist() == [[True, False], [True, True], [True, True], [True, True]]
    assert "present" not in second
    whole = next(iter(data_of(tmp_path).val_dataloader()))
    assert whole["present"][1].tolist() == [True, False, False]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_whole_splits_come_once_over_all_ranks(tmp_path: Path, ranks: int) -> None:
    store = make_store(tmp_path, lengths=(40, 30))
    for split in ("val", "test"):
        seen: list[str] = []
        for rank in range(ranks):
            data = data_of(tmp_path, stage="test", ranks=ranks, rank=rank, batch_size=2)
            loader = data.val_dataloader() if split == "val" else data.test_dataloader()
            mine = [key for batch in loader for key in batch["keys"]]
            assert abs(len(mine) - len(store.rows(split)) / ranks) < 1
            seen += mine
        assert sorted(seen) == sorted(store.key(row) for row in store.rows(split).tolist())


def test_sequences_are_of_consecutive_windows_without_gaps(tmp_path: Path) -> None:
    store = make_store(tmp_path, gap_after=(2,))
    runs = [run.tolist() for run in consecutive(store, store.rows("train"))]
    expected = [[0, 1, 2], [3, 4, 5], *([*range(first, first + 6)] for first in (6, 12, 18))]
    assert runs == expected
    every = groups_of(store, store.rows("train"), context=4, every_start=True)
    assert [group.tolist() for group in every] == [
        [[0, 1, 2], [3, 4, 5]],
        [
            [first + k, *range(first + k + 1, first + k + 4)]
            for first in (6, 12, 18)
            for k in range(3)
        ],
    ]
    once = groups_of(store, store.rows("train"), context=4)
    flat = sorted(row for group in once for row in group.ravel().tolist())
    assert flat == list(range(24))
    assert {group.shape[1] for group in once} == {2, 3, 4}


def test_batches_of_sequences_have_an_axis_of_windows(tmp_path: Path) -> None:
    store = make_store(tmp_path, absent=[(0, 1)], targets=1)
    batches = take(stream_of(store, 4, context=3), 4)
    for batch in batches:
        assert batch["samples"].shape == (4, 3, 2, 40)
        assert batch["label"].shape == (4, 3)
        assert batch["target"].shape == (4, 3, 1)
        assert len(batch["keys"]) == 12
        rows = np.array(rows_of(batch)).reshape(4, 3)
        assert (np.diff(rows, axis=1) == 1).all()
    flags = [batch["present"].shape for batch in batches if "present" in batch]
    assert set(flags) == {(4, 3, 2)}


def test_few_labels_are_of_every_class_nested_and_keyed() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10 + [-1] * 7)
    chosen = {n: choose_by_class(labels, n, seed=0, classes=3) for n in (3, 10, 50, 100)}
    for n, rows in chosen.items():
        assert len(rows) == len(set(rows.tolist())) == n
        assert (np.diff(rows) > 0).all()
        assert (labels[rows] >= 0).all()
    assert np.bincount(labels[chosen[10]]).tolist() == [6, 3, 1]
    assert np.bincount(labels[chosen[3]]).tolist() == [1, 1, 1]
    assert set(chosen[10].tolist()) < set(chosen[50].tolist()) < set(chosen[100].tolist())
    assert np.array_equal(choose_by_class(labels, 0.1, seed=0, classes=3), chosen[10])
    assert not np.array_equal(choose_by_class(labels, 10, seed=1, classes=3), chosen[10])
    assert len(choose_by_class(labels, 0.01, seed=0, classes=3)) == 3
    assert len(choose_any(20, 0.25, seed=0)) == 5
    assert shares_of(7, np.array([100, 1, 1, 1])) == [4, 1, 1, 1]


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (2, "data.labels is 2, fewer than the 3 classes"),
        (25, "is 25, the training split has 24 labelled windows"),
        (0, r"must be a share in \(0, 1\) or a whole number"),
        (2.5, "whole number of windows, got 2.5"),
        (-1, "got -1"),
    ],
)
def test_labels_that_cannot_be_chosen(tmp_path: Path, amount: float, message: str) -> None:
    make_store(tmp_path)
    with pytest.raises(ValueError, match=message):
        data_of(tmp_path, labels=amount)


def test_a_class_without_windows_is_named(tmp_path: Path) -> None:
    make_store(tmp_path, splits=(("train", 2), ("val", 4)), per_recording=2)
    with pytest.raises(ValueError, match=r"there is none of 2"):
        data_of(tmp_path, labels=0.5)


def test_few_labels_are_of_training_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    data = data_of(tmp_path, labels=6)
    assert sorted(data.training_labels.tolist()) == [0, 0, 1, 1, 2, 2]
    batch = next(iter(data.train_dataloader()))
    assert len(batch["keys"]) == 6  # fewer than a batch of 128
    validated = torch.cat([b["label"] for b in data.val_dataloader()])
    assert validated.tolist() == store.labels[store.rows("val")].tolist()
    sequences = data_of(tmp_path, labels=6, context=3)
    assert len(sequences.training_rows) == 24
    assert int((sequences.training_labels >= 0).sum()) == 6


def test_mistakes(tmp_path: Path) -> None:
    make_store(tmp_path / "store", splits=(("train", 5),))
    for options, message in (
        ({"batch_size": 0}, "data.batch_size must be >= 1, got 0"),
        ({"context": 0}, "data.context must be >= 1"),
        ({"channels": ["ecg"]}, r"once each \(eeg, emg\), got ecg"),
        ({"channels": ["eeg", "eeg"]}, "got eeg, eeg"),
        ({"channels": []}, "got none"),
    ):
        with pytest.raises(ValueError, match=message):
            data_of(tmp_path / "store", **options)
    with pytest.raises(ValueError, match=r"no windows of split val \(it has: train\)"):
        data_of(tmp_path / "store").val_dataloader()
    with pytest.raises(ValueError, match="must be a multiple of the 2 ranks, got 3"):
        data_of(tmp_path / "store", batch_size=3, ranks=2).train_dataloader()
    with pytest.raises(ValueError, match="fewer training windows of one length than the 6 ranks"):
        data_of(tmp_path / "store", batch_size=6, ranks=6).train_dataloader()
    with pytest.raises(FileNotFoundError, match="absent"):
        data_of(tmp_path / "absent")
    make_store(tmp_path / "two", splits=(("train", 2), ("val", 2)))
    with pytest.raises(ValueError, match=r"the split val of .* has too little for 4 ranks"):
        data_of(tmp_path / "two", ranks=4).val_dataloader()


def test_sequences_need_windows_that_follow_each_other(tmp_path: Path) -> None:
    make_store(tmp_path, per_recording=1)
    with pytest.raises(ValueError, match="is 3, and no two training windows of"):
        data_of(tmp_path, context=3)
