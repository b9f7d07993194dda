"""Best-fit-decreasing packing of documents into rows ("Fewer Truncations", arXiv 2404.10830).

Used by the baseline `bestfit` and by the tail `pack`. A chunk is never cut here. Chunks are packed
a window at a time: memory is one window, whatever the size of the input, and of a window only the
last few rows are padded.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PADDING = -1
"""Document number of positions that hold no token."""


class PackedRows(NamedTuple):
    """Rows and whose tokens they hold.

    Attributes:
        tokens: `[n, width]`; what stands in the padding means nothing.
        documents: int16 or int32 `[n, width]`: 0, 1, ... within a row, `PADDING` at its end.
    """

    tokens: NDArray[Any]
    documents: NDArray[Any]


def document_dtype(bucket: int) -> np.dtype[Any]:
    """Return the type of document numbers in rows of `2^bucket + 1` tokens."""
    return np.dtype(np.int16 if (1 << bucket) + 1 <= np.iinfo(np.int16).max + 1 else np.int32)


def run_lengths(documents: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many tokens each document has in each row of `[n, width]`, in order."""
    starts = np.ones(documents.shape, dtype=bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=documents.size)
    return lengths[documents.ravel()[first] >= 0]


def best_fit_decreasing(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Put each chunk, longest first, into the bin that it fills best.

    Of chunks of one length the earlier, of bins with the same space the older goes first. The bins
    stand sorted by their space: a chunk costs `O(log n)` comparisons.

    Args:
        lengths: Positive lengths `[n]`.
        capacity: Space of an empty bin.

    Returns:
        The bin of each chunk, int64 `[n]`; bins count from 0 in the order in which they are opened.

    Raises:
        ValueError: A chunk is empty or longer than `capacity`.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(
            f"chunks must have 1 to {capacity} tokens, got {lengths.min()} to {lengths.max()}"
        )
    bins = np.empty(len(lengths), dtype=np.int64)
    spaces: list[int] = []  # sorted, each once
    bins_by_space: dict[int, list[int]] = {}  # heaps
    opened = 0
    for chunk in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[chunk])
        place = bisect_left(spaces, length)
        if place == len(spaces):
            space, chosen = capacity, opened
            opened += 1
        else:
            space = spaces[place]
            chosen = heapq.heappop(bins_by_space[space])
            if not bins_by_space[space]:
                del bins_by_space[space], spaces[place]
        bins[chunk] = chosen
        left = space - length
        if left in bins_by_space:
            heapq.heappush(bins_by_space[left], chosen)
        elif left:
            bins_by_space[left] = [chosen]
            insort(spaces, left)
    return bins


class Packer:
    """Collect chunks and hand back packed rows.

    Within a row chunks stand in the order in which they came.

    Args:
        bucket: Rows have `2^bucket + 1` tokens.
        window_tokens: Tokens to collect before they are packed.
        fill: Token of the padding.
    """

    def __init__(self, bucket: int, *, window_tokens: int, fill: int) -> None:
        self._bucket = bucket
        self._width = (1 << bucket) + 1
        self._window_tokens = window_tokens
        self._fill = fill
        self._chunks: list[NDArray[Any]] = []
        self._size = 0

    def push(self, chunk: NDArray[Any]) -> Iterator[PackedRows]:
        """Add a chunk of 1 to `2^bucket + 1` tokens; yield the window's rows if that fills it."""
        self._chunks.append(chunk.copy())  # a view would keep its whole document in memory
        self._size += len(chunk)
        if self._size >= self._window_tokens:
            yield from self.flush()

    def flush(self) -> Iterator[PackedRows]:
        """Yield the rows of everything collected, none if there is nothing."""
        if self._chunks:
            chunks, self._chunks, self._size = self._chunks, [], 0
            yield self._pack(chunks)

    def _pack(self, chunks: list[NDArray[Any]]) -> PackedRows:
        bins = best_fit_decreasing(np.array([len(chunk) for chunk in chunks]), self._width)
        shape = (int(bins.max()) + 1, self._width)
        tokens = np.full(shape, self._fill, dtype=chunks[0].dtype)
        documents = np.full(shape, PADDING, dtype=document_dtype(self._bucket))
        used, numbers = [0] * shape[0], [0] * shape[0]
        for chunk, row in zip(chunks, bins.tolist(), strict=True):
            end = used[row] + len(chunk)
            tokens[row, used[row] : end] = chunk
            documents[row, used[row] : end] = numbers[row]
            used[row] = end
            numbers[row] += 1
        return PackedRows(tokens, documents)
