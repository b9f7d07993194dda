"""The ids of a gallery's items: one JSON text a line, the line's number is the row."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastfill.gallery.lines import Lines

IDS = "ids.jsonl"


class ItemIds:
    """Ids by row and rows by id; the latter are looked up in a table built at the first use.

    Args:
        folder: Of the gallery.
        num_bytes: Reads so many bytes of the file, everything if absent.
    """

    def __init__(self, folder: Path, *, num_bytes: int | None = None) -> None:
        self.lines = Lines(folder / IDS, num_bytes=num_bytes)
        self._rows: dict[str, int] | None = None

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.lines.values)

    def of(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows."""
        return [self.lines.values[row] for row in rows.tolist()]

    def row_of(self, item: str) -> int | None:
        """Return the row of an id, the last one of an item that was deleted and added again."""
        if self._rows is None:
            self._rows = {value: row for row, value in enumerate(self.lines.values)}
        return self._rows.get(item)

    def append(self, ids: Sequence[str]) -> None:
        """Add ids at the end."""
        start = self.size
        self.lines.append(ids)
        self._note(ids, start)

    def read_more(self) -> None:
        """Read what another process has added."""
        start = self.size
        self._note(self.lines.read_more(), start)

    def _note(self, ids: Sequence[str], start: int) -> None:
        if self._rows is not None:
            self._rows |= {value: start + i for i, value in enumerate(ids)}


def check_ids(ids: Iterable[str]) -> list[str]:
    """Return ids as a list.

    Raises:
        ValueError: One is empty or no text, or two are alike.
    """
    ids = list(ids)
    for number, item in enumerate(ids):
        if not isinstance(item, str) or not item:
            raise ValueError(f"an item's id must be text, got {item!r:.40} as number {number}")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        first = next(item for item in ids if item in seen or seen.add(item))
        raise ValueError(
            f"{len(ids) - len(set(ids))} ids are there twice, the first is {first!r:.80}; "
            "make every id unique"
        )
    return ids
