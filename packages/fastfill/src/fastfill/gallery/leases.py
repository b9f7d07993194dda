"""Leases on rows: several workers, also on several machines, never embed an item twice.

A table in the gallery's folder says who is at which row until when. A worker that dies keeps its
rows until they expire; then another may take them.
"""

import sqlite3
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEASES = "leases.sqlite"
_WAIT_S = 30.0


class Leases:
    """The table of leases of a gallery; every call is one transaction.

    A file system that is shared between machines must have working file locks.

    Args:
        folder: Of the gallery.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no gallery")
        self.path = folder / LEASES
        with self._transaction() as table:
            table.execute(
                "CREATE TABLE IF NOT EXISTS leases"
                " (item INTEGER PRIMARY KEY, worker TEXT NOT NULL, until REAL NOT NULL)"
            )

    def claim(
        self, worker: str, rows: Iterable[int], *, ttl: float, now: float | None = None
    ) -> NDArray[np.int64]:
        """Take rows that nobody is at, and return those that were got, in the order given.

        Args:
            worker: Who asks; rows that it has already are not given again.
            rows: Wanted.
            ttl: Seconds until others may take them.
            now: Seconds of `time.time`.

        Raises:
            ValueError: `ttl` is not > 0, or the worker has no name.
        """
        if not worker:
            raise ValueError("a worker needs a name")
        until = _until(ttl, now)
        got = []
        with self._transaction() as table:
            table.execute("DELETE FROM leases WHERE until <= ?", (_now(now),))
            for row in rows:
                cursor = table.execute(
                    "INSERT OR IGNORE INTO leases VALUES (?, ?, ?)", (int(row), worker, until)
                )
                if cursor.rowcount:
                    got.append(int(row))
        return np.array(got, dtype=np.int64)

    def renew(self, worker: str, *, ttl: float, now: float | None = None) -> int:
        """Extend all leases of a worker that have not expired; return how many it has."""
        until = _until(ttl, now)
        with self._transaction() as table:
            return table.execute(
                "UPDATE leases SET until = ? WHERE worker = ? AND until > ?",
                (until, worker, _now(now)),
            ).rowcount

    def release(self, worker: str, rows: Iterable[int] | None = None) -> None:
        """Give rows back, all that the worker has if absent; those of others stay."""
        with self._transaction() as table:
            if rows is None:
                table.execute("DELETE FROM leases WHERE worker = ?", (worker,))
            else:
                pairs = [(worker, int(row)) for row in rows]
                table.executemany("DELETE FROM leases WHERE worker = ? AND item = ?", pairs)

    def held(self, worker: str | None = None, *, now: float | None = None) -> set[int]:
        """Return rows that somebody is at, or one worker."""
        query, values = "SELECT item FROM leases WHERE until > ?", [_now(now)]
        if worker is not None:
            query, values = f"{query} AND worker = ?", [*values, worker]
        with self._transaction() as table:
            return {row for (row,) in table.execute(query, values)}

    def expired(self, *, now: float | None = None) -> dict[int, str]:
        """Return rows whose worker let the time pass, and that worker."""
        with self._transaction() as table:
            query = "SELECT item, worker FROM leases WHERE until <= ? ORDER BY item"
            return dict(table.execute(query, (_now(now),)).fetchall())

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        # One connection a call: they must not be carried over a fork or between threads.
        connection = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path}: {error}; if it is damaged, delete it while no worker runs"
            ) from None
        finally:
            connection.close()


def _now(now: float | None) -> float:
    return time.time() if now is None else now


def _until(ttl: float, now: float | None) -> float:
    if not ttl > 0:
        raise ValueError(f"ttl must be > 0 seconds, got {ttl}")
    return _now(now) + ttl
