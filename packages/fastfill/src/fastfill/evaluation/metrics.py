"""Retrieval scores of one gallery: average precision and CMC (spec 4), in bounded memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastfill.config import Metric
from fastfill.evaluation.counting import rank
from fastfill.evaluation.distances import Space, Vectors
from fastfill.evaluation.relevance import Labels, relevance
from tenfold.devices import choose_device

MAX_BYTES = 1 << 29


@dataclass(frozen=True)
class Scores:
    """What each query reached.

    Args:
        ap: Average precision `[Q]`, NaN for a query without a right answer in the gallery.
        ahead: Wrong items not farther than the nearest right one `[Q]`, -1 for such a query.
        ks: Sizes of result lists.
    """

    ap: NDArray[np.float64]
    ahead: NDArray[np.int64]
    ks: tuple[int, ...] = (1, 5)

    @property
    def skipped(self) -> int:
        """Queries without a right answer, which no score counts."""
        return int(np.isnan(self.ap).sum())

    @cached_property
    def hits(self) -> Mapping[int, NDArray[np.bool_]]:
        """For each k, whether a right item is among the k nearest, bool `[Q]`."""
        return {k: (self.ahead >= 0) & (self.ahead < k) for k in self.ks}

    @property
    def map(self) -> float:
        """Mean average precision."""
        return float(np.nanmean(self.ap))

    def cmc(self, k: int) -> float:
        """Return the share of queries with a right item among the k nearest."""
        there = self.ahead >= 0
        return float((self.ahead[there] < k).mean())


def retrieval(
    query: Vectors,
    gallery: Vectors,
    query_labels: Labels,
    gallery_labels: Labels,
    *,
    metric: Metric = "l2",
    self_rows: NDArray[np.int64] | None = None,
    ks: Sequence[int] = (1, 5),
    max_bytes: int = MAX_BYTES,
    device: str = "cpu",
) -> Scores:
    """Rank the whole gallery for each query.

    Items at one distance share a place: average precision is that of
    `sklearn.metrics.average_precision_score`, and a wrong item at the distance of the nearest right
    one counts as nearer in CMC. Two vectors are at one distance when float32 says so.

    Args:
        query: `[Q, d]`.
        gallery: `[N, d]`; a memory map is read a part at a time.
        query_labels: Whole numbers or texts; negative or None: no label.
        gallery_labels: Likewise; an item without a label is a wrong answer to every query.
        metric: What is near.
        self_rows: Row of the gallery that is the query itself, left out of its ranking; -1: none.
        ks: Sizes of result lists for CMC.
        max_bytes: About what working arrays may take; results do not depend on it.
        device: Where distances are computed.

    Raises:
        ValueError: Shapes or labels do not fit, vectors are not finite, or no query has an answer.
    """
    check_lengths(query, query_labels, "query_labels")
    check_lengths(gallery, gallery_labels, "gallery_labels")
    wanted = relevance(query_labels, gallery_labels, self_rows=self_rows)
    check_answers(wanted.num_positives)
    space = Space(query, gallery, metric)
    ranked = rank([space], wanted, (), 1, max_bytes=max_bytes, device=choose_device(device))[0]
    return Scores(ranked.ap[0], ranked.ahead[0], check_ks(ks))


def check_lengths(vectors: Vectors, labels: Labels, name: str) -> None:
    """Refuse labels that are not one a vector.

    Raises:
        ValueError: Says both numbers.
    """
    if len(vectors) != len(labels):
        raise ValueError(
            f"{name} has {len(labels)} labels for {len(vectors)} vectors: give one each"
        )


def check_answers(num_positives: NDArray[np.int64]) -> None:
    """Refuse queries of which none has a right answer.

    Raises:
        ValueError: Nothing could be measured.
    """
    if not num_positives.any():
        raise ValueError(
            f"none of {len(num_positives)} queries shares its label with an item of the gallery "
            f"but itself: nothing can be measured; check the labels"
        )


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Return sizes of result lists.

    Raises:
        ValueError: One is below 1, or there is none.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be numbers >= 1, got {list(ks)}")
    return tuple(ks)
