"""Vectors in faiss' flat storage, overwritten in place: a full scan answers every search.

`IndexIDMap2` would cost a pass over all vectors for a removal; here a map from rows to slots and a
swap with the last slot make every change proportional to what changes.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from fastfill.config import Metric
from fastfill.index.exact import Candidates
from fastfill.index.row_set import RowSet, grown

native: Any = faiss  # its constructors take keywords that a type checker cannot see


class FlatStore:
    """Rows and vectors without locks or checks; see `store.Store` for what the methods do."""

    scans = True

    def __init__(self, dim: int, metric: Metric) -> None:
        self._index = native.IndexFlatL2(dim) if metric == "l2" else native.IndexFlatIP(dim)
        self._dim = dim
        self._slot_of = np.full(0, -1, dtype=np.int64)
        self._row_in = np.full(0, -1, dtype=np.int64)
        self.largest_norm = 0.0

    @property
    def count(self) -> int:
        """The number of vectors."""
        return self._index.ntotal

    def rows(self) -> NDArray[np.int64]:
        """Return the rows, ascending."""
        return np.flatnonzero(self._slot_of >= 0).astype(np.int64)

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows are there."""
        return self._slots(rows) >= 0

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of the vectors of rows that are there."""
        return self._matrix()[self._slot_of[rows]]

    def put(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Overwrite rows that are there, append the others."""
        if not rows.size:
            return
        slots = self._slots(rows)
        old, new = slots >= 0, slots < 0
        self._matrix()[slots[old]] = vectors[old]
        if new.any():
            self._append(rows[new], np.ascontiguousarray(vectors[new]))
        self.largest_norm = max(self.largest_norm, longest(vectors))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows that are there: vectors from the end fill the holes."""
        holes = self._slot_of[rows]
        left = self.count - rows.size
        tail = np.arange(left, self.count)
        movers = tail[~np.isin(tail, holes)]
        holes = holes[holes < left]
        matrix = self._matrix()
        matrix[holes] = matrix[movers]
        self._slot_of[self._row_in[movers]] = holes
        self._row_in[holes] = self._row_in[movers]
        self._slot_of[rows] = -1
        self._index.remove_ids(native.IDSelectorRange(left, self.count))

    def nearest(
        self,
        queries: NDArray[np.float32],
        wanted: int,
        *,
        hidden: RowSet | None = None,
        exact: bool = True,
    ) -> Candidates:
        """Scan all vectors but those of hidden rows."""
        wanted = min(wanted, self.count)
        if not wanted:
            return no_candidates(queries)
        parameters = None if hidden is None else self._all_but(hidden)
        _, slots = self._index.search(queries, wanted, params=parameters)
        found = slots >= 0
        rows = np.where(found, self._row_in[np.where(found, slots, 0)], -1)
        return Candidates(rows, self._matrix()[np.where(found, slots, 0)])

    def _append(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        start = self.count
        self._index.add(vectors)
        self._slot_of = grown(self._slot_of, int(rows.max()) + 1, -1)
        self._row_in = grown(self._row_in, self.count, -1)
        self._slot_of[rows] = np.arange(start, self.count)
        self._row_in[start : self.count] = rows

    def _slots(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        slots = np.full(rows.shape, -1, dtype=np.int64)
        known = rows < self._slot_of.size
        slots[known] = self._slot_of[rows[known]]
        return slots

    def _matrix(self) -> NDArray[np.float32]:
        """View faiss' own memory; it moves when vectors are added or removed."""
        if not self.count:
            return np.zeros((0, self._dim), dtype=np.float32)
        flat = native.rev_swig_ptr(self._index.get_xb(), self.count * self._dim)
        return flat.reshape(self.count, self._dim)

    def _all_but(self, hidden: RowSet) -> Any:
        bits = np.packbits(hidden.has(self._row_in[: self.count]), bitorder="little")
        return native.SearchParameters(sel=native.IDSelectorNot(native.IDSelectorBitmap(bits)))


def longest(vectors: NDArray[np.float32]) -> float:
    """Return the length of the longest vector, 0 without any."""
    return float(np.linalg.norm(vectors.astype(np.float64), axis=1).max(initial=0.0))


def no_candidates(queries: NDArray[np.float32]) -> Candidates:
    """Return what a store without vectors finds."""
    number, dim = queries.shape
    return Candidates(
        np.zeros((number, 0), dtype=np.int64), np.zeros((number, 0, dim), dtype=np.float32)
    )
