"""Keeps a gallery and its index in step while requests come: one thread, the gallery's writer.

Where another process writes the gallery, this one follows it as a reader, and takes over when that
one has gone.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastfill.gallery import (
    Gallery,
    GalleryBusyError,
    GalleryReader,
    read_control,
    set_paused,
)
from fastfill.live_index import LiveIndex
from fastfill.serve.worker import BackfillWorker

logger = logging.getLogger(__name__)

POLL_S = 0.2
"""How often changes are looked for."""
RETRY_S = 5.0
"""How long to wait after a failure, and before asking for the writer's place again."""
MESSAGES = 16
"""Changes of the inbox that are applied before the index is brought in step."""


class Keeper:
    """A gallery with its index; `start` begins to apply and to follow changes.

    Args:
        folder: Of the gallery.
        backend: Of the index; the gallery's own if absent.
        worker: A backfill to start while there is work.

    Attributes:
        live: The index.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: It is damaged, or the backend is unknown or not installed.
    """

    def __init__(
        self, folder: Path, *, backend: str | None = None, worker: BackfillWorker | None = None
    ) -> None:
        self.folder = folder
        self._problems: dict[str, str] = {}
        self._writer: Gallery | None = None
        self._reader = Gallery.open(folder, "r")
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._worker = worker
        self._retry_at: dict[str, float] = {}
        self._ask_at = 0.0
        self._take_writer()  # first, so that the index sees what a crash has left
        try:
            self.live = LiveIndex(folder, backend)
        except BaseException:
            self._give_writer_back()
            raise
        self._closed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why changes cannot be applied or no backfill started now; None when all is well."""
        return "; ".join(list(self._problems.values())) or None

    @property
    def writes(self) -> bool:
        """Whether this process is the gallery's writer."""
        return self._writer is not None

    @contextmanager
    def view(self) -> Iterator[GalleryReader]:
        """Lend a reader of the gallery as it is now, to one thread at a time."""
        with self._reading:
            self._reader.refresh()
            yield self._reader

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def rollback(
        self,
        to: Literal["transformed", "old", "new"],
        *,
        z: Callable[[GalleryReader, NDArray[np.int64]], NDArray[np.float32]] | None = None,
    ) -> int:
        """Roll the gallery back, or forward to `new`, as `Gallery.rollback`; bring the index along.

        On the way back the backfill is paused first, so that nobody begins another batch.

        Args:
            to: `transformed`, `old` or `new`.
            z: Gives the vectors of h `[n, d_n]` of rows, needed for `transformed`.

        Raises:
            GalleryBusyError: Another process is the gallery's writer.
            OSError: The disk is full.
            ValueError: As `Gallery.rollback`.
        """
        with self._writing:
            writer = self._writer
            if writer is None:
                raise GalleryBusyError(
                    f"another process writes {self.folder.name}: end that one, or roll back there"
                )
            if to != "new":
                set_paused(self.folder, paused=True)
            try:
                changed = writer.rollback(to, z=None if z is None else lambda rows: z(writer, rows))
            except OSError:
                self._reopen()
                raise
            self.live.refresh()
        return changed

    def close(self) -> None:
        """Stop, make everything durable, and let others write; requests must have ended."""
        if self._closed:
            return
        self._closed = True
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self._worker is not None:
                self._worker.stop()
                self._settle()  # what the worker had in flight
        finally:
            self._let_go()

    def _settle(self) -> None:
        if self._writer is not None:
            self._writer.apply_pending()

    def _let_go(self) -> None:
        try:
            self._give_writer_back()
        finally:
            self.live.close()

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            if not self._try("apply changes", self._apply):
                with self._writing:
                    self._reopen()
            self._try("start a backfill", self._tend_worker)

    def _try(self, what: str, action: Callable[[], None]) -> bool:
        """Do it; note a failure and wait then, since the thread must outlive all of them."""
        if time.monotonic() < self._retry_at.get(what, 0.0):
            return True
        try:
            action()
        except Exception as error:
            self._problems[what] = " ".join(str(error).split()) or type(error).__name__
            self._retry_at[what] = time.monotonic() + RETRY_S
            expected = isinstance(error, OSError | ValueError)  # a full disk, a damaged file
            logger.error(
                "cannot %s, trying again in %g s: %s", what, RETRY_S, error, exc_info=not expected
            )
            return False
        self._problems.pop(what, None)
        return True

    def _apply(self) -> None:
        """Apply what waits and bring the index in step."""
        more = True
        while more and not self._stopping.is_set():
            with self._writing:
                if self._writer is None and time.monotonic() >= self._ask_at:
                    self._take_writer()
                applied = 0 if self._writer is None else self._writer.apply_pending(limit=MESSAGES)
                self.live.refresh()
            more = applied == MESSAGES

    def _tend_worker(self) -> None:
        if self._worker is None or self._worker.state == "running":
            return
        with self.view() as gallery:
            work = not read_control(self.folder).paused and len(gallery.queue(1)) > 0
        self._worker.tend(work=work)

    def _reopen(self) -> None:
        """Let go of a writer that has failed: opening it again replays the journal."""
        try:
            self._give_writer_back()
        except Exception:
            logger.exception("closing the gallery")

    def _take_writer(self) -> None:
        try:
            self._writer = Gallery.open(self.folder, "w")
        except GalleryBusyError as error:
            self._ask_at = time.monotonic() + RETRY_S
            logger.debug("%s", error)

    def _give_writer_back(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
