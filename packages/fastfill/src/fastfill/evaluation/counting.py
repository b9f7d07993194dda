"""How many items lie in front of each right answer, exact, for all points of a curve at once.

A ranking is never built. Average precision in scikit-learn's sense, in which items at one distance
share a place, needs for each right answer only how many right and wrong items are at its distance
or nearer. Each gallery part is therefore only counted into the intervals between the distances of
the right answers. For a curve (spec 2.6) an item has two distances, that of the transformed
embedding up to its step and that of the new one from then on: counts by interval and step give all
points of the curve from one pass over both galleries, where the naive way has a pass a point.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastfill.evaluation.distances import Space
from fastfill.evaluation.relevance import Block, Relevance

GALLERY_PART = 16_384
QUERY_PART = 128
_KEPT = 65_536  # a gallery up to this size is prepared once
_IN_CACHE = 1 << 25  # counts of a block that is larger wait for memory
_BYTES_OF_A_DISTANCE = 56  # float64, float32, sorting key, column, interval, step


class Ranked(NamedTuple):
    """What one arrangement of the gallery reaches: rows are points of the curve.

    ap: Average precision `[C, Q]`, float64.
    ahead: Wrong items at the distance of the nearest right one or nearer `[C, Q]`, int64.
    """

    ap: NDArray[np.float64]
    ahead: NDArray[np.int64]


class _Gallery:
    """Items of a space, prepared once where the gallery is small."""

    def __init__(self, space: Space, device: torch.device) -> None:
        self.space, self.device = space, device
        self.kept = space.items(slice(None), device) if len(space.gallery) <= _KEPT else None

    def distances(
        self, queries: NDArray[np.int64], rows: slice | NDArray[np.int64]
    ) -> torch.Tensor:
        """Return distances `[len(queries), len(rows)]` float32."""
        if self.kept is None:
            items = self.space.items(rows, self.device)
        else:
            items = self.kept[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
        return self.space.distances(queries, items)


class _Answers(NamedTuple):
    rows: NDArray[np.int64]  # [Q, P] of the gallery
    distances: list[NDArray[np.float32]]  # for each space [Q, P], inf where there is no answer


def rank(
    spaces: Sequence[Space],
    relevance: Relevance,
    steps: Sequence[NDArray[np.int64]],
    num_points: int,
    *,
    max_bytes: int,
    device: torch.device,
) -> list[Ranked]:
    """Rank the gallery for all queries at all points of curves.

    Args:
        spaces: Of the items before and after their step; a single one without steps.
        relevance: Of queries and gallery.
        steps: For each order `[N]`, the first point at which an item is in the second space;
            `num_points` for never.
        num_points: Points C of each curve, 1 for a single space.
        max_bytes: About what working arrays may take.
        device: Where distances are computed.

    Returns:
        One for each order; one in all for a single space. NaN and -1 for queries without a right
        answer.
    """
    num_queries = len(relevance.query_codes)
    ranked = [
        Ranked(
            np.full((num_points, num_queries), np.nan),
            np.full((num_points, num_queries), -1, dtype=np.int64),
        )
        for _ in range(max(1, len(steps)))
    ]
    part = min(GALLERY_PART, len(relevance.gallery_codes))
    galleries = [_Gallery(space, device) for space in spaces]
    # A large gallery is prepared anew for each block, which then has to be worth it.
    small = device.type == "cpu" and galleries[0].kept is not None
    blocks = relevance.blocks(
        most=QUERY_PART,
        entries=min(max_bytes, _IN_CACHE) if small else max_bytes,
        fixed=_BYTES_OF_A_DISTANCE * part,
        scale=bytes_of_an_answer(len(spaces), len(steps), num_points),
    )
    for block in blocks:
        results = _rank_block(galleries, relevance, steps, num_points, block, device)
        for whole, result in zip(ranked, results, strict=True):
            whole.ap[:, block.queries] = result.ap
            whole.ahead[:, block.queries] = result.ahead
    return ranked


def bytes_of_an_answer(num_spaces: int, num_orders: int, num_points: int) -> int:
    """Return about what a query needs for each of its right answers."""
    counts = num_spaces * (num_points + 1) * (8 * max(1, num_orders) + 48)
    return counts + 64


def _rank_block(
    galleries: Sequence[_Gallery],
    relevance: Relevance,
    steps: Sequence[NDArray[np.int64]],
    num_points: int,
    block: Block,
    device: torch.device,
) -> list[Ranked]:
    answers = _answers(galleries, relevance, block)
    edges = np.sort(np.concatenate(answers.distances, axis=1), axis=1)
    edges_QW = torch.from_numpy(edges).to(device)
    wrong = _Counts(edges.shape, len(steps), num_points)
    for start in range(0, len(relevance.gallery_codes), GALLERY_PART):
        stop = min(start + GALLERY_PART, len(relevance.gallery_codes))
        of_part = [order[start:stop] for order in steps]
        for number, gallery in enumerate(galleries):
            distances = gallery.distances(block.queries, slice(start, stop))
            _leave_out(distances, relevance, block, start)
            wrong.add(number, _count(distances, edges_QW, of_part, num_points))
    right = _right(answers, edges, steps, num_points)
    return [
        _summary(right.active(order), wrong.active(order)) for order in range(max(1, len(steps)))
    ]


class _Counts:
    """Items by interval `[Q, W]`, and for each order the changes by step `[Q, C + 1, W]`."""

    def __init__(self, shape: tuple[int, ...], num_orders: int, num_points: int) -> None:
        self.before = np.zeros(shape, dtype=np.int32)
        self.changes = [
            np.zeros((shape[0], num_points + 1, shape[1]), dtype=np.int32)
            for _ in range(num_orders)
        ]

    def add(self, space: int, histograms: Sequence[NDArray[np.int64]]) -> None:
        """Count items of a space: leaving the first at their step, arriving in the second."""
        if space == 0:
            self.before += histograms[0].sum(1, dtype=np.int32)
        for change, histogram in zip(self.changes, histograms, strict=bool(self.changes)):
            np.add(change, histogram if space else -histogram, out=change, casting="same_kind")

    def active(self, order: int) -> NDArray[np.int32]:
        """Return the items of each interval at each point, `[Q, C, W]`."""
        if not self.changes:
            return self.before[:, None]
        arrived = self.changes[order][:, :-1].copy()
        arrived[:, 0] += self.before
        return np.cumsum(arrived, axis=1, out=arrived)


def _answers(galleries: Sequence[_Gallery], relevance: Relevance, block: Block) -> _Answers:
    shape = (len(block.queries), block.width)
    rows = np.zeros(shape, dtype=np.int64)
    distances = [np.full(shape, np.inf, dtype=np.float32) for _ in galleries]
    own = relevance.self_rows[block.queries]
    for start, stop, members in block.groups:
        rows[start:stop, : len(members)] = members
        is_self = members[None] == own[start:stop, None]
        for gallery, target in zip(galleries, distances, strict=True):
            for first in range(0, len(members), GALLERY_PART):
                part = members[first : first + GALLERY_PART]
                found = gallery.distances(block.queries[start:stop], part).cpu().numpy()
                target[start:stop, first : first + len(part)] = found
            target[start:stop, : len(members)][is_self] = np.inf
    return _Answers(rows, distances)


def _leave_out(distances: Tensor, relevance: Relevance, block: Block, offset: int) -> None:
    """Move right answers and the queries themselves behind everything."""
    stop = offset + distances.shape[1]
    for group in block.groups:
        first, last = np.searchsorted(group.rows, (offset, stop))
        if first < last:
            rows = torch.from_numpy(group.rows[first:last] - offset).to(distances.device)
            distances[group.start : group.stop].index_fill_(1, rows, torch.inf)
    own = relevance.self_rows[block.queries]
    here = np.flatnonzero((own >= offset) & (own < stop))
    if len(here):
        places = (torch.from_numpy(here), torch.from_numpy(own[here] - offset))
        distances[tuple(place.to(distances.device) for place in places)] = torch.inf


def _count(
    distances: Tensor, edges: Tensor, steps: Sequence[NDArray[np.int64]], num_points: int
) -> list[NDArray[np.int64]]:
    """Return for each order how many items are in each interval `(edge before, edge]`, by step.

    `[Q, C + 1, W]`; `[Q, 1, W]` without steps. What is behind the last edge is not counted.
    """
    if distances.is_cuda:
        return _count_by_search(distances, edges, steps, num_points)
    if not steps:
        ordered = torch.from_numpy(np.sort(distances.numpy(), axis=1))
        reached = torch.searchsorted(ordered, edges, right=True).numpy()
        return [np.diff(reached, axis=1, prepend=0)[:, None]]
    return _count_by_sorting(distances, edges, steps, num_points)


def _count_by_search(
    distances: Tensor, edges: Tensor, steps: Sequence[NDArray[np.int64]], num_points: int
) -> list[NDArray[np.int64]]:
    num_queries, width = edges.shape
    count = num_points + 1 if steps else 1
    first = torch.arange(num_queries, device=edges.device)[:, None] * (count * (width + 1))
    interval = torch.searchsorted(edges, distances) + first
    result: list[NDArray[np.int64]] = []
    for step in steps or [np.zeros(distances.shape[1], dtype=np.int64)]:
        places = interval + torch.from_numpy(step * (width + 1)).to(edges.device)
        size = num_queries * (width + 1) * count
        found = torch.bincount(places.flatten(), minlength=size)
        result.append(found.view(num_queries, count, width + 1)[..., :-1].cpu().numpy())
    return result


def _count_by_sorting(
    distances: Tensor, edges: Tensor, steps: Sequence[NDArray[np.int64]], num_points: int
) -> list[NDArray[np.int64]]:
    # On a CPU a vectorised sort is many times faster than a binary search of every distance. The
    # column travels in the low half of the key, so one sort serves all orders.
    num_queries, width = edges.shape
    keys = _sortable(distances.numpy())
    keys |= np.arange(keys.shape[1])
    keys.sort(axis=1)
    last_of_edge = _sortable(edges.numpy()) | 0xFFFFFFFF
    reached = torch.searchsorted(
        torch.from_numpy(keys), torch.from_numpy(last_of_edge), right=True
    ).numpy()
    sizes = np.diff(reached, axis=1, prepend=0, append=keys.shape[1])
    count = num_points + 1
    first = np.arange(num_queries)[:, None] * (count * (width + 1))
    interval = np.repeat((first + np.arange(width + 1)).ravel(), sizes.ravel())
    columns = (keys & 0xFFFFFFFF).ravel()
    result: list[NDArray[np.int64]] = []
    for step in steps:
        places = np.take(step * (width + 1), columns)
        places += interval
        found = np.bincount(places, minlength=sizes.size * count)
        result.append(found.reshape(num_queries, count, width + 1)[..., :-1])
    return result


def _sortable(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return int64 whose high halves are ordered as the float32 values are; low halves are 0."""
    bits = (values + np.float32(0)).view(np.int32)  # -0 becomes 0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    return bits.astype(np.int64) << 32


