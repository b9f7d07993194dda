"""Which items a worker embeds next, so that no other worker embeds them as well."""

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfill.gallery import GalleryReader, Leases, Status, Version
from fastfill.gallery.pending import read_message, waiting

logger = logging.getLogger(__name__)


class Taken(NamedTuple):
    """A batch: rows, their ids, and the gallery's epoch as they were taken."""

    rows: NDArray[np.int64]
    ids: list[str]
    epoch: int


class InboxRows:
    """The rows whose results wait in a gallery's inbox; each file is read once.

    Args:
        folder: Of the gallery.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[str, frozenset[int]] = {}

    def rows(self) -> set[int]:
        """Return the rows, as of now."""
        there = {path.name: path for path in waiting(self._folder)}
        known = {name: rows for name, rows in self._rows.items() if name in there}
        self._rows = known | {
            name: _rows_of(path) for name, path in there.items() if name not in known
        }
        return set().union(*self._rows.values())


class BatchQueue:
    """Takes batches by the gallery's order, under leases.

    Args:
        gallery: Read or written by this process.
        leases: Of the gallery.
        worker: Name of who takes; leases that it has from before a kill are given back.
        ttl: Seconds after which others may take what a dead worker has; longer than a batch.
        places: Where the original of each id lies; near ones are fetched one after the other.

    Attributes:
        in_flight: Rows taken and not yet given back.
    """

    def __init__(
        self,
        gallery: GalleryReader,
        leases: Leases,
        worker: str,
        *,
        ttl: float,
        places: Mapping[str, int],
    ) -> None:
        self.in_flight: set[int] = set()
        self.inbox = InboxRows(gallery.folder)
        self._gallery, self._leases, self._worker = gallery, leases, worker
        self._ttl, self._places = ttl, places
        self._renewed = time.monotonic()
        leases.release(worker)

    def take(self, limit: int) -> Taken:
        """Return up to `limit` rows and their ids, by the place of their originals.

        Priority holds between batches: inside of one the order is that of the source.
        """
        # A worker leaves its result before it gives its lease back, and a result leaves the inbox
        # after it stands in the columns: looked at in this order, nothing that is done is missed.
        held = self._leases.held()
        skip = held | self.inbox.rows() | self.in_flight
        self._gallery.refresh()
        epoch = self._gallery.state.epoch  # a roll-back from here on makes the result late
        wanted = self._gallery.queue(limit, skip=skip)
        claimed = self._leases.claim(self._worker, wanted.tolist(), ttl=self._ttl)
        rows = self._still_waiting(claimed)
        self._leases.release(self._worker, sorted(set(claimed.tolist()) - set(rows.tolist())))
        self.in_flight.update(rows.tolist())
        ids = self._gallery.id_of(rows)
        order = sorted(range(len(rows)), key=lambda n: (self._place(ids[n]), rows[n]))
        return Taken(rows[order], [ids[n] for n in order], epoch)

    def give_back(self, rows: Iterable[int]) -> None:
        """End the leases of rows whose result is durable."""
        rows = list(rows)
        self._leases.release(self._worker, rows)
        self.in_flight.difference_update(rows)

    def give_back_all(self) -> None:
        """End all leases."""
        self._leases.release(self._worker)
        self.in_flight.clear()

    def renew(self) -> None:
        """Extend the leases when a quarter of their time is over."""
        if time.monotonic() - self._renewed > self._ttl / 4:
            self._leases.renew(self._worker, ttl=self._ttl)
            self._renewed = time.monotonic()

    def is_empty(self) -> bool:
        """Return whether no item waits, with this worker or another, that may be tried now."""
        self._gallery.refresh()
        return not len(self._gallery.queue(1))

    def can_take(self) -> bool:
        """Return whether an item waits that nobody is at."""
        skip = self._leases.held() | self.inbox.rows()
        self._gallery.refresh()
        return len(self._gallery.queue(1, skip=skip)) > 0

    def _still_waiting(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Drop rows that another worker has finished between the look and the claim."""
        finished = self.inbox.rows()
        self._gallery.refresh()
        version = self._gallery.column("version")[rows]
        status = self._gallery.column("status")[rows]
        left = (version != Version.NEW) & (status != Status.DELETED)
        return rows[left & ~np.isin(rows, list(finished))]

    def _place(self, item: str) -> int:
        return self._places.get(item, len(self._places))


def _rows_of(path: Path) -> frozenset[int]:
    try:
        message = read_message(path)
    except ValueError as error:  # applied meanwhile, or damaged: the writer sets it aside
        logger.debug("%s is left out: %s", path.name, error)
        return frozenset()
    if message.kind != "result":
        return frozenset()
    return frozenset(message.rows.tolist()) | frozenset(message.reasons)
