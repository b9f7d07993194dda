"""Backfilling curves: retrieval quality as new embeddings replace transformed ones (spec 2.6)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastfill.config import Metric
from fastfill.evaluation.auc import auc_mean, auc_trapezoid, cut_offs, negative_flips
from fastfill.evaluation.counting import Ranked, bytes_of_an_answer, rank
from fastfill.evaluation.distances import Space, Vectors
from fastfill.evaluation.metrics import (
    MAX_BYTES,
    Scores,
    check_answers,
    check_ks,
    check_lengths,
)
from fastfill.evaluation.relevance import Labels, Relevance, relevance
from tenfold.devices import choose_device
from tenfold.keyed import generator

Order = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """What each query reaches at each point of one order.

    Args:
        betas: Backfilled share of the gallery at each point `[C]`, 0 to 1.
        ap: Average precision `[C, Q]`, NaN for a query without a right answer.
        ahead: Wrong items not farther than the nearest right one `[C, Q]`, -1 for such a query.
        ks: Sizes of result lists.
        before: Whether the old system's nearest item was right `[Q]`, where that is known.
    """

    betas: NDArray[np.float64]
    ap: NDArray[np.float64]
    ahead: NDArray[np.int64]
    ks: tuple[int, ...] = (1, 5)
    before: NDArray[np.bool_] | None = None

    @property
    def map(self) -> NDArray[np.float64]:
        """Mean average precision at each point `[C]`."""
        return np.nanmean(self.ap, axis=1)

    @property
    def cmc(self) -> dict[int, NDArray[np.float64]]:
        """For each k, the share of queries with a right item among the k nearest `[C]`."""
        there = self.ahead[:, self.ahead[0] >= 0]
        return {k: (there < k).mean(1) for k in self.ks}

    @property
    def flips(self) -> NDArray[np.int64] | None:
        """Queries whose nearest item the old system had right and this one has not `[C]`."""
        if self.before is None:
            return None
        there = self.ahead >= 0
        hits = there & (self.ahead < 1)
        return np.array([negative_flips(self.before & there[0], hit) for hit in hits])

    def per_query(self, metric: str) -> NDArray[np.float64]:
        """Return a metric of each query that has an answer, `[C, answered queries]`.

        Raises:
            ValueError: `metric` is neither `map` nor `cmc<k>`.
        """
        there = self.ahead[0] >= 0
        if metric == "map":
            return self.ap[:, there]
        if metric.startswith("cmc") and metric[3:].isdecimal() and int(metric[3:]) > 0:
            return (self.ahead[:, there] < int(metric[3:])).astype(np.float64)
        raise ValueError(f"metric must be map or cmc<k>, as cmc5, got {metric!r}")

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return a metric at each point `[C]`."""
        return self.per_query(metric).mean(1)

    def auc(self, metric: str = "map", *, trapezoid: bool = False) -> float:
        """Return the area below the curve: the mean of its points, or by trapezoids."""
        values = self.values(metric)
        return auc_trapezoid(self.betas, values) if trapezoid else auc_mean(values)

    def of_queries(self, chosen: NDArray[np.bool_]) -> "Curve":
        """Return the curve of some of the queries, chosen by a mask `[Q]`."""
        before = None if self.before is None else self.before[chosen]
        return Curve(self.betas, self.ap[:, chosen], self.ahead[:, chosen], self.ks, before)


def curve(
    queries: Vectors,
    z: Vectors,
    new: Vectors,
    labels: Labels,
    order: Order,
    *,
    query_labels: Labels | None = None,
    steps: int = 20,
    metric: Metric = "l2",
    ks: Sequence[int] = (1, 5),
    self_rows: NDArray[np.int64] | None = None,
    old: Scores | None = None,
    max_bytes: int = MAX_BYTES,
    device: str = "cpu",
) -> Curve:
    """Return the curve of one order; see `curves`."""
    return curves(
        queries,
        z,
        new,
        labels,
        {"order": order},
        query_labels=query_labels,
        steps=steps,
        metric=metric,
        ks=ks,
        self_rows=self_rows,
        old=old,
        max_bytes=max_bytes,
        device=device,
    )["order"]


