"""Exact top lists with one tie rule out of a backend's approximate float32 ranking.

Backends differ in how they sum (BLAS expands the square) and in which of several equal vectors
they keep. So each is asked for somewhat more than k candidates, whose distances are computed again
in double precision; the answer stands once nothing that was left out can belong to it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfill.config import Metric
from fastfill.index.base import Hits

SLACK = 16
"""Candidates beyond k in the first round."""

CHUNK_FLOATS = 1 << 22
"""Most numbers of candidate vectors that are held at a time."""


class Candidates(NamedTuple):
    """A backend's nearest, in any order.

    Attributes:
        rows: int64 `[Q, m]`, -1 where there is none; fewer columns than asked for where the
            backend holds no more.
        vectors: float32 `[Q, m, d]`, anything where there is no row.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]


Nearest = Callable[[NDArray[np.float32], int], Candidates]
"""Queries `[Q, d]` and the number of candidates wanted of each."""


def exact_search(
    nearest: Nearest,
    queries: NDArray[np.float32],
    k: int,
    *,
    metric: Metric,
    largest_norm: float,
) -> Hits:
    """Return the exact top lists, asking for more candidates only where rounding may matter.

    Args:
        nearest: A full scan in float32.
        queries: Checked vectors `[Q, d]`.
        k: Length of the lists.
        metric: Of the space.
        largest_norm: Bound on the length of a stored vector; used by the inner products.
    """
    hits = no_hits(len(queries), k)
    pending, wanted = np.arange(len(queries)), k + SLACK
    while pending.size:
        unsettled = []
        for part in _chunks(pending, wanted * queries.shape[1]):
            found = nearest(queries[part], wanted)
            exact = distances(queries[part], found.vectors, metric)
            hits.rows[part], hits.distances[part] = top(found.rows, exact, k)
            room = _rounding(queries[part], exact, metric, largest_norm)
            unsettled.append(part[~_settled(found.rows, exact, room, k=k, wanted=wanted)])
        pending, wanted = np.concatenate(unsettled), 4 * wanted
    return hits


def approximate_search(
    probe: Nearest,
    scan: Nearest,
    queries: NDArray[np.float32],
    k: int,
    *,
    metric: Metric,
    largest_norm: float,
) -> Hits:
    """Return the best of what a few cells hold; a scan answers where they hold fewer than k."""
    hits = no_hits(len(queries), k)
    for part in _chunks(np.arange(len(queries)), (k + SLACK) * queries.shape[1]):
        found = probe(queries[part], k + SLACK)
        near = distances(queries[part], found.vectors, metric)
        hits.rows[part], hits.distances[part] = top(found.rows, near, k)
    short = np.flatnonzero(hits.rows[:, -1] < 0)
    if short.size:
        full = exact_search(scan, queries[short], k, metric=metric, largest_norm=largest_norm)
        hits.rows[short], hits.distances[short] = full
    return hits


def distances(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric
) -> NDArray[np.float64]:
    """Return the distances `[Q, m]` of queries `[Q, d]` to their own vectors `[Q, m, d]`."""
    wide = queries.astype(np.float64)[:, None, :]
    if metric == "l2":
        return ((wide - vectors) ** 2).sum(axis=-1)
    return -(wide * vectors).sum(axis=-1)


def top(rows: NDArray[np.int64], exact: NDArray[np.float64], k: int) -> Hits:
    """Return the k nearest by distance as float32, then by row; a row of -1 is none."""
    hits = no_hits(len(rows), k)
    with np.errstate(over="ignore"):  # beyond float32 is as far as can be
        rounded = np.where(rows < 0, np.inf, exact).astype(np.float32)
    tie = np.where(rows < 0, np.iinfo(np.int64).max, rows)
    order = np.lexsort((tie, rounded), axis=-1)[:, :k]
    columns = order.shape[1]
    hits.rows[:, :columns] = np.take_along_axis(rows, order, axis=1)
    hits.distances[:, :columns] = np.take_along_axis(rounded, order, axis=1)
    return hits


def merged(first: Hits, second: Hits) -> Hits:
    """Return the best of two lists of the same length over different rows."""
    rows = np.concatenate([first.rows, second.rows], axis=1)
    both = np.concatenate([first.distances, second.distances], axis=1)
    return top(rows, both.astype(np.float64), first.rows.shape[1])


def no_hits(queries: int, k: int) -> Hits:
    """Return lists without any row."""
    return Hits(
        rows=np.full((queries, k), -1, dtype=np.int64),
        distances=np.full((queries, k), np.inf, dtype=np.float32),
    )


def _chunks(members: NDArray[np.int64], floats_each: int) -> list[NDArray[np.int64]]:
    size = max(1, CHUNK_FLOATS // floats_each)
    return [members[start : start + size] for start in range(0, len(members), size)]


def _settled(
    rows: NDArray[np.int64],
    exact: NDArray[np.float64],
    room: NDArray[np.float64],
    *,
    k: int,
    wanted: int,
) -> NDArray[np.bool_]:
    """Return for which queries no other row can reach the k-th place."""
    if rows.shape[1] < wanted:
        return np.ones(len(rows), dtype=bool)
    kth = np.partition(exact, k - 1, axis=1)[:, k - 1]
    return (rows < 0).any(axis=1) | (exact.max(axis=1) > kth + room)


def _rounding(
    queries: NDArray[np.float32],
    exact: NDArray[np.float64],
    metric: Metric,
    largest_norm: float,
) -> NDArray[np.float64]:
    """Bound what two float32 distances may be off together: of the worst and of a left-out row.

    A sum of d products is off by d units of rounding at worst, by about sqrt(d) in practice (Higham
    and Mary 2019); eight times that is never met. A row with an `l2` distance below the worst
    candidate's is no longer than |q| + sqrt(worst).
    """
    dim = queries.shape[1]
    unit = min(dim + 4.0, 8 * dim**0.5) * float(np.finfo(np.float32).eps)
    norm = np.linalg.norm(queries.astype(np.float64), axis=1)
    worst = exact.max(axis=1, initial=-np.inf)
    if metric == "l2":
        scale = (2 * norm + np.sqrt(np.maximum(worst, 0))) ** 2
    else:
        scale = norm * largest_norm
    return 2 * unit * scale + 2 * np.finfo(np.float32).eps * np.abs(np.where(exact.size, worst, 0))
