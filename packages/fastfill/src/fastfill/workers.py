"""Who is at work on a gallery, under names that outlive a kill.

A worker that is started again after a kill gets the name it had, and with it the leases of its
unfinished batch, which nobody else could take before they expire.
"""

import fcntl
import re
import socket
from itertools import count
from pathlib import Path
from typing import IO, Self

WORKERS = "workers"


class WorkerName:
    """The first free name `<host>-<number>` of a gallery's workers on this machine.

    Args:
        folder: Of the gallery.

    Attributes:
        name: Nobody else has it until `release` or the end of the process.
    """

    def __init__(self, folder: Path) -> None:
        (folder / WORKERS).mkdir(exist_ok=True)
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
        for number in count():
            name = f"{host}-{number}"
            file = (folder / WORKERS / f"{name}.lock").open("a")
            if _locked(file):
                self.name, self._file = name, file
                return
            file.close()

    def release(self) -> None:
        """Let others have the name."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def count_workers(folder: Path) -> int:
    """Return how many workers are at a gallery now, on all machines that share its folder."""
    return sum(_is_held(path) for path in (folder / WORKERS).glob("*.lock"))


def _is_held(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
