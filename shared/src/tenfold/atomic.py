"""Files that are whole or absent: temporary name in the same folder, fsync, rename.

Standard library only, so that verbs that merely handle data stay light.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

TEMPORARY = ".tmp-"


@contextmanager
def open_atomic(path: Path | str, mode: str = "wb") -> Generator[IO[Any]]:
    """Open a file that takes its name only when the block ends without an error.

    Missing folders are made. On any error the temporary file is removed and an older file of that
    name stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    encoding = None if "b" in mode else "utf-8"
    try:
        with temporary.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path.parent)


def temporary_name(path: Path) -> Path:
    """Return an unused hidden name beside `path`; `remove_temporaries` knows such names."""
    return path.with_name(f".{path.name}{TEMPORARY}{uuid.uuid4().hex[:12]}")


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left in `folder` (not in its subfolders)."""
    for left_over in folder.glob(f".*{TEMPORARY}*"):
        left_over.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` atomically."""
    with open_atomic(path) as file:
        file.write(data)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 `text` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def fsync_dir(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path | str) -> str:
    """Return the hex SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
