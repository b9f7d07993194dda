"""An index in memory out of a store: a lock, checks, exact lists, copy-on-write snapshots."""

import weakref
from typing import Protocol, Self

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
from fastfill.index.exact import Candidates, approximate_search, exact_search, merged
from fastfill.index.flat_store import FlatStore
from fastfill.index.locks import ReadWriteLock
from fastfill.index.row_set import RowSet


class Store(Protocol):
    """Vectors by row, for one thread at a time, of checked arrays with different rows."""

    scans: bool
    """Whether every search sees all vectors, even where it need not be exact."""

    largest_norm: float
    """Bound on the length of every vector so far."""

    @property
    def count(self) -> int:
        """Return the number of vectors."""
        ...

    def rows(self) -> NDArray[np.int64]:
        """Return the rows, ascending."""
        ...

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows are there."""
        ...

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of the vectors of rows that are there."""
        ...

    def put(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add rows or overwrite their vectors."""
        ...

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows that are there."""
        ...

    def nearest(
        self,
        queries: NDArray[np.float32],
        wanted: int,
        *,
        hidden: RowSet | None = None,
        exact: bool = True,
    ) -> Candidates:
        """Return about the nearest rows that are not hidden; several threads may call it."""
        ...


class CopyOnWrite:
    """What a store held at one moment: the old vectors of all rows changed since.

    Memory grows with the rows changed, up to a second copy of the index. An index forgets a
    snapshot that is released or no longer referenced.
    """

    def __init__(self, index: "StoredIndex") -> None:
        self.index = index
        self.touched = RowSet()
        self.old = FlatStore(index.dim, index.metric)
        self.released = False

    def keep(self, rows: NDArray[np.int64], store: Store) -> None:
        """Save the vectors of rows that are about to change for the first time."""
        fresh = rows[~self.touched.has(rows)]
        there = fresh[store.has(fresh)]
        self.old.put(there, store.vectors(there))
        self.touched.add(fresh)

    def release(self) -> None:
        """Drop the saved vectors."""
        self.index.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class StoredIndex:
    """A `VectorIndex` in memory, of which several threads search and write at a time."""

    persistent = False

    def __init__(self, store: Store, *, dim: int, metric: Metric) -> None:
        check_space(dim, metric)
        self.dim = dim
        self.metric: Metric = metric
        self._store = store
        self._lock = ReadWriteLock()
        self._snapshots: weakref.WeakSet[CopyOnWrite] = weakref.WeakSet()

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Add rows or overwrite their vectors in place.

        Raises:
            ValueError: If shapes, numbers or rows are not usable; nothing is written then.
        """
        checked, array = checked_upsert(rows, vectors, dim=self.dim, metric=self.metric)
        with self._lock.writing():
            self._before_change(checked, deleted=False)
            self._store.put(checked, array)

    def delete(self, rows: ArrayLike) -> None:
        """Remove rows; those that are not there are ignored.

        Raises:
            ValueError: If the rows are not usable.
        """
        checked = checked_rows(rows)
        with self._lock.writing():
            there = checked[self._store.has(checked)]
            self._before_change(there, deleted=True)
            self._store.remove(there)

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
        with self._lock.reading():
            if snapshot is None:
                return self._top(self._store, array, k, exact=exact)
            past = self._own(snapshot)
            unchanged = self._top(self._store, array, k, exact=exact, hidden=past.touched)
            return merged(unchanged, self._top(past.old, array, k, exact=True))

    def count(self) -> int:
        """Return the number of vectors."""
        with self._lock.reading():
            return self._store.count

    def rows(self) -> NDArray[np.int64]:
        """Return the rows that are there, ascending."""
        with self._lock.reading():
            return self._store.rows()

    def snapshot(self) -> CopyOnWrite:
        """Pin what the index holds now; costs nothing until rows change."""
        pinned = CopyOnWrite(self)
        with self._lock.writing():
            self._snapshots.add(pinned)
        return pinned

    def forget(self, snapshot: CopyOnWrite) -> None:
        """Stop saving vectors for a snapshot and drop those saved."""
        with self._lock.writing():
            self._snapshots.discard(snapshot)
            snapshot.released = True
            snapshot.touched, snapshot.old = RowSet(), FlatStore(self.dim, self.metric)

    def flush(self) -> None:
        """Do nothing: the index lives in memory."""

    def close(self) -> None:
        """Drop all vectors."""
        with self._lock.writing():
            self._store = FlatStore(self.dim, self.metric)

    def _before_change(self, rows: NDArray[np.int64], *, deleted: bool) -> None:
        for snapshot in self._snapshots:
            snapshot.keep(rows, self._store)

    def _own(self, snapshot: Snapshot) -> CopyOnWrite:
        if not isinstance(snapshot, CopyOnWrite) or snapshot.index is not self:
            raise ValueError("the snapshot is of another index; take one of this index")
        if snapshot.released:
            raise ValueError("the snapshot is released; take a new one")
        return snapshot

    def _top(
        self,
        store: Store,
        queries: NDArray[np.float32],
        k: int,
        *,
        exact: bool,
        hidden: RowSet | None = None,
    ) -> Hits:
        def scan(part: NDArray[np.float32], wanted: int) -> Candidates:
            return store.nearest(part, wanted, hidden=hidden, exact=True)

        def probe(part: NDArray[np.float32], wanted: int) -> Candidates:
            return store.nearest(part, wanted, hidden=hidden, exact=False)

        metric, norm = self.metric, store.largest_norm
        if exact or store.scans:
            return exact_search(scan, queries, k, metric=metric, largest_norm=norm)
        return approximate_search(probe, scan, queries, k, metric=metric, largest_norm=norm)
