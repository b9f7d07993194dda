"""Which items of a gallery are right answers to which queries; numpy only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = Sequence[str | None] | NDArray[np.generic]
"""Whole numbers, negative for an unlabelled item, or texts, None for an unlabelled one."""


class Group(NamedTuple):
    """Neighbouring queries of a block that share one label, and the rows that have it."""

    start: int
    stop: int
    rows: NDArray[np.int64]


class Block(NamedTuple):
    """Queries that are ranked together, and their groups by label."""

    queries: NDArray[np.int64]
    groups: list[Group]

    @property
    def width(self) -> int:
        """The most rows that a query of the block shares its label with."""
        return max(len(group.rows) for group in self.groups)


@dataclass(frozen=True)
class Relevance:
    """Labels of queries and gallery, numbered alike.

    Args:
        query_codes: One number a query, -1 without a label.
        gallery_codes: One number an item, -1 without a label.
        self_rows: Row of the gallery that is the query itself, -1 where none is; never an answer.
    """

    query_codes: NDArray[np.int64]
    gallery_codes: NDArray[np.int64]
    self_rows: NDArray[np.int64]

    @property
    def num_positives(self) -> NDArray[np.int64]:
        """Right answers to each query, itself not counted."""
        sizes = np.append(self._sizes(), 0)  # the last is what -1 looks up
        own = (self.self_rows >= 0) & (self.gallery_codes[self.self_rows] == self.query_codes)
        return sizes[self.query_codes] - (own & (self.query_codes >= 0))

    def blocks(self, *, most: int, entries: int, fixed: int, scale: int) -> Iterator[Block]:
        """Yield all queries that have an answer, those of one label next to each other.

        Args:
            most: Queries a block holds at most.
            entries: What a block may hold in all, in bytes.
            fixed: Bytes of a query whatever its label.
            scale: Bytes of a query for each item of its label.
        """
        sizes, by_code = self._sizes(), np.argsort(self.gallery_codes, kind="stable")
        ends = np.cumsum(sizes) + np.count_nonzero(self.gallery_codes < 0)
        queries = np.flatnonzero(self.num_positives)
        codes = self.query_codes[queries]
        queries = queries[np.lexsort((codes, sizes[codes]))]
        start = 0
        while start < len(queries):
            ahead = sizes[self.query_codes[queries[start : start + most]]]
            # Sizes ascend, so a query's own is the widest of the block that it would end.
            fits = (fixed + scale * ahead) * np.arange(1, len(ahead) + 1) <= entries
            stop = start + max(1, int(np.count_nonzero(fits)))
            chosen = queries[start:stop]
            yield Block(chosen, self._groups(chosen, by_code, ends, sizes))
            start = stop

    def _sizes(self) -> NDArray[np.int64]:
        most = int(max(self.query_codes.max(initial=-1), self.gallery_codes.max(initial=-1))) + 1
        return np.bincount(self.gallery_codes[self.gallery_codes >= 0], minlength=most)

    def _groups(
        self,
        queries: NDArray[np.int64],
        by_code: NDArray[np.int64],
        ends: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> list[Group]:
        codes = self.query_codes[queries]
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        stops = np.append(starts[1:], len(codes))
        return [
            Group(int(start), int(stop), by_code[ends[code] - sizes[code] : ends[code]])
            for start, stop, code in zip(starts, stops, codes[starts], strict=True)
        ]


def relevance(
    query_labels: Labels, gallery_labels: Labels, *, self_rows: NDArray[np.int64] | None = None
) -> Relevance:
    """Number the labels of queries and gallery alike.

    Raises:
        ValueError: Labels are neither whole numbers nor texts, or not of one kind; `self_rows` has
            another length than the queries or a row outside of the gallery.
    """
    query_codes, gallery_codes = _codes(query_labels, gallery_labels)
    if self_rows is None:
        self_rows = np.full(len(query_codes), -1, dtype=np.int64)
    self_rows = np.asarray(self_rows, dtype=np.int64)
    if self_rows.shape != query_codes.shape:
        raise ValueError(
            f"self_rows has {self_rows.size} rows for {len(query_codes)} queries: give one a query"
        )
    if self_rows.max(initial=-1) >= len(gallery_codes):
        raise ValueError(
            f"self_rows has row {self_rows.max()}, but the gallery has {len(gallery_codes)} items"
        )
    return Relevance(query_codes, gallery_codes, self_rows)


def _codes(first: Labels, second: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    kinds = {_kind(labels) for labels in (first, second) if len(labels)}
    if len(kinds) > 1:
        raise ValueError("labels of queries and gallery must both be whole numbers or both texts")
    if kinds == {"number"}:
        both = np.concatenate([np.asarray(first, np.int64), np.asarray(second, np.int64)])
        codes = np.unique(both, return_inverse=True)[1].astype(np.int64)
        codes[both < 0] = -1
    else:
        numbers: dict[str | None, int] = {None: -1}
        texts = [None if label is None else str(label) for label in (*first, *second)]
        codes = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
    return codes[: len(first)], codes[len(first) :]


def _kind(labels: Labels) -> str:
    values = np.asarray(labels)
    if values.ndim == 1 and values.dtype.kind in "iu":
        return "number"
    if values.ndim == 1 and all(label is None or isinstance(label, str) for label in labels):
        return "text"
    raise ValueError(
        f"labels must be a list of whole numbers or of texts, got {values.dtype} of shape "
        f"{values.shape}"
    )
