"""A set of row numbers as a growing bitmap: gallery rows are dense, so a byte each is little."""

import numpy as np
from numpy.typing import NDArray


class RowSet:
    """Rows (int64, >= 0) with whole-array membership tests."""

    def __init__(self) -> None:
        self._member = np.zeros(0, dtype=bool)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: NDArray[np.int64]) -> None:
        """Add rows; those already there do not count twice."""
        if rows.size:
            self._member = grown(self._member, int(rows.max()) + 1, False)
            unique = np.unique(rows)
            self._count += int((~self._member[unique]).sum())
            self._member[unique] = True

    def discard(self, rows: NDArray[np.int64]) -> None:
        """Remove rows; those not there are ignored."""
        there = np.unique(rows[self.has(rows)])
        self._count -= there.size
        self._member[there] = False

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each row whether it is a member."""
        known = rows < self._member.size
        found = np.zeros(rows.shape, dtype=bool)
        found[known] = self._member[rows[known]]
        return found

    def rows(self) -> NDArray[np.int64]:
        """Return the members, ascending."""
        return np.flatnonzero(self._member).astype(np.int64)

    def bits(self) -> NDArray[np.uint8]:
        """Return the bitmap with eight rows a byte, the lowest row in the lowest bit."""
        return np.packbits(self._member, bitorder="little")

    def clear(self) -> None:
        """Remove all members."""
        self._member = np.zeros(0, dtype=bool)
        self._count = 0


def grown(array: NDArray, length: int, fill: object) -> NDArray:
    """Return the array itself where it is long enough, else a longer one padded with `fill`.

    The length doubles, so that adding rows one by one costs linear time in all.
    """
    if length <= array.size:
        return array
    longer = np.full(max(length, 2 * array.size), fill, dtype=array.dtype)
    longer[: array.size] = array
    return longer
