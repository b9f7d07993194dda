"""One writer a gallery: a lock that ends with its process."""

import fcntl
import os
from pathlib import Path
from typing import IO

LOCK = "gallery.lock"


class GalleryBusyError(ValueError):
    """Another process writes the gallery."""


class WriterLock:
    """Hold the right to write a gallery until `release` or the end of the process.

    Raises:
        GalleryBusyError: Somebody else holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[str] = (folder / LOCK).open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise GalleryBusyError(
                f"{folder} is being written by process {holder or 'unknown'}; wait until it ends, "
                "or end it"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others write."""
        self._file.close()