def _right(
    answers: _Answers,
    edges: NDArray[np.float32],
    steps: Sequence[NDArray[np.int64]],
    num_points: int,
) -> _Counts:
    num_queries, width = edges.shape
    counts = _Counts(edges.shape, len(steps), num_points)
    count = num_points + 1 if steps else 1
    first = np.arange(num_queries)[:, None] * (count * width)
    for number, distances in enumerate(answers.distances):
        found = torch.searchsorted(torch.from_numpy(edges), torch.from_numpy(distances)).numpy()
        there = np.isfinite(distances)
        interval = (found + first)[there]
        counts.add(
            number,
            [
                np.bincount(interval + step * width, minlength=edges.size * count).reshape(
                    num_queries, count, width
                )
                for step in ([order[answers.rows[there]] for order in steps] or [0])
            ],
        )
    return counts


def _summary(right: NDArray[np.int32], wrong: NDArray[np.int32]) -> Ranked:
    """Return precision averaged over right answers, and the wrong ones before the first of them."""
    nearest = (right > 0).argmax(2)[..., None]
    wrong_so_far = np.cumsum(wrong, axis=2, dtype=np.int32)
    ahead = np.take_along_axis(wrong_so_far, nearest, 2)[..., 0]
    right_so_far = np.cumsum(right, axis=2, dtype=np.int32)
    reached = np.maximum(wrong_so_far + right_so_far, 1)
    share = np.multiply(right_so_far, right, dtype=np.float64)
    share /= reached
    return Ranked((share.sum(2) / right_so_far[..., -1]).T, ahead.T.astype(np.int64))
