"""Shards that a complete store has lost, generated again to the bytes that it records."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dataset_reinforcement.generation_plan import shard_tasks
from dataset_reinforcement.shard_job import ShardJob, ShardTask, reinforce_shard
from dataset_reinforcement.store.info import Part
from tenfold import atomic
from tenfold.jobs import run_jobs

ASIDE = ".restored"
"""Folder below a store where shards wait until they are whole. A job that wrote into the store
itself would leave marks there like those of a run that appends."""

logger = logging.getLogger(__name__)


def restore_shards(
    job: ShardJob,
    lost: Sequence[Part],
    *,
    first_view: int,
    settings: Mapping[str, Any],
    workers: int = 1,
    ray_address: str | None = None,
) -> None:
    """Generate lost shards again; a killed run continues.

    Args:
        job: What the store was made with.
        lost: Parts with those shards alone that are lost.
        first_view: See `shard_tasks`.
        settings: What the run shares with the one that made the store.
        workers: Number of processes.
        ray_address: Run on Ray instead.

    Raises:
        JobError: A shard came out with other bytes; it is not put into the store.
    """
    shards = [shard for part in lost for shard in part.shards]
    logger.warning(
        "%s lacks %d shards, first %s: they are generated again",
        job.store,
        len(shards),
        shards[0].file,
    )
    aside = job.store / ASIDE
    tasks = {
        key: task for part in lost for key, task in shard_tasks(part, first_view=first_view).items()
    }
    run_jobs(
        partial(restore_shard, job, {shard.file: shard.sha256 for shard in shards}),
        tasks,
        out=aside,
        settings=settings,
        workers=min(workers, len(tasks)),
        ray_address=ray_address,
        title="restore",
    )
    for shard in shards:
        target = job.store / shard.file
        target.parent.mkdir(exist_ok=True)
        (aside / shard.file).replace(target)
        atomic.fsync_dir(target.parent)
    shutil.rmtree(aside)


def restore_shard(
    job: ShardJob, recorded: Mapping[str, str | None], task: ShardTask, folder: Path
) -> dict[str, Any]:
    """Write one shard below `folder`; a job of `restore_shards`.

    Raises:
        ValueError: It has not the recorded hash.
    """
    result = reinforce_shard(job, task, folder)
    if result["shard"]["sha256"] != recorded[task.file]:
        raise ValueError(
            f"{task.file} comes out with other bytes than store.json records: give the view_batch "
            "and the kind of device that the store was made with, or generate it anew elsewhere"
        )
    return result
