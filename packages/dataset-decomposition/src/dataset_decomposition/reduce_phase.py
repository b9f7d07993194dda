"""Second phase: shuffle one partition of one bucket in memory and write its shards.

The shuffle is keyed by seed, bucket and partition. How many shards each partition gives follows
from the counts of the first phase, so all jobs know their shard numbers beforehand and run in any
order; the last shard of each partition may be partial.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.manifest import bucket_folder
from dataset_decomposition.randomness import permutation, stream_key
from dataset_decomposition.records import shard_name, write_rows
from dataset_decomposition.settings import Settings
from dataset_decomposition.spill import partition_sizes, read_documents, read_partition


@dataclass(frozen=True)
class ReduceTask:
    """One partition of one bucket, and the number of its first shard.

    Attributes:
        bucket: Exponent.
        partition: Which part of the bucket.
        num_rows: Rows the map phase put there.
        first_shard: Number of the first shard to write.
        spills: Folder that holds one folder of spilled rows per map job.
        num_spills: How many there are.
        settings: How rows become shards.
    """

    bucket: int
    partition: int
    num_rows: int
    first_shard: int
    spills: Path
    num_spills: int
    settings: Settings


def spill_name(index: int) -> str:
    """Return the folder name and job key of the `index`-th map job."""
    return f"{index:06d}"


def _spill_folders(spills: Path, num_spills: int) -> list[Path]:
    return [spills / spill_name(index) for index in range(num_spills)]


def plan_reduce(
    spills: Path, num_spills: int, num_partitions: int, settings: Settings
) -> dict[str, ReduceTask]:
    """List the jobs of the second phase by key; partitions without rows give none."""
    tasks: dict[str, ReduceTask] = {}
    folders = _spill_folders(spills, num_spills)
    for bucket in settings.buckets:
        shard = 0
        sizes: NDArray[np.int64] = partition_sizes(folders, bucket, num_partitions)
        for partition, num_rows in enumerate(sizes.tolist()):
            if num_rows:
                tasks[f"D_{bucket}-{partition:05d}"] = ReduceTask(
                    bucket, partition, num_rows, shard, spills, num_spills, settings
                )
                shard += -(-num_rows // settings.rows_per_shard(bucket))
    return tasks


def shuffle_partition(task: ReduceTask, folder: Path) -> list[dict[str, Any]]:
    """Do one job: write its shards below `folder`, return their manifest lines."""
    settings, bucket = task.settings, task.bucket
    folders = _spill_folders(task.spills, task.num_spills)
    rows = read_partition(folders, bucket, task.partition, settings.dtype)
    assert len(rows) == task.num_rows, f"{len(rows)} rows were spilled, {task.num_rows} counted"
    documents = None
    if settings.has_documents(bucket):
        documents = read_documents(folders, bucket, task.partition)
    order = permutation(stream_key(settings.seed, "shuffle", bucket, task.partition), len(rows))
    size = settings.rows_per_shard(bucket)
    lines: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(rows), size), start=task.first_shard):
        chosen = order[start : start + size]
        shard = write_rows(
            folder / bucket_folder(bucket) / f"{shard_name(number)}.tar",
            rows[chosen],
            documents=None if documents is None else documents[chosen],
            number=number,
            rows_per_record=settings.rows_per_record(bucket),
            format=settings.format,
        )
        lines.append(asdict(shard))
    return lines
