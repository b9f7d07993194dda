"""What every vector index offers, and the table of backends (spec section 6)."""

import importlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfill.config import Metric
from fastfill.index.row_set import RowSet

BACKENDS = {
    "faiss-flat": "fastfill.index.faiss_flat:FaissFlat",
    "faiss-ivf": "fastfill.index.faiss_ivf:FaissIvf",
    "lancedb": "fastfill.index.lance:LanceIndex",
    "brute": "fastfill.index.brute:BruteForce",
}
"""Names of the backends and where they are."""


class Hits(NamedTuple):
    """The nearest rows of each query, nearest first, the smaller row first among equals.

    Attributes:
        rows: int64 `[Q, k]`; -1 where the index holds fewer than k vectors.
        distances: float32 `[Q, k]`, smaller nearer: the squared distance with `l2`, minus the
            inner product with `cosine` and `ip`; inf where there is no row.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


class Snapshot(Protocol):
    """The index as it was at one moment; costs memory or disk until it is released."""

    def release(self) -> None:
        """Give up the old vectors; a search with this snapshot is an error from now on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class VectorIndex(Protocol):
    """Vectors by row number of the gallery; searches run beside writes in other threads.

    With metric `cosine` vectors and queries are normalised at entry. Vectors are float32
    `[n, dim]` (other floats are converted), rows are int `[n]`, each once in a call.
    """

    dim: int
    metric: Metric
    persistent: bool
    """Whether the vectors outlive the process."""

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Add rows or overwrite their vectors; a search sees all of a call or nothing."""
        ...

    def delete(self, rows: ArrayLike) -> None:
        """Remove rows; those that are not there are ignored."""
        ...

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        snapshot: Snapshot | None = None,
        exact: bool = False,
    ) -> Hits:
        """Return the k nearest rows of each query `[Q, dim]`.

        Args:
            queries: Vectors of the same space.
            k: Length of the lists.
            snapshot: One of this index's: search what it held then.
            exact: No approximation, even where the backend has one: the same lists from every
                backend, and from a snapshot however much is written meanwhile.
        """
        ...

    def count(self) -> int:
        """Return the number of vectors."""
        ...

    def rows(self) -> NDArray[np.int64]:
        """Return the rows that are there, ascending."""
        ...

    def snapshot(self) -> Snapshot:
        """Pin what the index holds now."""
        ...

    def flush(self) -> None:
        """Make everything durable and compact, where the backend is persistent."""
        ...

    def close(self) -> None:
        """Release memory and files; the index is unusable afterwards."""
        ...


def open_index(
    backend: str, folder: Path | None, *, dim: int, metric: Metric, **options: object
) -> VectorIndex:
    """Open an index: empty for the backends in memory, as it was left for the persistent ones.

    Args:
        backend: One of `BACKENDS`: `faiss-flat` is exact, up to about a million vectors;
            `faiss-ivf` probes cells, beyond; `lancedb` is on disk; `brute` is for comparison.
        folder: Where a persistent backend keeps its files; the others ignore it.
        dim: Width of the vectors.
        metric: What near means.
        **options: The backend's own, see its class.

    Raises:
        ValueError: If the backend is unknown, its extra is not installed, or the folder holds an
            index of another space.
    """
    check_backend(backend)
    # It tells which instruction sets it has tried.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    module, name = BACKENDS[backend].split(":")
    return getattr(importlib.import_module(module), name)(folder, dim=dim, metric=metric, **options)


def check_backend(backend: str) -> None:
    """Raise unless `backend` is known; imports nothing.

    Raises:
        ValueError: If it is not one of `BACKENDS`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend}")


def rebuild(index: VectorIndex, batches: Iterable[tuple[ArrayLike, ArrayLike]]) -> int:
    """Make an index hold exactly these vectors while it goes on answering queries.

    Args:
        index: Is overwritten row by row; rows that do not come are deleted at the end.
        batches: Pairs of rows `[n]` and vectors `[n, dim]`, e.g. the gallery's columns by chunk.

    Returns:
        The number of rows that came.
    """
    seen = RowSet()
    for rows, vectors in batches:
        index.upsert(rows, vectors)
        seen.add(np.asarray(rows, dtype=np.int64))
    there = index.rows()
    index.delete(there[~seen.has(there)])
    index.flush()
    return len(seen)
