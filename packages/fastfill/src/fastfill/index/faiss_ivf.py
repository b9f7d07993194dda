"""The index for more than about a million vectors: cells of a quantiser that follows the drift.

A backfill moves vectors into the new model's distribution, which cells fitted to the transformed
ones no longer divide evenly; so the quantiser is trained again as vectors are replaced.
"""

import logging
import threading
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfill.config import Metric
from fastfill.index.checks import check_space, checked_vectors
from fastfill.index.flat_store import FlatStore
from fastfill.index.ivf_store import LEAST_PER_CELL, MOST_PER_CELL, IvfStore
from fastfill.index.row_set import RowSet
from fastfill.index.store import Store, StoredIndex
from tenfold.keyed import generator

_log = logging.getLogger(__name__)

COPY_ROWS = 16_384
"""Rows copied under the lock at a time while a quantiser is exchanged."""


class FaissIvf(StoredIndex):
    """Vectors in cells, of which a search probes a few; all of them with `exact`.

    Until there are enough vectors to train on, every search scans them all. A training runs in
    the thread whose upsert is the one too many, on a second copy of the vectors; searches and
    writes of other threads go on. A snapshot's lists are the same at any time only with `exact`.

    Args:
        folder: Ignored: the index lives in memory.
        dim: Width of the vectors.
        metric: What near means.
        cells: Of the quantiser; 0 for four times the root of the number of vectors.
        probes: Cells that a search looks into.
        train_at: Number of vectors from which there are cells.
        retrain_at: Share of vectors written since the last training that starts the next one.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        dim: int,
        metric: Metric,
        cells: int = 0,
        probes: int = 32,
        train_at: int = 10_000,
        retrain_at: float = 0.25,
    ) -> None:
        check_space(dim, metric)
        for name, value, least in (("cells", cells, 0), ("probes", probes, 1)):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if train_at < LEAST_PER_CELL * max(cells, 1):
            raise ValueError(
                f"train_at must be >= {LEAST_PER_CELL} times the cells, got {train_at}; "
                f"use {LEAST_PER_CELL * max(cells, 1)} or fewer cells"
            )
        if not 0 < retrain_at <= 1:
            raise ValueError(f"retrain_at must lie in (0, 1], got {retrain_at}")
        super().__init__(FlatStore(dim, metric), dim=dim, metric=metric)
        self._cells, self._probes = cells, probes
        self._train_at, self._retrain_at = train_at, retrain_at
        self._written = RowSet()  # since the last training
        self._missed: RowSet | None = None  # while a training runs
        self._training = threading.Lock()
        self.trainings = 0

    @property
    def drift(self) -> float:
        """Share of the vectors that were written since the quantiser was trained."""
        with self._lock.reading():
            return len(self._written) / max(self._store.count, 1)

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Add rows or overwrite their vectors; train the quantiser when that is due.

        Raises:
            ValueError: If shapes, numbers or rows are not usable; nothing is written then.
        """
        super().upsert(rows, vectors)
        if self._due() and self._training.acquire(blocking=False):
            try:
                self._exchange(None)
            finally:
                self._training.release()

    def retrain(self, vectors: ArrayLike | None = None) -> None:
        """Fit the cells anew and sort all vectors into them, while queries go on.

        Args:
            vectors: What the cells are fitted to, e.g. a sample of the new model's embeddings
                before a backfill; without it a sample of what the index holds.

        Raises:
            ValueError: If there are fewer than 39 vectors to train on.
        """
        given = vectors
        if given is not None:
            given = checked_vectors(given, dim=self.dim, metric=self.metric, what="vectors")
        with self._training:
            self._exchange(given)

    def close(self) -> None:
        """Drop all vectors."""
        super().close()
        self._written.clear()

    def _due(self) -> bool:
        with self._lock.reading():
            if self._store.scans:
                return self._store.count >= self._train_at
            return len(self._written) > self._retrain_at * self._store.count

    def _exchange(self, training: NDArray[np.float32] | None) -> None:
        with self._lock.writing():
            rows = self._store.rows()
            self._missed = RowSet()
        try:
            sample = self._sample(rows) if training is None else training
            fresh = self._trained(sample, len(rows))
            for start in range(0, len(rows), COPY_ROWS):
                with self._lock.reading():
                    self._copy(rows[start : start + COPY_ROWS], fresh)
            with self._lock.writing():
                self._written = self._catch_up(fresh)
                self._store, self._missed = fresh, None
                self.trainings += 1
        except BaseException:
            with self._lock.writing():
                self._missed = None
            raise
        _log.info("trained %d cells for %d vectors", fresh.cells, fresh.count)

    def _trained(self, sample: NDArray[np.float32], count: int) -> IvfStore:
        most = len(sample) // LEAST_PER_CELL
        if not most:
            raise ValueError(
                f"a quantiser needs {LEAST_PER_CELL} vectors or more, got {len(sample)}"
            )
        cells = min(self._cells or round(4 * count**0.5), most)
        return IvfStore(sample, metric=self.metric, cells=max(cells, 1), probes=self._probes)

    def _sample(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a sample for training, the same for the same rows and number of trainings."""
        cells = self._cells or round(4 * len(rows) ** 0.5)
        if len(rows) > MOST_PER_CELL * cells:
            draw = generator("fastfill.index.faiss_ivf", self.trainings)
            rows = np.sort(draw.choice(rows, MOST_PER_CELL * cells, replace=False))
        with self._lock.reading():
            return self._store.vectors(rows[self._store.has(rows)])

    def _copy(self, rows: NDArray[np.int64], fresh: Store) -> None:
        there = rows[self._store.has(rows)]
        fresh.put(there, self._store.vectors(there))

    def _catch_up(self, fresh: Store) -> RowSet:
        """Repeat on the new store what was written meanwhile; return the rows."""
        assert self._missed is not None
        rows = self._missed.rows()
        gone = rows[~self._store.has(rows)]
        fresh.remove(gone[fresh.has(gone)])
        self._copy(rows, fresh)
        self._missed.discard(gone)
        return self._missed

    def _before_change(self, rows: NDArray[np.int64], *, deleted: bool) -> None:
        super()._before_change(rows, deleted=deleted)
        if deleted:
            self._written.discard(rows)
        else:
            self._written.add(rows)
        if self._missed is not None:
            self._missed.add(rows)
