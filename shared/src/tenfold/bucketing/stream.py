"""Iterable data set that reads whole micro-batches from one reader per bucket."""

import logging
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from tenfold.bucketing.cursor import StepCursor
from tenfold.bucketing.keys import key_words
from tenfold.bucketing.plan import BucketPlan
from tenfold.bucketing.reader import BadRecordError, Reader
from tenfold.bucketing.sampler import check_split

logger = logging.getLogger(__name__)

MAX_SUBSTITUTES = 16
MAX_BAD_SHARE = 0.01
_WORKER_SLOTS = 1024

Batch = TypeVar("Batch")


class BucketStream(StepCursor, IterableDataset[Batch]):
    """Yield the micro-batches of one rank, whole as `Reader.read` returns them, in plan order.

    Use as `DataLoader(stream, batch_size=None, num_workers=W)`. Worker w of W serves the
    micro-batches w, w+W, ... from the position on (without accumulation: the steps w, w+W, ...),
    which is the order in which `DataLoader` collects them. A record that its reader reports as bad
    is replaced by another row of the same bucket, chosen by (seed, bucket, row) alone: no rank
    falls out of step, and a resumed run sees the same row. Each bad row is logged once per worker.
    When more than `max_bad_share` of the rows that this rank has in the plan were replaced, the
    stream ends with a ValueError: the data are damaged, and the substitutes would be repeats.

    Position and resume are those of `StepCursor`; workers take the position when they start, so
    `persistent_workers=True` is refused at a second iteration.

    Args:
        plan: The plan; the same on all ranks (`assert_lockstep`).
        readers: Reader by bucket key, at least for every bucket that gives steps.
        rank: This rank, from 0.
        world_size: Number of data-parallel ranks.
        accum: Micro-batches per optimiser step.
        max_bad_share: Largest share of replaced rows, in [0, 1].

    Raises:
        ValueError: A reader is missing or has another length than its bucket, the global batches
            do not split into `world_size * accum` equal parts, or the share is none.
    """

    def __init__(
        self,
        plan: BucketPlan,
        readers: Mapping[str, Reader[Batch]],
        *,
        rank: int = 0,
        world_size: int = 1,
        accum: int = 1,
        max_bad_share: float = MAX_BAD_SHARE,
    ) -> None:
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share must be in [0, 1], got {max_bad_share}")
        super().__init__(plan)
        check_split(plan, rank, world_size, accum)
        _check_readers(plan, readers)
        self.readers = dict(readers)
        self.rank = rank
        self.world_size = world_size
        self.accum = accum
        self.max_bad_share = max_bad_share
        taken = (stats.steps * stats.items_per_step for stats in plan.stats().values())
        self._num_rows = sum(taken) // world_size
        self._bad: set[tuple[str, int]] = set()
        # One slot per worker: workers never write to the same number.
        self._bad_counts = torch.zeros(_WORKER_SLOTS, dtype=torch.int64).share_memory_()
        self._replaced = torch.zeros(_WORKER_SLOTS, dtype=torch.int64).share_memory_()
        self._started_in_worker = False

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker and self._started_in_worker:
            raise ValueError(
                "BucketStream cannot be iterated twice by the same workers, whose position is "
                "stale; set persistent_workers=False"
            )
        self._started_in_worker = worker is not None
        for micro_batch in range(self.step * self.accum + first, len(self), stride):
            yield self._read(*divmod(micro_batch, self.accum), slot=first % _WORKER_SLOTS)

    def __len__(self) -> int:
        """Return the micro-batches of the whole plan: equal on all ranks and after a resume."""
        return len(self.plan) * self.accum

    @property
    def bad_records(self) -> int:
        """Bad rows met so far, added over the workers of this rank."""
        return int(self._bad_counts.sum())

    @property
    def replaced_rows(self) -> int:
        """Rows of batches replaced so far, added over the workers; a row counts at each use."""
        return int(self._replaced.sum())

    def _read(self, step: int, part: int, *, slot: int) -> Batch:
        key = self.plan.buckets[int(self.plan.steps[step])].key
        reader = self.readers[key]
        planned = np.split(self.plan.rows(step, self.rank, self.world_size), self.accum)[part]
        rows, tries = planned.copy(), np.zeros(planned.size, dtype=np.int64)
        while True:
            try:
                return reader.read(rows.copy())
            except BadRecordError as error:
                before = int(np.count_nonzero(tries))
                self._substitute(key, error, planned, rows, tries)
                self._report(key, error, slot)
                self._replaced[slot] += int(np.count_nonzero(tries)) - before
                self._check_share(key, error)

    def _check_share(self, key: str, error: BadRecordError) -> None:
        if (replaced := self.replaced_rows) <= self.max_bad_share * self._num_rows:
            return
        raise ValueError(
            f"{replaced} of the {self._num_rows} rows that rank {self.rank} reads in this run are "
            f"bad ({self.bad_records} different ones), more than a share of {self.max_bad_share}; "
            f"the latest: bucket {key!r}, row {error.row}: {error.reason}; restore the damaged "
            "files or make the data anew"
        ) from error

    def _report(self, key: str, error: BadRecordError, slot: int) -> None:
        if (key, error.row) in self._bad:
            return
        self._bad.add((key, error.row))
        self._bad_counts[slot] += 1
        logger.warning("bad record replaced: bucket %r, row %d: %s", key, error.row, error.reason)

    def _substitute(
        self,
        key: str,
        error: BadRecordError,
        planned: NDArray[np.int64],
        rows: NDArray[np.int64],
        tries: NDArray[np.int64],
    ) -> None:
        """Replace the bad row by the next substitute of the row that was planned in its place."""
        places = np.flatnonzero(rows == error.row)
        if not places.size:
            raise ValueError(
                f"the reader of bucket {key!r} reports row {error.row} as bad, which was not "
                "asked for; raise BadRecordError with one of the rows given to read()"
            ) from error
        for place in places:
            if tries[place] == MAX_SUBSTITUTES:
                raise ValueError(
                    f"bucket {key!r}: row {planned[place]} and {MAX_SUBSTITUTES} substitutes are "
                    "all bad; check the files of this bucket"
                ) from error
            rows[place] = self._draw(key, int(planned[place]), int(tries[place]))
            tries[place] += 1

    def _draw(self, key: str, row: int, attempt: int) -> int:
        """Draw a row of the bucket other than `row`, where there is another."""
        size = len(self.readers[key])
        word = int(key_words(self.plan.seed, "substitute", key, row, attempt)[0])
        return (row + 1 + word % max(size - 1, 1)) % size


def _check_readers(plan: BucketPlan, readers: Mapping[str, Reader[Batch]]) -> None:
    for bucket_id in np.unique(plan.steps):
        bucket = plan.buckets[bucket_id]
        if bucket.key not in readers:
            raise ValueError(
                f"no reader for bucket {bucket.key!r}, have {sorted(readers)}; pass one per "
                "bucket key"
            )
        if len(readers[bucket.key]) != bucket.num_items:
            raise ValueError(
                f"reader of bucket {bucket.key!r} has {len(readers[bucket.key])} rows, the plan "
                f"{bucket.num_items}; build the plan from the data that is read"
            )
