"""Concat-and-chunk, the baseline: glue all documents and cut every `length` tokens.

Rows have the form of the pieces of `decompose` (`length + 1` tokens), so that one trainer reads
both. Pure; documents come one after the other, memory is one document and one row.
"""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dataset_decomposition.decompose import Mode


class Chunker:
    """Glue documents and hand back full rows.

    `mode` means the same as for pieces: with `overlap1` a row starts with the last token of the row
    before it, with `disjoint` behind it.
    """

    def __init__(self, length: int, *, mode: Mode = "disjoint") -> None:
        """Cut rows of `length + 1` tokens.

        Raises:
            ValueError: `length` is not positive.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1 token, got {length}")
        self._width = length + 1
        self._step = length + 1 if mode == "disjoint" else length
        self._parts: list[NDArray[Any]] = []
        self._size = 0
        self._covered = 0

    @property
    def covered(self) -> int:
        """Number of pushed tokens that are stored in at least one row so far."""
        return self._covered

    def crosses(self, num_tokens: int) -> bool:
        """Whether a document of `num_tokens` tokens, pushed next, will not lie whole in one row."""
        return self._size % self._step + num_tokens > self._width

    def push(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """Add a document and return the rows it completes, `[n, length + 1]`, n possibly 0."""
        self._parts.append(tokens)
        self._size += len(tokens)
        if self._size < self._width:
            return np.empty((0, self._width), dtype=tokens.dtype)
        glued = np.concatenate(self._parts)
        count = (self._size - self._width) // self._step + 1
        rows = sliding_window_view(glued, self._width)[: count * self._step : self._step].copy()
        self._parts = [glued[count * self._step :].copy()]
        self._size = len(self._parts[0])
        if not self._covered:
            self._covered = self._width - self._step
        self._covered += count * self._step
        return rows
