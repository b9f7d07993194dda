"""Texts in one file: a text a line, or JSON lines with ids, labels and groups. Free of torch."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfill.originals import UNLABELLED, Kind, OriginalError, Source
from tenfold.atomic import sha256_file

_KNOWN = ("id", "text", "label", "group")


class TextFile(Source):
    """Texts of one file.

    In a `.txt` each line is a text and its id the line's number from 0. In a `.jsonl` each line is
    `{"id": ..., "text": ..., "label": ..., "group": ...}`; label (a number, or a name) and group
    may be left out.

    Args:
        path: The file.
        name: What the user called it.

    Raises:
        ValueError: A line is malformed, or an id stands twice.
    """

    kind: Kind = "text"

    def __init__(self, path: Path, *, name: str) -> None:
        super().__init__(name)
        self.path = path
        rows = _json_rows(path) if path.suffix == ".jsonl" else _plain_rows(path)
        self._rows = {row["id"]: row for row in rows}
        self._ids = tuple(self._rows)
        if not rows:
            raise ValueError(f"{path} holds no texts")
        if len(self._ids) < len(rows):
            seen: set[str] = set()
            twice = next(row["id"] for row in rows if row["id"] in seen or seen.add(row["id"]))
            raise ValueError(f"{path}: id {twice!r} stands twice; ids must be distinct")

    def ids(self) -> Sequence[str]:
        """Return the ids in the order of the lines."""
        return self._ids

    def load(self, id: str) -> str:
        """Return a text.

        Raises:
            OriginalError: There is no such id, or its text is empty.
        """
        if id not in self._rows:
            raise OriginalError(id, f"is missing from {self.path}")
        text = self._rows[id]["text"].strip()
        if not text:
            raise OriginalError(id, "is an empty text")
        return text

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The labels that are names, sorted; empty where labels are numbers."""
        names = {row.get("label") for row in self._rows.values()}
        return tuple(sorted(name for name in names if isinstance(name, str)))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The numbers, or indices into `class_names`.

        Raises:
            ValueError: Some labels are names and some are numbers.
        """
        found = [row.get("label") for row in self._rows.values()]
        if self.class_names and any(isinstance(label, int) for label in found):
            raise ValueError(f"{self.path}: some labels are names and some are numbers; use one")
        numbers = {name: index for index, name in enumerate(self.class_names)}
        return np.array(
            [UNLABELLED if label is None else numbers.get(label, label) for label in found],
            dtype=np.int64,
        )

    @cached_property
    def groups(self) -> tuple[str, ...] | None:
        """The groups, empty for lines without one; None where no line has one."""
        found = [row.get("group") for row in self._rows.values()]
        if all(group is None for group in found):
            return None
        return tuple("" if group is None else str(group) for group in found)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return sha256_file(self.path)


def _plain_rows(path: Path) -> list[dict[str, Any]]:
    lines = _text(path).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [{"id": str(number), "text": line} for number, line in enumerate(lines)]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    # Not splitlines: JSON may hold other line separators unescaped.
    lines = enumerate(_text(path).split("\n"), start=1)
    return [_row(line, f"{path}:{number}") for number, line in lines if line.strip()]


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: is no JSON: {error}") from None
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: must be a JSON object, got {line[:40]!r}")
    for key in ("id", "text"):
        if not isinstance(row.get(key), str):
            raise ValueError(f"{place}: {key!r} must be a text, got {row.get(key)!r:.40}")
    label = row.get("label")
    if isinstance(label, bool) or not (
        label is None or isinstance(label, str) or (isinstance(label, int) and label >= 0)
    ):
        raise ValueError(f"{place}: 'label' must be a name or a number >= 0, got {label!r:.40}")
    return {key: row[key] for key in _KNOWN if key in row}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error.reason}") from None
