"""Append-only files of JSON lines: the ids of a gallery, and what went wrong with which item."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Lines:
    """A file of one JSON value a line; lines never change, new ones come at the end.

    Attributes:
        values: All whole lines read so far.
        num_bytes: Where they end.

    Args:
        path: The file; must exist.
        num_bytes: Reads so many bytes and no more, everything if absent.

    Raises:
        ValueError: A line is not JSON, or the file is shorter than `num_bytes`.
    """

    def __init__(self, path: Path, *, num_bytes: int | None = None) -> None:
        self.path = path
        self.values: list[Any] = []
        self.num_bytes = 0
        if num_bytes is not None and path.stat().st_size < num_bytes:
            raise ValueError(f"{path} is shorter than {num_bytes} bytes; the gallery is damaged")
        self.read_more(limit=num_bytes)

    def read_more(self, *, limit: int | None = None) -> list[Any]:
        """Read lines that another process has added since, and return them."""
        with self.path.open("rb") as file:
            file.seek(self.num_bytes)
            text = file.read() if limit is None else file.read(limit - self.num_bytes)
        text = text[: text.rfind(b"\n") + 1]
        try:
            values = json.loads(b"[" + text.rstrip(b"\n").replace(b"\n", b",") + b"]")
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged: {error}") from None
        self.num_bytes += len(text)
        self.values += values
        return values

    def append(self, values: Iterable[Any]) -> None:
        """Write lines at the end of what was read; what stood there is overwritten."""
        values = list(values)
        text = as_lines(values)
        with self.path.open("r+b") as file:
            file.truncate(self.num_bytes)
            file.seek(self.num_bytes)
            file.write(text)
        self.num_bytes += len(text)
        self.values += values

    def flush(self) -> None:
        """Make the file durable."""
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())


def as_lines(values: Iterable[Any]) -> bytes:
    """Return values as JSON lines; a line break inside a text is escaped."""
    return "".join(f"{json.dumps(value)}\n" for value in values).encode()
