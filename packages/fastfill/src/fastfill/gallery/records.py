"""The records that changes of a gallery become: absolute values, so that replaying is harmless."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfill.gallery.columns import Columns
from fastfill.gallery.journal import Record
from fastfill.gallery.state import NO_RANK, NO_VINTAGE, Status, Version

Rows = NDArray[np.int64]


def replaced(op: str, rows: Rows, vectors: NDArray[Any], version: Version) -> Record:
    """Return the record of rows that get vectors of a version, their failures forgotten."""
    values = {"vec": vectors, "version": _full(rows, version, "u2"), **_afresh(rows)}
    return Record(op=op, rows=rows, columns=values)


def retried(rows: Rows) -> Record:
    """Return the record of failed rows that count as waiting again."""
    return Record(op="retry", rows=rows, columns=_afresh(rows))


def added(
    rows: Rows, ids: Sequence[str], vectors: NDArray[Any], *, extra: Mapping[str, Any]
) -> Record:
    """Return the record of items that come with a vector of the new model."""
    values = {
        "vec": vectors,
        "version": _full(rows, Version.NEW, "u2"),
        "vintage": _full(rows, NO_VINTAGE, "u2"),
        "rank": _full(rows, NO_RANK, "u4"),
    }
    return Record(op="added", rows=rows, columns=values, extra={"ids": list(ids), **extra})


def deleted(rows: Rows, columns: Columns, *, extra: Mapping[str, Any]) -> Record:
    """Return the record of items that go, and whose embeddings are erased."""
    values = {"status": _full(rows, Status.DELETED, "u1")}
    for name in ("vec", "old", "side"):
        if name in columns:
            column = columns[name]
            values[name] = np.zeros((len(rows), column.shape[1]), dtype=column.dtype)
    return Record(op="deleted", rows=rows, columns=values, extra=extra)


def failed(
    reasons: Mapping[int, str],
    ids: Mapping[int, str],
    columns: Columns,
    *,
    now: float,
    extra: Mapping[str, Any],
) -> Record:
    """Return the record of rows that could not be embedded.

    Args:
        reasons: By row.
        ids: By row.
        columns: Give the attempts so far.
        now: Seconds of `time.time`.
        extra: Goes into the record.
    """
    rows = np.array(sorted(reasons), dtype=np.int64)
    # Saturates: an item that failed 255 times has been given up long before.
    attempts = np.minimum(columns["attempts"][rows].astype(np.int64) + 1, 255)
    failures = [
        {"row": row, "id": ids[row], "reason": reasons[row], "attempts": tries, "at": now}
        for row, tries in zip(rows.tolist(), attempts.tolist(), strict=True)
    ]
    values = {"status": _full(rows, Status.FAILED, "u1"), "attempts": attempts.astype("u1")}
    return Record(op="failed", rows=rows, columns=values, extra={"failures": failures, **extra})


def _afresh(rows: Rows) -> dict[str, NDArray[Any]]:
    return {"status": _full(rows, Status.LIVE, "u1"), "attempts": _full(rows, 0, "u1")}


def _full(rows: Rows, value: int, dtype: str) -> NDArray[Any]:
    return np.full(len(rows), value, dtype=dtype)
