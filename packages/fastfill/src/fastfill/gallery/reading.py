"""A gallery as any process may see it: items, vectors, progress, what is next, what changed."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfill.card import ModelCard
from fastfill.gallery.backfill_queue import BackfillQueue, due_rows, failed_rows, retry_times
from fastfill.gallery.columns import Columns
from fastfill.gallery.failures import Failure, Failures, RetryPolicy
from fastfill.gallery.item_ids import ItemIds
from fastfill.gallery.journal import Entry, read_base, read_entries
from fastfill.gallery.state import (
    NO_VINTAGE,
    GalleryState,
    Status,
    Version,
    journal_path,
    read_state,
)

_CHUNK = 65536


class Counts(NamedTuple):
    """How many items a gallery has of each kind.

    Attributes:
        live: All that can be found: the sum of `new`, `transformed` and `old`.
        new: With a vector of the new model.
        transformed: With a vector of h.
        old: With a vector of the old model, in a gallery without a map.
        waiting: To be embedded, failed ones included.
        failed: Whose last attempt failed; still found by their vector.
        deleted: No more there.
    """

    live: int
    new: int
    transformed: int
    old: int
    waiting: int
    failed: int
    deleted: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one record of the journal changed, for who keeps an index.

    Attributes:
        sequence: To go on from.
        kind: `new` vectors, `added`, `deleted`, `failed`, `transformed` (rolled back), `retry`; or
            `reload`: changes are no more told one by one, read everything.
        rows: int64 `[n]`.
        vectors: float32 `[n, d]` where they changed.
        ids: Of added items.
    """

    sequence: int
    kind: str
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    vectors: NDArray[np.float32] | None = None
    ids: tuple[str, ...] = ()


class _GapError(Exception):
    """Journals do not tell everything that changed since."""


