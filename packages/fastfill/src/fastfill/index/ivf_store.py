"""Vectors in the cells of a trained quantiser (faiss' IVFFlat): a search probes a few cells."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfill.config import Metric
from fastfill.index.exact import Candidates
from fastfill.index.flat_store import longest, native, no_candidates
from fastfill.index.row_set import RowSet

LEAST_PER_CELL = 39
"""Training vectors a cell below which faiss warns of a poor quantiser."""

MOST_PER_CELL = 256
"""Training vectors a cell beyond which faiss draws a sample."""


class IvfStore:
    """Rows and vectors without locks or checks; see `store.Store` for what the methods do.

    A changed vector moves to its new cell; the hash table behind the row numbers makes that
    constant time. faiss' array map would forbid removals.

    Args:
        training: Vectors `[n, dim]` that the cells are fitted to.
        metric: What near means.
        cells: How many.
        probes: Cells that a search which need not be exact looks into.
    """

    scans = False

    def __init__(
        self, training: NDArray[np.float32], *, metric: Metric, cells: int, probes: int
    ) -> None:
        dim = training.shape[1]
        kind = native.METRIC_L2 if metric == "l2" else native.METRIC_INNER_PRODUCT
        self._quantiser = native.IndexFlat(dim, kind)
        self._index = native.IndexIVFFlat(self._quantiser, dim, cells, kind)
        # Without it long centroids would draw all vectors of an inner product.
        self._index.cp.spherical = metric != "l2"
        self._index.train(training)
        self._index.set_direct_map_type(native.DirectMap.Hashtable)
        self._there = RowSet()
        self._probes = min(probes, cells)
        self.cells = cells
        self.largest_norm = 0.0

    @property
    def count(self) -> int:
        """The number of vectors."""
        return len(self._there)

    def rows(self) -> NDArray[np.int64]:
        """Return the rows, ascending."""
        return self._there.rows()

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows are there."""
        return self._there.has(rows)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of the vectors of rows that are there."""
        if not rows.size:
            return np.zeros((0, self._index.d), dtype=np.float32)
        return self._index.reconstruct_batch(rows)

    def put(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add rows to the cells of their vectors, taking them out of their old cells first."""
        if not rows.size:
            return
        self.remove(rows[self.has(rows)])
        self._index.add_with_ids(vectors, rows)
        self._there.add(rows)
        self.largest_norm = max(self.largest_norm, longest(vectors))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows that are there."""
        if rows.size:
            self._index.remove_ids(native.IDSelectorArray(rows))
            self._there.discard(rows)

    def nearest(
        self,
        queries: NDArray[np.float32],
        wanted: int,
        *,
        hidden: RowSet | None = None,
        exact: bool = True,
    ) -> Candidates:
        """Look into the nearest cells, or into all, for rows that are not hidden."""
        wanted = min(wanted, self.count)
        if not wanted:
            return no_candidates(queries)
        parameters = native.SearchParametersIVF(
            nprobe=self.cells if exact else self._probes,
            sel=None if hidden is None else _all_but(hidden),
        )
        _, rows = self._index.search(queries, wanted, params=parameters)
        vectors = np.zeros((*rows.shape, queries.shape[1]), dtype=np.float32)
        vectors[rows >= 0] = self.vectors(rows[rows >= 0])
        return Candidates(rows, vectors)


def _all_but(hidden: RowSet) -> Any:
    """Select rows that are not in the bitmap; those beyond its end are not."""
    return native.IDSelectorNot(native.IDSelectorBitmap(hidden.bits()))