def curves(
    queries: Vectors,
    z: Vectors,
    new: Vectors,
    labels: Labels,
    orders: Mapping[str, Order],
    *,
    query_labels: Labels | None = None,
    steps: int = 20,
    metric: Metric = "l2",
    ks: Sequence[int] = (1, 5),
    self_rows: NDArray[np.int64] | None = None,
    old: Scores | None = None,
    max_bytes: int = MAX_BYTES,
    device: str = "cpu",
) -> dict[str, Curve]:
    """Return the curves of several orders, which share all distances.

    Args:
        queries: New embeddings of the queries `[Q, d]`.
        z: Transformed embeddings of the gallery `[N, d]`.
        new: New embeddings of the gallery `[N, d]`.
        labels: Of the gallery.
        orders: By name, rows of the gallery `[N]`, what is backfilled first at the front.
        query_labels: Of the queries; those of `self_rows` where left out.
        steps: Points between none and all.
        metric: What is near.
        ks: Sizes of result lists.
        self_rows: Row of the gallery that is the query itself; -1 none.
        old: Of the old model on the old gallery with the same queries, for negative flips.
        max_bytes: About what working arrays may take; results do not depend on it.
        device: Where distances are computed.

    Raises:
        ValueError: Shapes or labels do not fit, an order is no permutation, or no query has an
            answer.
    """
    if query_labels is None:
        query_labels = _labels_of(self_rows, labels)
    check_lengths(queries, query_labels, "query_labels")
    check_lengths(z, labels, "labels")
    wanted = relevance(query_labels, labels, self_rows=self_rows)
    return mixed_curves(
        Space(queries, z, metric),
        Space(queries, new, metric),
        wanted,
        orders,
        steps=steps,
        ks=ks,
        old=old,
        max_bytes=max_bytes,
        device=device,
    )


def mixed_curves(
    before: Space,
    after: Space,
    wanted: Relevance,
    orders: Mapping[str, Order],
    *,
    steps: int = 20,
    ks: Sequence[int] = (1, 5),
    old: Scores | None = None,
    max_bytes: int = MAX_BYTES,
    device: str = "cpu",
) -> dict[str, Curve]:
    """Return curves along which items go from one space to another, each with its own queries.

    Raises:
        ValueError: As `curves`.
    """
    size = len(wanted.gallery_codes)
    if not len(before.gallery) == len(after.gallery) == size:
        raise ValueError(
            f"the gallery has {len(before.gallery)} items before and {len(after.gallery)} after, "
            f"with {size} labels: give one each"
        )
    if not orders:
        raise ValueError("orders is empty: give at least one")
    check_answers(wanted.num_positives)
    sizes, cuts = check_ks(ks), cut_offs(size, steps)
    ranks = [_ranks(order, size, name) for name, order in orders.items()]
    ranked = _ranked(before, after, wanted, ranks, cuts, max_bytes, device)
    hits = None if old is None else (old.ahead >= 0) & (old.ahead < 1)
    return {
        name: Curve(cuts / size, each.ap, each.ahead, sizes, hits)
        for name, each in zip(orders, ranked, strict=True)
    }


def bootstrap_bounds(
    per_query: NDArray[np.float64], *, seed: int = 0, draws: int = 1000, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the intervals of means over queries, drawn anew with replacement.

    Args:
        per_query: Values `[M, Q]`; all rows see the same draws.
        seed: Of the draws.
        draws: How often.
        confidence: Share of the draws inside.

    Returns:
        Low and high `[M]`.
    """
    random = generator("bootstrap", seed)
    count = per_query.shape[1]
    means = np.empty((draws, len(per_query)))
    for draw in range(draws):
        times = np.bincount(random.integers(count, size=count), minlength=count)
        means[draw] = per_query @ times / count
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def _ranked(
    before: Space,
    after: Space,
    wanted: Relevance,
    ranks: Sequence[Order],
    cuts: NDArray[np.int64],
    max_bytes: int,
    device: str,
) -> list[Ranked]:
    """Rank at all points; in several passes where a query's counts would not fit into memory."""
    widest = int(np.bincount(wanted.gallery_codes + 1)[1:].max(initial=1))
    each = widest * bytes_of_an_answer(2, len(ranks), 1) / 2
    points = int(max(1, min(len(cuts), max_bytes / each)))
    parts: list[list[Ranked]] = []
    for start in range(0, len(cuts), points):
        part = cuts[start : start + points]
        steps = [np.searchsorted(part, rank_of, side="right") for rank_of in ranks]
        parts.append(
            rank(
                [before, after],
                wanted,
                steps,
                len(part),
                max_bytes=max_bytes,
                device=choose_device(device),
            )
        )
    return [
        Ranked(np.concatenate([p.ap for p in order]), np.concatenate([p.ahead for p in order]))
        for order in zip(*parts, strict=True)
    ]


def _ranks(order: Order, size: int, name: str) -> Order:
    """Return the place of each item in the order."""
    order = np.asarray(order)
    if order.shape != (size,) or order.dtype.kind not in "iu":
        raise ValueError(f"order {name} must be {size} rows, got {order.dtype} {order.shape}")
    ranks = np.full(size, -1, dtype=np.int64)
    inside = (order >= 0) & (order < size)
    ranks[order[inside]] = np.flatnonzero(inside)
    if missing := int((ranks < 0).sum()):
        raise ValueError(f"order {name} must have each row once, but {missing} are missing")
    return ranks


def _labels_of(self_rows: NDArray[np.int64] | None, labels: Labels) -> Labels:
    if self_rows is None:
        raise ValueError(
            "query_labels is missing: give it, or self_rows for queries of the gallery"
        )
    if np.asarray(self_rows).min(initial=0) < 0:
        raise ValueError("query_labels is missing: a query with self_rows -1 has no label without")
    if isinstance(labels, np.ndarray):
        return labels[self_rows]
    return [labels[row] for row in self_rows]