class GalleryReader:
    """A gallery opened for reading; `refresh` shows what a writer has done since.

    Args:
        folder: Of the gallery.
        retry: When failed items are tried again.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: It is damaged.
    """

    def __init__(self, folder: Path, *, retry: RetryPolicy | None = None) -> None:
        self.folder = folder
        self.retry = RetryPolicy() if retry is None else retry
        self._queue: BackfillQueue | None = None
        self._followed: dict[int, tuple[int, int]] = {}
        self._load()

    @property
    def state(self) -> GalleryState:
        """Return models, types and phase."""
        return self._state

    @property
    def size(self) -> int:
        """Number of rows, those of deleted items included."""
        return self._ids.size

    @property
    def dim(self) -> int:
        """Width of the vectors that are searched."""
        return self._state.serving_card.dim

    @property
    def sequence(self) -> int:
        """Return the number of the last change that `vectors` surely shows; follow from there.

        The writer touches the columns after the journal: the journal's last record may be on its
        way, all before it have arrived.
        """
        base = read_base(journal_path(self.folder, self._state.generation))
        last = base
        for entry in self._entries(after=base):
            last = entry.sequence
        return max(base, last - 1)

    def refresh(self) -> None:
        """Read what other processes have written."""
        state = read_state(self.folder)
        if state != self._state:
            self._load()
            return
        self._ids.read_more()
        self._failures.read_more()
        if self._columns.capacity < self.size:
            self._columns.reopen()

    def counts(self) -> Counts:
        """Return how many items there are of each kind."""
        status, version = self.statuses(), self.versions()
        live = status != Status.DELETED
        by_version = np.bincount(version[live], minlength=3).tolist()
        waiting = live & (version != Version.NEW) if self._state.phase != "final" else ~live & live
        return Counts(
            live=int(live.sum()),
            new=by_version[Version.NEW],
            transformed=by_version[Version.TRANSFORMED],
            old=by_version[Version.OLD],
            waiting=int(waiting.sum()),
            failed=int((status == Status.FAILED).sum()),
            deleted=int((~live).sum()),
        )

    @property
    def progress(self) -> float:
        """Share of live items that have the new model's vector; 1 for an empty gallery."""
        counts = self.counts()
        return counts.new / counts.live if counts.live else 1.0

    def versions(self) -> NDArray[np.uint16]:
        """Return the version of every row, see `Version`."""
        return np.array(self._columns["version"][: self.size])

    def statuses(self) -> NDArray[np.uint8]:
        """Return the status of every row, see `Status`."""
        return np.array(self._columns["status"][: self.size])

    def vintages(self) -> NDArray[np.uint16]:
        """Return which old model each row came from, a position in `state.cards.old`."""
        return np.array(self._columns["vintage"][: self.size])

    def column(self, name: str) -> NDArray[Any]:
        """Return a whole column, read-only: `vec`, `old`, `side`, `s`, `rank`, `attempts`.

        Raises:
            ValueError: The gallery has no such column.
        """
        if name not in self._columns:
            raise ValueError(
                f"the gallery has no column {name}; it has {', '.join(sorted(self._columns.specs))}"
            )
        view = np.asarray(self._columns[name][: self.size])
        view.flags.writeable = False
        return view

    def describe(self, rows: NDArray[np.int64]) -> list[str]:
        """Return in words what the vector of each row is: `h(<old model>)` or `<new model>`.

        While the old model is searched with it is that one, or `NOT_SEARCHED` for items that were
        added with a vector of the new model alone.
        """
        names = self._state.names_of_versions()
        words = []
        for row in np.asarray(rows, dtype=np.int64).tolist():
            version, vintage = self._columns["version"][row], self._columns["vintage"][row]
            version = Version.OLD if self._state.serving == "old" else version
            key = f"{version:d}" if version == Version.NEW else f"{version:d}/{vintage:d}"
            words.append(names[key])
        return words

    def live_rows(self) -> NDArray[np.int64]:
        """Return the rows that can be found, ascending."""
        live = self.statuses() != Status.DELETED
        if self._state.serving == "old":
            live &= self.vintages() != NO_VINTAGE
        return np.flatnonzero(live)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors `[n, dim]` that rows are searched by.

        Raises:
            ValueError: A row does not exist, or was added and has none of the old model, which is
                searched with now.
        """
        rows = self._check_rows(rows)
        name = "vec" if self._state.serving == "new" else "old"
        if name == "old" and (lacking := rows[self._columns["vintage"][rows] == NO_VINTAGE]).size:
            raise ValueError(
                f"item {self.id_of(lacking[:1])[0]!r:.200} is not searched with "
                f"{self._state.serving_card.name}: only the new model has embedded it"
            )
        return np.ascontiguousarray(self._columns[name][rows][:, : self.dim], dtype=np.float32)

    def batches(
        self, size: int = _CHUNK
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield live rows and their vectors, to build an index from."""
        rows = self.live_rows()
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            vectors = self.vectors(chunk)
            # Deleted since: the writer sets the status before it erases the vector.
            there = self._columns["status"][chunk] != Status.DELETED
            yield chunk[there], vectors[there]

    def row_of(self, item: str) -> int:
        """Return the row of an item.

        Raises:
            ValueError: There is none, or it was deleted.
        """
        row = self._ids.row_of(item)
        if row is None or self._columns["status"][row] == Status.DELETED:
            raise ValueError(f"the gallery has no item {item!r}")
        return row

    def __contains__(self, item: object) -> bool:
        row = self._ids.row_of(item) if isinstance(item, str) else None
        return row is not None and self._columns["status"][row] != Status.DELETED

    def id_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows."""
        return self._ids.of(self._check_rows(rows))

    def queue(
        self, limit: int, *, skip: Collection[int] = (), now: float | None = None
    ) -> NDArray[np.int64]:
        """Return up to `limit` rows to embed next, in rank order.

        Args:
            limit: Most rows.
            skip: Rows that somebody else is at.
            now: Seconds of `time.time`, by which failed items are due again.
        """
        if self._state.phase == "final" or limit < 1:
            return np.empty(0, dtype=np.int64)
        now = time.time() if now is None else now
        if self._queue is None:
            self._queue = BackfillQueue(self._columns, self.size)
        rows = self._queue.next(limit, skip=skip)
        again = set(due_rows(self._columns, self.size, self._failures, self.retry, now=now))
        due = np.array(sorted(again.difference(skip)), dtype=np.int64)
        rows = np.concatenate([rows, due])
        return rows[np.argsort(self._columns["rank"][rows], kind="stable")][:limit]

    def next_retry(self) -> float | None:
        """Return when the next failed item is due, in seconds of `time.time`; None if none is."""
        if self._state.phase == "final":
            return None
        times = retry_times(self._columns, self.size, self._failures, self.retry)
        return min(times.values(), default=None)

    def failures(self) -> list[Failure]:
        """Return the last failure of each item that failed and did not succeed since."""
        rows = failed_rows(self._columns, self.size).tolist()
        return [failure for row in rows if (failure := self._failures.last(row)) is not None]

    def check_query_version(self, stamp: ModelCard | str) -> None:
        """Refuse queries of another model than the one that is searched with.

        Args:
            stamp: The card of the model that embedded the query, or its `weights_sha256`.

        Raises:
            ValueError: It is another model.
        """
        check_stamp(stamp, self._state.serving_card)

    def follow(self, since: int) -> Iterator[Change]:
        """Yield what changed after number `since`, up to now; call again for more.

        Read `sequence` first, then all vectors, then follow: a vector that was read while it was
        being written comes once more as a change.
        """
        try:
            self.refresh()
            for entry in self._entries(after=since):
                yield _change(entry)
        except (FileNotFoundError, _GapError):  # a journal may go at any moment
            self.refresh()
            yield Change(sequence=self.sequence, kind="reload")

    def _load(self) -> None:
        self._state = read_state(self.folder)
        self._ids = ItemIds(self.folder)
        self._failures = Failures(self.folder)
        self._columns = Columns(self.folder, self._state.specs)
        self._queue = None

    def _entries(self, *, after: int) -> Iterator[Entry]:
        """Yield the journals' records after a number, without a gap.

        A place that was read once is gone to. Numbers are those of one moment: a journal before
        the last one grows no more.

        Raises:
            FileNotFoundError: A journal that is needed has gone.
            _GapError: Records are missing.
        """
        current = self._state.generation
        reached = read_base(journal_path(self.folder, current)) <= after
        first = current if reached else current - 1
        place, offset = self._followed.get(after, (first, 0))
        first, offset = (place, offset) if place >= first else (first, 0)
        for number in range(first, current + 1):
            path = journal_path(self.folder, number)
            if read_base(path) > after:
                raise _GapError
            for entry in read_entries(path, offset=offset if number == first else 0):
                if entry.sequence > after:
                    after = entry.sequence
                    self._followed = {after: (number, entry.end)}
                    yield entry

    def _check_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.size):
            bad = rows[(rows < 0) | (rows >= self.size)][0]
            raise ValueError(f"rows must lie in 0..{self.size - 1}, got {bad}")
        return rows


def check_stamp(stamp: ModelCard | str, card: ModelCard) -> None:
    """Refuse queries of another model than `card`, given its card or `weights_sha256`.

    Raises:
        ValueError: It is another model.
    """
    digest = stamp if isinstance(stamp, str) else stamp.weights_sha256
    if digest != card.weights_sha256:
        name = "" if isinstance(stamp, str) else f"{stamp.name} "
        raise ValueError(
            f"the query was embedded by {name}({digest:.16}), the gallery is searched with "
            f"{card.name} ({card.weights_sha256:.16}); embed the query with that model"
        )


def _change(entry: Entry) -> Change:
    sequence, record, _ = entry
    vectors = None if record.op == "deleted" else record.columns.get("vec")
    return Change(
        sequence=sequence,
        kind=record.op,
        rows=record.rows,
        vectors=None if vectors is None else vectors.astype(np.float32),
        ids=tuple(record.extra.get("ids", ())),
    )
