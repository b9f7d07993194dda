"""The writer's side of a gallery: journal, then columns; recovery after a crash; checkpoints."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Self

from fastfill.gallery import pending
from fastfill.gallery.columns import Columns
from fastfill.gallery.failures import Failure, Failures, RetryPolicy
from fastfill.gallery.item_ids import ItemIds
from fastfill.gallery.journal import Journal, Record, read_entries
from fastfill.gallery.lock import WriterLock
from fastfill.gallery.reading import GalleryReader
from fastfill.gallery.state import (
    OLD_COLUMNS,
    STATE,
    GalleryState,
    journal_path,
    read_state,
    write_state,
)
from tenfold import atomic

LOG = logging.getLogger(__name__)

CHECKPOINT_BYTES = 1 << 28
"""Length at which a journal is closed: replaying it after a crash takes seconds."""


class GalleryWriter(GalleryReader):
    """A gallery whose records go to the journal and then to the columns.

    Args:
        folder: Of the gallery.
        retry: When failed items are tried again.
        lock: The right to write; without it the gallery is read.
    """

    def __init__(
        self, folder: Path, *, retry: RetryPolicy | None = None, lock: WriterLock | None = None
    ) -> None:
        self._lock = lock
        self._journal: Journal | None = None
        self._sound = True
        super().__init__(folder, retry=retry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Make everything durable and let others write."""
        try:
            if self._journal is not None and self._sound and _changed(self._journal):
                self.checkpoint()
        finally:
            if self._journal is not None:
                self._journal.close()
                self._journal = None
            if self._lock is not None:
                self._lock.release()

    @property
    def sequence(self) -> int:
        """Return the number of the last change."""
        return super().sequence if self._journal is None else self._journal.sequence

    def refresh(self) -> None:
        """Read what other processes have written; nothing to do for the one that writes."""
        if self._journal is None:
            super().refresh()

    def checkpoint(self) -> None:
        """Make the columns durable and start a new journal; the last one stays for followers."""
        self._start_journal(self._state)

    def _start_journal(self, state: GalleryState, *, keep_previous: bool = True) -> None:
        """Make everything durable together with a state.

        Args:
            state: Its counts are filled in.
            keep_previous: Whether followers may go on; without it they read everything again.
        """
        journal = self._require_sound()
        # A number that no record bears: who has not come that far sees that something is missing.
        base = journal.sequence if keep_previous else journal.sequence + 1
        self._columns.flush()
        self._ids.lines.flush()
        self._failures.lines.flush()
        # A consumed change must not come back once the journal that names it is gone.
        atomic.fsync_dir(self.folder / pending.PENDING)
        following = self._state.generation + 1
        path = journal_path(self.folder, following)
        Journal.create(path, base=base).close()
        state = replace(
            state,
            rows=self.size,
            ids_bytes=self._ids.lines.num_bytes,
            failures_bytes=self._failures.lines.num_bytes,
            generation=following,
        )
        write_state(self.folder, state)
        self._state, self._journal = state, Journal(path)
        journal.close()
        for path in _other_journals(self.folder, following, keep_previous=keep_previous):
            path.unlink()

    def _load(self) -> None:
        super()._load() if self._lock is None else self._recover()

    def _recover(self) -> None:
        """Bring columns and files to what the journal says."""
        state = self._state = read_state(self.folder)
        self._clean(state)
        self._columns = Columns(self.folder, state.specs, writable=True)
        self._ids = ItemIds(self.folder, num_bytes=state.ids_bytes)
        self._failures = Failures(self.folder, num_bytes=state.failures_bytes)
        if self.size != state.rows or self._columns.capacity < state.rows:
            raise ValueError(f"{self.folder} lacks some of {state.rows} rows; it is damaged")
        path = journal_path(self.folder, state.generation)
        journal = Journal(path)
        for entry in read_entries(path):
            self._perform(entry.record)
        if _changed(journal):
            LOG.info("replayed %d records of %s", journal.sequence - journal.base, path)
        self._journal = journal

    def _clean(self, state: GalleryState) -> None:
        """Remove what a killed writer left; files of other processes are not touched."""
        for pattern in (STATE, "journal-*"):
            for left_over in self.folder.glob(f".{pattern}{atomic.TEMPORARY}*"):
                left_over.unlink()
        if state.phase == "final":
            Columns(self.folder, {}).drop(OLD_COLUMNS)
        for path in _other_journals(self.folder, state.generation, keep_previous=True):
            path.unlink()

    def _commit(self, record: Record) -> None:
        journal = self._require_sound()
        journal.append(record)
        self._sound = False  # until the columns agree with the journal
        self._perform(record)
        self._sound = True
        if journal.num_bytes > CHECKPOINT_BYTES:
            self.checkpoint()

    def _perform(self, record: Record) -> None:
        """Write what a record says; twice is the same as once."""
        if len(record.rows):
            self._columns.reserve(int(record.rows.max()) + 1)
        self._columns.write(record.rows, record.columns)
        # Readers take an item to be there once its id is: columns come first.
        if ids := record.extra.get("ids"):
            self._ids.append(ids)
        if failures := record.extra.get("failures"):
            self._failures.append([Failure(**failure) for failure in failures])
        if name := record.extra.get("consumed"):
            (self.folder / pending.PENDING / Path(name).name).unlink(missing_ok=True)

    def _require_sound(self) -> Journal:
        if self._journal is None:
            raise ValueError(f'{self.folder} is not open for writing; open it with mode="w"')
        if not self._sound:
            raise ValueError(f"{self.folder} was left by a failed write; close and open it again")
        return self._journal


def _changed(journal: Journal) -> bool:
    return journal.sequence > journal.base


def _other_journals(folder: Path, generation: int, *, keep_previous: bool) -> list[Path]:
    keep = {journal_path(folder, generation)}
    if keep_previous and generation:
        keep.add(journal_path(folder, generation - 1))
    return sorted(set(folder.glob("journal-*.bin")) - keep)
