"""Rows between the map and the reduce phase, in runs that are sorted by partition.

A task appends a run whenever its buffer is full: rows in partition order, raw, and their document
numbers, where they have some, in a file beside it. `runs.npy`, int64 `[runs, partitions]`, says how
many rows of each partition a run has. So a reducer reads one slice per run, there are two or three
files per task and bucket whatever the number of partitions, and memory is bounded by the buffer
here and by one partition there.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.packing import document_dtype


class SpillWriter:
    """Write one task's rows below `folder`. Use as a context manager."""

    def __init__(self, folder: Path, *, num_partitions: int, buffer_bytes: int) -> None:
        """Keep up to `buffer_bytes` of rows in memory between two runs."""
        self._folder = folder
        self._num_partitions = num_partitions
        self._buffer_bytes = buffer_bytes
        self._buffered = 0
        self._rows: dict[int, list[NDArray[Any]]] = defaultdict(list)
        self._documents: dict[int, list[NDArray[Any]]] = defaultdict(list)
        self._partitions: dict[int, list[int]] = defaultdict(list)
        self._files: dict[Path, IO[bytes]] = {}
        self._runs: dict[int, list[NDArray[np.int64]]] = defaultdict(list)

    def __enter__(self) -> "SpillWriter":
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                for bucket, runs in self._runs.items():
                    np.save(runs_path(self._folder, bucket), np.stack(runs))
        finally:
            for file in self._files.values():
                file.close()

    def add(
        self,
        bucket: int,
        row: NDArray[Any],
        partition: int,
        *,
        documents: NDArray[Any] | None = None,
    ) -> None:
        """Add one row of `2^bucket + 1` tokens; all rows of a bucket come with documents or none.

        Args:
            bucket: Exponent.
            row: Tokens.
            partition: Where it goes.
            documents: Numbers of the documents, of type `document_dtype(bucket)`.
        """
        self._rows[bucket].append(row)
        self._partitions[bucket].append(partition)
        self._buffered += row.nbytes
        if documents is not None:
            self._documents[bucket].append(documents)
            self._buffered += documents.nbytes
        if self._buffered >= self._buffer_bytes:
            self._flush()

    def _flush(self) -> None:
        for bucket, rows in self._rows.items():
            partitions = np.array(self._partitions[bucket])
            order = np.argsort(partitions, kind="stable")
            self._append(rows_path(self._folder, bucket), np.stack(rows)[order])
            if documents := self._documents[bucket]:
                assert len(documents) == len(rows), "some rows came without their documents"
                self._append(documents_path(self._folder, bucket), np.stack(documents)[order])
            counts = np.bincount(partitions, minlength=self._num_partitions)
            self._runs[bucket].append(counts.astype(np.int64))
        self._rows.clear()
        self._documents.clear()
        self._partitions.clear()
        self._buffered = 0

    def _append(self, path: Path, rows: NDArray[Any]) -> None:
        if path not in self._files:
            self._files[path] = path.open("wb")
        # ndarray.tofile would lose the reason of a failure, such as a full disk.
        self._files[path].write(rows.data)


def rows_path(folder: Path, bucket: int) -> Path:
    """Return the file of a task's rows of `bucket`."""
    return folder / f"D_{bucket}.rows"


def documents_path(folder: Path, bucket: int) -> Path:
    """Return the file of the document numbers of a task's rows of `bucket`."""
    return folder / f"D_{bucket}.documents"


def runs_path(folder: Path, bucket: int) -> Path:
    """Return the file that says how a task's rows of `bucket` are split."""
    return folder / f"D_{bucket}.runs.npy"


def partition_sizes(folders: list[Path], bucket: int, num_partitions: int) -> NDArray[np.int64]:
    """Count the rows of each partition over all tasks, int64 `[num_partitions]`."""
    sizes = np.zeros(num_partitions, dtype=np.int64)
    for folder in folders:
        if runs_path(folder, bucket).exists():
            sizes += np.load(runs_path(folder, bucket), allow_pickle=False).sum(axis=0)
    return sizes


def read_partition(
    folders: list[Path], bucket: int, partition: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Read all rows of one partition in the order of tasks, `[n, 2^bucket + 1]`."""
    return _read(folders, bucket, partition, dtype, rows_path)


def read_documents(folders: list[Path], bucket: int, partition: int) -> NDArray[Any]:
    """Read the document numbers of the rows that `read_partition` returns."""
    return _read(folders, bucket, partition, document_dtype(bucket), documents_path)


def _read(
    folders: list[Path],
    bucket: int,
    partition: int,
    dtype: np.dtype[Any],
    path_of: Callable[[Path, int], Path],
) -> NDArray[Any]:
    width = (1 << bucket) + 1
    used = [folder for folder in folders if runs_path(folder, bucket).exists()]
    runs = [np.load(runs_path(folder, bucket), allow_pickle=False) for folder in used]
    rows = np.empty((sum(int(run[:, partition].sum()) for run in runs), width), dtype=dtype)
    filled = 0
    for folder, counts in zip(used, runs, strict=True):
        starts = np.cumsum(counts.ravel()).reshape(counts.shape) - counts
        stored = np.memmap(path_of(folder, bucket), dtype=dtype, mode="r").reshape(-1, width)
        for start, count in zip(starts[:, partition], counts[:, partition], strict=True):
            rows[filled : filled + count] = stored[start : start + count]
            filled += count
    return rows
