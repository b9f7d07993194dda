"""Splits and batches: nothing twice, nothing lost, the same for any number of ranks."""

from itertools import islice

import numpy as np
import pytest
import torch

from mobileclip.data import DigitStream, MobileclipData, batch_rows, split_rows


def test_splits_share_no_image_and_cover_all() -> None:
    rows = np.concatenate([split_rows(split) for split in ("train", "val", "test")])
    assert sorted(rows) == list(range(1797))


def test_an_epoch_takes_no_image_twice_and_the_next_has_another_order() -> None:
    per_epoch = len(split_rows("train")) // 64
    first = np.concatenate([batch_rows(number, 64, seed=1) for number in range(per_epoch)])
    assert len(set(first)) == per_epoch * 64
    assert not np.array_equal(batch_rows(0, 64, seed=1), batch_rows(per_epoch, 64, seed=1))


def test_ranks_share_the_batch_and_a_later_start_is_the_same_stream() -> None:
    whole = list(islice(DigitStream(8, seed=3), 4))
    halves = [list(islice(DigitStream(8, seed=3, rank=r, world_size=2), 4)) for r in (0, 1)]
    for batch, even, odd in zip(whole, *halves, strict=True):
        assert torch.equal(batch["image"][::2], even["image"])
        assert torch.equal(batch["digit"][1::2], odd["digit"])
    (later,) = islice(DigitStream(8, seed=3, start=3), 1)
    assert later["keys"] == whole[3]["keys"]


def test_bad_batch_size() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size must lie in 1\.\.1078, got 0"):
        MobileclipData(batch_size=0)
