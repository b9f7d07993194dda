"""The plainest index: numpy, double precision, all distances; what the others are compared with."""

import threading
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfill.config import Metric
from fastfill.index.base import Hits, Snapshot
from fastfill.index.checks import (
    check_k,
    check_space,
    checked_rows,
    checked_upsert,
    checked_vectors,
)
from fastfill.index.exact import distances, top


class _Held(NamedTuple):
    """Ascending rows and their vectors; replaced as a whole, never written to."""

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]


class BruteSnapshot:
    """The arrays as they were; a write makes new ones."""

    def __init__(self, index: "BruteForce", held: _Held) -> None:
        self.index = index
        self.held: _Held | None = held

    def release(self) -> None:
        """Drop the arrays."""
        self.held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class BruteForce:
    """Every write copies all vectors and every search computes all distances.

    Args:
        folder: Ignored: the index lives in memory.
        dim: Width of the vectors.
        metric: What near means.
    """

    persistent = False

    def __init__(self, folder: Path | None = None, *, dim: int, metric: Metric) -> None:
        check_space(dim, metric)
        self.dim = dim
        self.metric: Metric = metric
        self._writing = threading.Lock()
        self._held = _Held(np.zeros(0, np.int64), np.zeros((0, dim), np.float32))

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Add rows or replace their vectors.

        Raises:
            ValueError: If shapes, numbers or rows are not usable; nothing is written then.
        """
        new, array = checked_upsert(rows, vectors, dim=self.dim, metric=self.metric)
        with self._writing:
            stay = ~np.isin(self._held.rows, new)
            all_rows = np.concatenate([self._held.rows[stay], new])
            order = np.argsort(all_rows)
            all_vectors = np.concatenate([self._held.vectors[stay], array])
            self._held = _Held(all_rows[order], all_vectors[order])

    def delete(self, rows: ArrayLike) -> None:
        """Remove rows; those that are not there are ignored.

        Raises:
            ValueError: If the rows are not usable.
        """
        gone = checked_rows(rows)
        with self._writing:
            stay = ~np.isin(self._held.rows, gone)
            self._held = _Held(self._held.rows[stay], self._held.vectors[stay])

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        snapshot: Snapshot | None = None,
        exact: bool = False,
    ) -> Hits:
        """Return the k nearest rows of each query, see `VectorIndex.search`.

        Raises:
            ValueError: If queries or k are not usable, or the snapshot is released or another
                index's.
        """
        check_k(k)
        array = checked_vectors(queries, dim=self.dim, metric=self.metric, what="queries")
        held = self._held if snapshot is None else self._pinned(snapshot)
        exactly = np.zeros((len(array), len(held.rows)))
        for place, query in enumerate(array):
            exactly[place] = distances(query[None], held.vectors[None], self.metric)[0]
        return top(np.broadcast_to(held.rows, exactly.shape), exactly, k)

    def count(self) -> int:
        """Return the number of vectors."""
        return len(self._held.rows)

    def rows(self) -> NDArray[np.int64]:
        """Return the rows that are there, ascending."""
        return self._held.rows.copy()

    def snapshot(self) -> BruteSnapshot:
        """Pin what the index holds now."""
        return BruteSnapshot(self, self._held)

    def flush(self) -> None:
        """Do nothing: the index lives in memory."""

    def close(self) -> None:
        """Drop all vectors."""
        self._held = _Held(np.zeros(0, np.int64), np.zeros((0, self.dim), np.float32))

    def _pinned(self, snapshot: Snapshot) -> _Held:
        if not isinstance(snapshot, BruteSnapshot) or snapshot.index is not self:
            raise ValueError("the snapshot is of another index; take one of this index")
        if snapshot.held is None:
            raise ValueError("the snapshot is released; take a new one")
        return snapshot.held
