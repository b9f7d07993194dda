"""The frame of a store that is being made: partial at first, complete last.

The shards themselves are written by `shard.write_shard`, usually in jobs.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dataset_reinforcement.store.info import (
    INFO,
    Part,
    ShardInfo,
    Skipped,
    StoreInfo,
    read_info,
    write_info,
)
from dataset_reinforcement.store.integrity import shard_problem
from dataset_reinforcement.store.samples import Sample, write_samples
from tenfold.jobs import run_jobs
from tenfold.jobs.work import STATE

T = TypeVar("T")


class StoreWriter:
    """Writes `store.json` at the start and at the end.

    In between, at any moment, the store can be opened with `allow_partial`.

    Args:
        path: The store's folder.
        info: Everything but parts, skipped images and counts.
    """

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path = path
        self.info = info

    def begin(
        self,
        planned: Sequence[Part] = (),
        *,
        skipped: Sequence[Skipped] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Write `store.json` with status `partial`.

        Args:
            planned: All parts, see `plan_part`; what exists of their files counts as coverage.
            skipped: Images known to have no reinforcements.
            counts: What happened how often in the parts that exist.
        """
        self._write(planned, skipped, dict(counts or {}), status="partial")

    def finish(
        self,
        parts: Sequence[Part],
        skipped: Sequence[Skipped] = (),
        counts: Mapping[str, int] | None = None,
    ) -> StoreInfo:
        """Write `store.json` with status `complete` and return its content.

        Raises:
            ValueError: A part is not whole, or a shard's file is missing or has another size.
        """
        for shard in (shard for part in parts for shard in part.shards):
            if problem := shard_problem(self.path, shard, hashed=False):
                raise ValueError(f"{self.path / shard.file} {problem}; generate again")
        return self._write(parts, skipped, dict(counts or {}), status="complete")

    def _write(
        self,
        parts: Sequence[Part],
        skipped: Sequence[Skipped],
        counts: dict[str, int],
        *,
        status: str,
    ) -> StoreInfo:
        info = dataclasses.replace(
            self.info, parts=tuple(parts), skipped=tuple(skipped), counts=counts, status=status
        )
        write_info(self.path, info)
        return info


def convert(
    out: Path,
    info: StoreInfo,
    samples: Sequence[Sample],
    plan: Part,
    *,
    job: Callable[[T, Path], dict[str, Any]],
    task: Callable[[ShardInfo], T],
    workers: int,
    title: str,
    skipped: Sequence[Skipped] = (),
    counts: Mapping[str, int] | None = None,
) -> StoreInfo:
    """Make a store of one part from something that exists; a killed run continues.

    Args:
        out: Its folder, empty or what a killed run of the same conversion left.
        info: Everything but parts, skipped images and counts.
        samples: The images.
        plan: The part, its shards unwritten.
        job: Writes the shard of a task below a folder and returns what `write_shard` gave.
        task: Makes the task of a shard.
        workers: Number of worker processes.
        title: Name of the set of jobs.
        skipped: Images without reinforcements.
        counts: What happened how often.

    Raises:
        ValueError: `out` holds something else.
    """
    begun = dataclasses.replace(
        info, parts=(plan,), skipped=tuple(skipped), counts={}, status="partial"
    )
    _claim(out, begun)
    out.mkdir(parents=True, exist_ok=True)
    write_samples(out, samples)
    writer = StoreWriter(out, info)
    writer.begin([plan], skipped=skipped)
    tasks = {Path(shard.file).stem: task(shard) for shard in plan.shards}
    settings = {"schema": info.schema}
    written = run_jobs(job, tasks, out=out, settings=settings, workers=workers, title=title)
    shards = [
        dataclasses.replace(shard, bytes=record["bytes"], sha256=record["sha256"])
        for shard, record in zip(plan.shards, written.values(), strict=True)
    ]
    whole = dataclasses.replace(plan, shards=tuple(shards))
    finished = writer.finish([whole], skipped, counts)
    shutil.rmtree(out / STATE)
    return finished


def _claim(out: Path, begun: StoreInfo) -> None:
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / INFO).is_file() or read_info(out) != begun:
        raise ValueError(f"{out} is not empty; choose another folder")
