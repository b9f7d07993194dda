"""The gallery of a retrieval service while its model is replaced: the source of truth (spec 3, 9).

Every change goes to the journal first and to the columns once it is durable there. One process
writes; others read, follow its changes, and leave theirs in the inbox (`pending`).
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastfill.gallery import pending, records
from fastfill.gallery.build import array_parts, build_gallery, check_order, ranks_of
from fastfill.gallery.failures import RetryPolicy
from fastfill.gallery.item_ids import check_ids
from fastfill.gallery.journal import Record
from fastfill.gallery.lock import GalleryBusyError, WriterLock
from fastfill.gallery.progress import note_progress
from fastfill.gallery.state import (
    NO_VINTAGE,
    OLD_COLUMNS,
    Dtype,
    GalleryCards,
    GalleryState,
    Status,
    Version,
    read_state,
)
from fastfill.gallery.vectors import Checked, check_entering, require_good
from fastfill.gallery.writing import GalleryWriter

LOG = logging.getLogger(__name__)

_CHUNK = 65536


class Applied(NamedTuple):
    """What became of a batch.

    Attributes:
        rows: That now hold the new vector.
        rejected: Rows whose vector was bad, with the reason; they count as failed.
        passed_over: Rows that were deleted or had a new vector already.
    """

    rows: NDArray[np.int64]
    rejected: dict[int, str]
    passed_over: NDArray[np.int64]


class Gallery(GalleryWriter):
    """A gallery; `Gallery.open(folder, mode="w")` for the one process that writes.

    Rows are numbers, ids are text; a row belongs to one item for ever.
    """

    @classmethod
    def create(
        cls,
        folder: Path,
        ids: Iterable[str],
        old: NDArray[Any],
        z: NDArray[Any],
        s: NDArray[Any],
        *,
        cards: GalleryCards,
        side: NDArray[Any] | None = None,
        vintage: NDArray[Any] | None = None,
        version: NDArray[Any] | None = None,
        order: NDArray[np.int64] | None = None,
        dtype: Dtype = "float32",
        backend: str = "faiss-flat",
        backend_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a new gallery, whole or not at all; its metric is that of `cards.new`.

        Args:
            folder: Must not exist.
            ids: One text for each item, all different.
            old: Old embeddings `[N, d_o]`, filled with zeros where a vintage is narrower.
            z: Transformed embeddings `[N, d_n]`; normalised here where the metric is cosine.
            s: Log-variances `[N]`.
            cards: Of the models.
            side: Side information `[N, d_s]`.
            vintage: Position in `cards.old` of each item's model; 0 if absent.
            version: `Version` of each item; transformed if absent.
            order: Rows in the order of embedding; by falling `s` if absent.
            dtype: Of the stored vectors.
            backend: Of the index.
            backend_options: Of the index.

        Raises:
            FileExistsError: `folder` is there.
            ValueError: Ids are double, vectors bad, shapes do not fit.
        """
        state = GalleryState(
            cards=cards,
            backend=backend,
            backend_options=dict(backend_options or {}),
            dtype=dtype,
            side_dim=0 if side is None else side.shape[1],
        )
        parts = array_parts(old, z, s, side=side, vintage=vintage, version=version)
        build_gallery(folder, state, ids, parts, order=order)

    @classmethod
    def open(
        cls, folder: Path, mode: Literal["r", "w"] = "r", *, retry: RetryPolicy | None = None
    ) -> Self:
        """Open a gallery to read it, or as the only one that writes it.

        What a crash left in the journal is applied now; a second writer is refused.

        Raises:
            FileNotFoundError: There is no gallery.
            GalleryBusyError: Another process writes it.
            ValueError: It is damaged.
        """
        if mode not in ("r", "w"):
            raise ValueError(f"mode must be r or w, got {mode!r}")
        folder = Path(folder)
        read_state(folder)
        if mode == "r":
            return cls(folder, retry=retry)
        lock = WriterLock(folder)
        try:
            return cls(folder, retry=retry, lock=lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open_alone(cls, folder: Path, *, instead: str) -> Self:
        """Open a gallery to write it; where another process does, say what to do instead.

        Raises:
            FileNotFoundError: There is no gallery.
            GalleryBusyError: Another process writes it.
            ValueError: It is damaged.
        """
        try:
            return cls.open(folder, "w")
        except GalleryBusyError as error:
            raise GalleryBusyError(f"{error}. {instead}") from None

    def apply(self, rows: NDArray[np.int64], vectors: NDArray[np.floating]) -> Applied:
        """Give rows their vectors of the new model, durable on return.

        Deleted rows and those that have one are passed over; a bad vector counts as a failure.

        Args:
            rows: int64 `[n]`.
            vectors: `[n, d_n]`.

        Raises:
            OSError: The disk is full; nothing has changed.
            ValueError: Shapes do not fit, or a row does not exist.
        """
        applied = self._apply_good(rows, vectors)
        if applied.rejected:
            self._commit(self._failure_record(applied.rejected))
        return applied

    def fail(self, row: int, reason: str) -> None:
        """Note that an item could not be embedded; it stays, and is tried again later.

        Raises:
            OSError: The disk is full; nothing has changed.
            ValueError: There is no such row.
        """
        self._commit(self._failure_record({row: reason}))

    def retry_failed(self) -> int:
        """Put all failed items back into the queue at once and return how many there are."""
        rows = np.flatnonzero(self.statuses() == Status.FAILED)
        self._commit(records.retried(rows))
        self._requeue()
        return len(rows)

    def add(self, ids: Sequence[str], vectors: NDArray[np.floating]) -> NDArray[np.int64]:
        """Add items that the new model has embedded, and return their rows.

        Raises:
            OSError: The disk is full; nothing has changed.
            ValueError: An id is there already, a vector bad, or shapes do not fit.
        """
        return self._add(ids, vectors, extra={})

    def delete(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Delete items, erase their vectors, and return their rows.

        Raises:
            OSError: The disk is full; nothing has changed.
            ValueError: An item does not exist.
        """
        return self._delete(ids, extra={})

    def set_order(self, order: NDArray[np.int64]) -> None:
        """Embed rows in this order from now on; rows that it leaves out are not embedded.

        Raises:
            OSError: The disk is full; nothing has changed.
            ValueError: A row is there twice or does not exist, or the gallery is finalised.
        """
        self._require_backfilling("an order")
        ranks = ranks_of(check_order(order, self.size), self.size)
        rows = np.arange(self.size)
        self._commit(Record(op="order", rows=rows, columns={"rank": ranks}))
        self._requeue()

    def rollback(
        self,
        to: Literal["transformed", "old", "new"],
        *,
        z: Callable[[NDArray[np.int64]], NDArray[np.floating]] | None = None,
    ) -> int:
        """Go back to vectors of h, or to the old model's, and return how many rows changed.

        To `old` changes which column is searched and touches no vector; only items that the old
        model has embedded are found then. `new` is the way forward from there: what had a new
        vector is found by it again. To `transformed` replaces the new model's vectors, those that
        still lie in the inbox too, and puts their items back into the queue; it is searched with
        the new model again. Items that were added with a new vector keep it.

        Args:
            to: `transformed`, `old` or `new`.
            z: Gives the vectors of h `[n, d_n]` of rows, needed for `transformed`.

        Raises:
            ValueError: The gallery is finalised, or `z` is missing or gives bad vectors.
        """
        self._require_backfilling("a roll-back")
        if to in ("old", "new"):
            return self._serve(to)
        if to != "transformed" or z is None:
            raise ValueError(f"to must be old, new, or transformed with z, got {to!r}")
        self.apply_pending()
        mine = self.vintages() != NO_VINTAGE
        rows = np.flatnonzero((self.statuses() != Status.DELETED) & mine)
        rows = rows[self.versions()[rows] == Version.NEW]
        for start in range(0, len(rows), _CHUNK):
            self._restore(rows[start : start + _CHUNK], z)
        self._serve("new")
        self._queue = None
        self._start_journal(replace(self._state, epoch=self._state.epoch + 1))
        return len(rows)

    def finalise(self, *, force: bool = False) -> None:
        """Remove old embeddings, side information and order; there is no way back.

        Args:
            force: Even while items are left, which keep the vectors of h for good.

        Raises:
            ValueError: Items wait or have failed, or the old model is searched with.
        """
        if self._state.phase == "final":
            return
        left = self.counts().waiting
        if left and not force:
            raise ValueError(
                f"{left} of {self.counts().live} items have no vector of the new model yet; go on "
                "with the backfill, or force to keep what they have"
            )
        if self._state.serving == "old":
            raise ValueError(
                "the old model is searched with; go forward to new, or roll back to transformed "
                "first"
            )
        self._start_journal(replace(self._state, phase="final"))
        self._columns.drop([name for name in OLD_COLUMNS if name in self._columns])

    def apply_pending(self, *, limit: int | None = None) -> int:
        """Apply changes from the inbox, each exactly once, and return how many.

        A change that cannot be applied is set aside with a warning.

        Raises:
            OSError: The disk is full; what was not applied stays in the inbox.
        """
        paths = pending.waiting(self.folder)[:limit]
        for path in paths:
            try:
                self._apply_message(pending.read_message(path), path.name)
            except ValueError as error:
                pending.reject(path, error)
        return len(paths)

    def _requeue(self) -> None:
        """Look at the whole order again, readers too: a new journal tells them."""
        self._queue = None
        self.checkpoint()

    def _apply_good(self, rows: NDArray[np.int64], vectors: NDArray[np.floating]) -> Applied:
        rows = self._check_rows(rows)
        if len(np.unique(rows)) < len(rows):
            raise ValueError("a row is there twice in one batch; give each row one vector")
        checked = self._check_entering(vectors, len(rows))
        open_ = self._columns["status"][rows] != Status.DELETED
        open_ &= self._columns["version"][rows] != Version.NEW
        good = open_.copy()
        good[list(checked.problems)] = False
        done = rows[good]
        if len(done):
            self._commit(records.replaced("new", done, checked.vectors[good], Version.NEW))
            note_progress(self.folder, self._count_new, now=time.time())
        bad = {int(rows[i]): reason for i, reason in checked.problems.items() if open_[i]}
        return Applied(done, bad, rows[~open_])

    def _count_new(self) -> int:
        return int((self.versions() == Version.NEW).sum())

    def _failure_record(
        self, reasons: Mapping[int, str], *, extra: Mapping[str, Any] | None = None
    ) -> Record:
        rows = self._check_rows(np.array(sorted(reasons), dtype=np.int64))
        deleted = self._columns["status"][rows] == Status.DELETED
        rows = rows[~(deleted | (self._columns["version"][rows] == Version.NEW))]
        kept = {row: reasons[row] for row in rows.tolist()}
        ids = dict(zip(kept, self.id_of(rows), strict=True))
        return records.failed(kept, ids, self._columns, now=time.time(), extra=extra or {})

    def _add(
        self, ids: Sequence[str], vectors: NDArray[np.floating], *, extra: Mapping[str, Any]
    ) -> NDArray[np.int64]:
        ids = check_ids(ids)
        if there := [item for item in ids if item in self]:
            raise ValueError(f"{len(there)} ids are there already, the first is {there[0]!r:.80}")
        checked = self._check_entering(vectors, len(ids))
        rows = np.arange(self.size, self.size + len(ids))
        good = require_good(checked, what="vectors")
        self._columns.reserve(self.size + len(ids))  # before the journal: it may fail
        self._commit(records.added(rows, ids, good, extra=extra))
        return rows

    def _delete(self, ids: Sequence[str], *, extra: Mapping[str, Any]) -> NDArray[np.int64]:
        rows = np.array([self.row_of(item) for item in check_ids(ids)], dtype=np.int64)
        self._commit(records.deleted(rows, self._columns, extra=extra))
        return rows

    def _restore(
        self, rows: NDArray[np.int64], z: Callable[[NDArray[np.int64]], NDArray[np.floating]]
    ) -> None:
        checked = self._check_entering(z(rows), len(rows), what="z")
        good = require_good(checked, what="transformed vectors")
        self._commit(records.replaced("transformed", rows, good, Version.TRANSFORMED))

    def _serve(self, serving: Literal["new", "old"]) -> int:
        """Search in another space from now on; who follows must read everything again."""
        self._require_sound()
        if self._state.serving == serving:
            return 0
        if serving == "old" and len({card.weights_sha256 for card in self._state.cards.old}) > 1:
            raise ValueError("items of several old models cannot be searched in one old space")
        self._start_journal(replace(self._state, serving=serving), keep_previous=False)
        return len(self.live_rows())

    def _apply_message(self, message: pending.Message, name: str) -> None:
        extra = {"consumed": name}
        vectors = message.vectors
        if vectors is None:
            vectors = np.empty((0, self._state.cards.new.dim), dtype=np.float32)
        if message.kind == "add":
            self._add(message.ids, vectors, extra=extra)
        elif message.kind == "delete":
            self._delete(message.ids, extra=extra)
        else:
            if message.epoch != self._state.epoch:
                self._drop_late(message, name)
                return
            self._check_rows(np.array(sorted(message.reasons), dtype=np.int64))
            applied = self._apply_good(message.rows, vectors)
            reasons = {**applied.rejected, **message.reasons}
            self._commit(self._failure_record(reasons, extra=extra))

    def _drop_late(self, message: pending.Message, name: str) -> None:
        """Forget a result of before a roll-back; its items wait in the queue again."""
        LOG.warning(
            "dropped %s: its %d items were taken before the last roll-back", name, len(message)
        )
        (self.folder / pending.PENDING / name).unlink(missing_ok=True)

    def _check_entering(
        self, vectors: NDArray[np.floating], count: int, *, what: str = "vectors"
    ) -> Checked:
        card, dtype = self._state.cards.new, self._state.dtype
        checked = check_entering(vectors, dim=card.dim, metric=card.metric, dtype=dtype, what=what)
        if len(checked.vectors) != count:
            raise ValueError(f"{count} items need as many {what}, got {len(checked.vectors)}")
        return checked

    def _require_backfilling(self, what: str) -> None:
        if self._state.phase == "final":
            raise ValueError(f"{self.folder} is finalised: {what} needs the old embeddings")
