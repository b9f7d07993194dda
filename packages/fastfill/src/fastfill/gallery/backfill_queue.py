"""Which items are embedded next: in rank order, failed ones again when their time has come."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from fastfill.gallery.columns import Columns
from fastfill.gallery.failures import Failures, RetryPolicy
from fastfill.gallery.state import NO_RANK, Status, Version

_CHUNK = 65536


class BackfillQueue:
    """Reads columns; holds nothing but a sorted order and how far of it is done.

    Args:
        columns: Of the gallery.
        rows: Items in use.
    """

    def __init__(self, columns: Columns, rows: int) -> None:
        rank = np.asarray(columns["rank"][:rows])
        order = np.argsort(rank, kind="stable")
        self._order = order[: int(np.count_nonzero(rank != NO_RANK))]
        self._columns = columns
        self._start = 0

    def next(self, limit: int, *, skip: Collection[int] = ()) -> NDArray[np.int64]:
        """Return up to `limit` live rows that wait, without those in `skip`."""
        taken: list[NDArray[np.int64]] = []
        count = 0
        done_so_far = True
        skipped = np.fromiter(skip, dtype=np.int64, count=len(skip))
        for start in range(self._start, len(self._order), _CHUNK):
            rows = self._order[start : start + _CHUNK]
            waiting = rows[self._waits(rows)]
            if done_so_far and not len(waiting):
                self._start = start + len(rows)
            done_so_far = done_so_far and not len(waiting)
            waiting = waiting[~np.isin(waiting, skipped)][: limit - count]
            taken.append(waiting)
            count += len(waiting)
            if count >= limit:
                break
        return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)

    def _waits(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        status, version = self._columns["status"][rows], self._columns["version"][rows]
        return (status == Status.LIVE) & (version != Version.NEW)


def failed_rows(columns: Columns, rows: int) -> NDArray[np.int64]:
    """Return the rows whose last attempt failed, ascending."""
    return np.flatnonzero(columns["status"][:rows] == Status.FAILED)


def due_rows(
    columns: Columns, rows: int, failures: Failures, policy: RetryPolicy, *, now: float
) -> list[int]:
    """Return failed rows that may be tried again at `now`."""
    times = retry_times(columns, rows, failures, policy)
    return [row for row, at in times.items() if at <= now]


def retry_times(
    columns: Columns, rows: int, failures: Failures, policy: RetryPolicy
) -> dict[int, float]:
    """Return when each failed row is tried again; not those given up or not in the order."""
    times = {}
    failed = failed_rows(columns, rows)
    for row in failed[columns["rank"][failed] != NO_RANK].tolist():
        attempts, last = int(columns["attempts"][row]), failures.last(row)
        if attempts < policy.max_attempts:
            times[row] = policy.retry_at(last.at, attempts) if last else 0.0
    return times
