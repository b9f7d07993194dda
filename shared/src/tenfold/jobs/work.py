"""One job: call the function in a private folder, then seal what it wrote. Runs in any process."""

import errno
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.atomic import sha256_file
from tenfold.jobs.marks import FileRecord, json_result

STATE = ".jobs"
STORAGE_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True)
class Call:
    """A job on its way to a worker: its key, its task and the private folder to make and fill."""

    key: str
    task: Any
    folder: Path


@dataclass(frozen=True)
class Done:
    """A job that succeeded; its files are durable in the private folder but not yet in place."""

    files: dict[str, FileRecord]
    result: Any


@dataclass(frozen=True)
class Failed:
    """A job that raised.

    Attributes:
        reason: One line.
        traceback: For whoever looks for a mistake in the program.
        storage_full: Every other job would fail as well.
        explained: By a `ValueError`, which is a word to the user: its line says all.
    """

    reason: str
    traceback: str = ""
    storage_full: bool = False
    explained: bool = False


Outcome = Done | Failed


def perform(function: Callable[[Any, Path], object], call: Call) -> Outcome:
    """Run one job; its errors come back as text, since not every exception can be pickled."""
    try:
        call.folder.mkdir(parents=True)
        result = json_result(function(call.task, call.folder))
        return Done(_seal(call.folder), result)
    except (Exception, SystemExit) as error:
        full = isinstance(error, OSError) and error.errno in STORAGE_FULL
        explained = isinstance(error, ValueError) and bool(str(error).strip())
        said = str(error) if explained else f"{type(error).__name__}: {error}"
        return Failed(
            " ".join(said.split()),
            traceback.format_exc(),
            storage_full=full,
            explained=explained,
        )


def _seal(folder: Path) -> dict[str, FileRecord]:
    """Make every file durable and record it, in sorted order."""
    records: dict[str, FileRecord] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"the job made {name!r}, expected only plain files and folders")
        if name == STATE or name.startswith(f"{STATE}/"):
            raise ValueError(f"the job wrote {name!r}, but {STATE!r} is the place of the marks")
        if path.is_file():
            _fsync(path)
            records[name] = FileRecord(path.stat().st_size, sha256_file(path))
    return records


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
