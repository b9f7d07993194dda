"""Batches of cached features: every item once an epoch, views in turn, any start, any ranks."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from training_files import NEW_DIM, SIDE_DIM, make_features

from fastfill.feature_cache import FeatureCache
from fastfill.pair_data import HeldOut, PairBatch, PairData, PairStream


def take(count: int, cache: FeatureCache, batch_size: int = 8, **options: int) -> list[PairBatch]:
    return list(itertools.islice(PairStream(cache, batch_size, 1, **options), count))


def rows_of(batch: PairBatch) -> list[int]:
    return [int(key.removeprefix("item-")) for key in batch["keys"]]


def views_of(batch: PairBatch) -> list[int]:
    return [round(10 * (float(first) % 1)) for first in batch["old"][:, 0]]


def test_an_epoch_shows_every_item_once_and_a_row_is_one_item(tmp_path: Path) -> None:
    cache = make_features(tmp_path / "cache")
    epochs = [take(6, cache)[:3], take(6, cache)[3:]]
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in rows_of(batch)) == list(range(24))
    assert rows_of(epochs[0][0]) != rows_of(epochs[1][0])
    for batch in epochs[0]:
        rows, views = rows_of(batch), views_of(batch)
        assert torch.equal(batch["old"], torch.from_numpy(cache.rows(rows, views).old))
        assert torch.equal(batch["new"], torch.from_numpy(cache.rows(rows, views).new))
        assert batch["label"].tolist() == cache.labels[rows].tolist()
        assert "side" not in batch


def test_views_of_an_item_take_turns_and_differ_between_items(tmp_path: Path) -> None:
    cache = make_features(tmp_path / "cache", views=3)
    seen = np.zeros((3, 24), dtype=np.int64)
    for number, batch in enumerate(take(9, cache)):
        seen[number // 3, rows_of(batch)] = views_of(batch)
    assert np.array_equal(np.sort(seen, axis=0), np.tile(np.arange(3)[:, None], 24))
    assert len(set(seen[0].tolist())) == 3


def test_the_rest_of_an_epoch_is_left_out(tmp_path: Path) -> None:
    cache = make_features(tmp_path / "cache")
    batches = take(4, cache, batch_size=10)
    assert [len(batch["keys"]) for batch in batches] == [10] * 4
    assert len({row for batch in batches[:2] for row in rows_of(batch)}) == 20


@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_stream_goes_on_from_any_batch(tmp_path: Path, start: int) -> None:
    cache = make_features(tmp_path / "cache", side=True)
    for one, other in zip(take(9, cache)[start:], take(9 - start, cache, start=start), strict=True):
        assert one["keys"] == other["keys"]
        assert one.get("side") is not None
        for name in ("old", "new", "side", "label"):
            assert torch.equal(one[name], other[name])


def test_ranks_share_the_batches_of_one_process(tmp_path: Path) -> None:
    cache = make_features(tmp_path / "cache")
    alone = take(5, cache)
    ranks = [take(5, cache, rank=rank, world_size=2) for rank in range(2)]
    for whole, *shares in zip(alone, *ranks, strict=True):
        first, second = (rows_of(share) for share in shares)
        assert len(first) == len(second) == 4
        assert not set(first) & set(second)
        assert set(first) | set(second) == set(rows_of(whole))


def test_held_out_items_come_once_in_order_in_their_first_view(tmp_path: Path) -> None:
    cache = make_features(tmp_path / "cache", side=True)
    data = HeldOut(cache, 10)
    batches = [data[number] for number in range(len(data))]
    assert [len(batch["old"]) for batch in batches] == [10, 10, 4]
    assert torch.equal(torch.cat([b["new"] for b in batches]), torch.from_numpy(cache.new()))
    assert torch.cat([b["side"] for b in batches]).shape == (24, SIDE_DIM)
    assert batches[0]["new"].shape == (10, NEW_DIM)
    assert {view for batch in batches for view in views_of(batch)} == {0}


def test_mistakes(tmp_path: Path) -> None:
    make_features(tmp_path / "cache")
    make_features(tmp_path / "other", head=False)
    with pytest.raises(ValueError, match=r"batch_size must be >= 2, got 1"):
        PairData(tmp_path / "cache", batch_size=1)
    with pytest.raises(ValueError, match=r"must lie in 2\.\.24, the items of .*cache, got 25"):
        PairData(tmp_path / "cache", batch_size=25).setup("fit")
    with pytest.raises(ValueError, match="was made with other models than"):
        PairData(tmp_path / "cache", val=tmp_path / "other", batch_size=8).setup("fit")
    with pytest.raises(FileNotFoundError, match="absent"):
        PairData(tmp_path / "absent", batch_size=8).setup("fit")
