"""Four ranks in lockstep over prepared shards, while the copy that one of them reads is damaged."""

import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from numpy.typing import NDArray
from prepare_corpus import BUCKETS

from dataset_decomposition.bucket_reader import BucketReader
from dataset_decomposition.prepare import prepare
from dataset_decomposition.records import open_dataset
from tenfold.bucketing import Bucket, BucketPlan, BucketStream, Curriculum, assert_lockstep
from tenfold.testing import run_ranks

WORLD, STEPS, DAMAGED_RANK = 4, 50, 2
Steps = list[tuple[int, list[int]]]


class Rows:
    """One bucket's rows as their length and numbers; the tokens are read and dropped."""

    def __init__(self, reader: BucketReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, rows: NDArray[np.int64]) -> tuple[int, list[int]]:
        tokens = self.reader.read(rows)
        return tokens.shape[1] - 1, rows.tolist()


def make_plan(data: Path, *, seed: int = 1) -> BucketPlan:
    readers = open_dataset(data).buckets.values()
    return BucketPlan.build(
        [Bucket(f"D_{reader.bucket}", reader.seq_len, len(reader)) for reader in readers],
        cost_per_step=512,
        curriculum=Curriculum.grow_p2(cycles=2),
        seed=seed,
        divisor=WORLD,
        wanted=dict.fromkeys((f"D_{k}" for k in range(3, 8)), 10 * 512),
    )


def first_row_of(plan: BucketPlan, rank: int) -> tuple[int, int]:
    """Return a step of the longest bucket, whose records hold one row, and the rank's row in it."""
    step = int(np.flatnonzero(plan.steps == len(plan.buckets) - 1)[3])
    return step, int(plan.rows(step, rank, WORLD)[0])


@pytest.fixture
def copies(tmp_path: Path, small_parts: None) -> tuple[Path, Path]:
    """A whole data set, and a copy with one damaged record of the damaged rank."""
    for number in range(120):
        path = tmp_path / "text" / f"{number:03d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(chr(97 + number % 26) * (400 + 20 * number))
    whole = tmp_path / "whole"
    prepare([str(tmp_path / "text")], whole, overflow="random", **BUCKETS)
    damaged = Path(shutil.copytree(whole, tmp_path / "damaged"))
    _, row = first_row_of(make_plan(whole), DAMAGED_RANK)
    for shard in open_dataset(damaged).buckets[7].shards:
        assert shard.rows_per_record == 1
        if row < shard.num_sequences:
            break
        row -= shard.num_sequences
    path = damaged / "D_7" / f"{shard.shard}.tar"
    content = bytearray(path.read_bytes())
    position = -1
    for _ in range(row + 1):
        position = content.index(b"NUMPY", position + 1)
    content[position] ^= 1
    path.write_bytes(bytes(content))
    return whole, damaged


def walk(rank: int, world_size: int, whole: Path, damaged: Path) -> tuple[Steps, list[str], str]:
    """Walk fifty steps together; return them, what was logged, and how another seed is refused."""
    data = damaged if rank == DAMAGED_RANK else whole
    plan = make_plan(data)
    assert_lockstep(plan)
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("tenfold.bucketing").addHandler(handler)
    readers = {f"D_{k}": Rows(reader) for k, reader in open_dataset(data).buckets.items()}
    steps: Steps = []
    for length, rows in BucketStream(plan, readers, rank=rank, world_size=world_size):
        gathered: list[int] = [0] * world_size
        dist.all_gather_object(gathered, length)
        assert set(gathered) == {length}
        steps.append((length, rows))
    with pytest.raises(ValueError, match="different plans") as refused:
        assert_lockstep(make_plan(data, seed=1 + (rank == 3)))
    return steps, records, str(refused.value)


def test_a_bad_record_of_one_rank_leaves_four_ranks_in_step(copies: tuple[Path, Path]) -> None:
    whole, damaged = copies
    plan = make_plan(whole)
    bad_step, bad_row = first_row_of(plan, DAMAGED_RANK)
    found = run_ranks(walk, WORLD, whole, damaged)
    for rank, (steps, records, refusal) in enumerate(found):
        assert len(steps) == STEPS
        planned = [plan.rows(step, rank, WORLD).tolist() for step in range(STEPS)]
        changed = [step for step in range(STEPS) if steps[step][1] != planned[step]]
        assert changed == ([bad_step] if rank == DAMAGED_RANK else [])
        assert len(records) == len(changed)
        assert refusal.startswith("the ranks have different plans: seed (ranks 0, 1, 2 | 3);")
        assert f"rank {rank} has seed = {1 + (rank == 3)}" in refusal
    ((message,),) = (records for _, records, _ in found if records)
    assert message.startswith(f"bad record replaced: bucket 'D_7', row {bad_row}: ")
    assert "damaged/D_7/shard-" in message
    assert ".tok.npy" in message
    taken = Counter(
        (length, row) for steps, _, _ in found for length, rows in steps for row in rows
    )
    substitute = found[DAMAGED_RANK][0][bad_step][1][0]
    assert taken[128, bad_row] == 0
    assert {place for place, count in taken.items() if count > 1} <= {(128, substitute)}
