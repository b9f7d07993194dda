"""Where a backfill's results go: into the gallery, or to the process that writes it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastfill.gallery import Gallery, GalleryBusyError, GalleryReader, Message, submit
from fastfill.gallery.pending import waiting

logger = logging.getLogger(__name__)


class ResultSink(Protocol):
    """Takes results.

    Attributes:
        gallery: What this process sees of the gallery.
        writes: Whether this process is the gallery's writer.
    """

    gallery: GalleryReader
    writes: bool

    def put(
        self,
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32],
        reasons: Mapping[int, str],
        *,
        epoch: int,
    ) -> int:
        """Make new vectors and reasons of failures durable; return how many rows have failed.

        Args:
            rows: That have vectors.
            vectors: `[n, d_n]`.
            reasons: Of rows that have none.
            epoch: Of the gallery when the rows were taken: after a roll-back they count no more.
        """
        ...

    def settle(self) -> bool:
        """Apply what others have left, where this process may; return whether nothing is left."""
        ...

    def close(self) -> None:
        """Make everything durable and let go of the gallery."""
        ...


class WriterSink:
    """This process writes the gallery, also what other workers leave in the inbox."""

    writes = True

    def __init__(self, gallery: Gallery) -> None:
        self.gallery: GalleryReader = gallery
        self._writer = gallery

    def put(
        self,
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32],
        reasons: Mapping[int, str],
        *,
        epoch: int,
    ) -> int:
        """Apply results."""
        # Nobody else can roll back what this process writes.
        assert epoch == self.gallery.state.epoch, (epoch, self.gallery.state.epoch)
        applied = self._writer.apply(rows, vectors)
        for row, reason in reasons.items():
            self._writer.fail(row, reason)
        return len(applied.rejected) + len(reasons)

    def retry_failed(self) -> int:
        """Put failed items back into the queue and return how many there are."""
        return self._writer.retry_failed()

    def settle(self) -> bool:
        """Apply the inbox."""
        self._writer.apply_pending()
        return True

    def close(self) -> None:
        """Checkpoint and give back the right to write."""
        self._writer.close()


class InboxSink:
    """Another process, such as `serve`, writes the gallery: results go to its inbox."""

    writes = False

    def __init__(self, gallery: GalleryReader, *, sender: str) -> None:
        self.gallery = gallery
        self._sender = sender

    def put(
        self,
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32],
        reasons: Mapping[int, str],
        *,
        epoch: int,
    ) -> int:
        """Leave results in the inbox; vectors that the writer will reject count as failed."""
        message = Message(
            kind="result", rows=rows, vectors=vectors, reasons=dict(reasons), epoch=epoch
        )
        submit(self.gallery.folder, message, sender=self._sender)
        good = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
        return len(reasons) + int((~good).sum())

    def settle(self) -> bool:
        """Apply the inbox where its writer has gone; else wait for that one."""
        if not waiting(self.gallery.folder):
            return True
        writer = _writer_of(self.gallery.folder)
        if writer is None:
            return False
        with writer:
            writer.apply_pending()
        return True

    def close(self) -> None:
        """Do nothing: results are durable."""


def open_sink(folder: Path, *, sender: str) -> ResultSink:
    """Become the writer of a gallery, or a contributor where there is one.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: It is damaged.
    """
    reader = Gallery.open(folder, "r")
    writer = _writer_of(folder)
    if writer is not None:
        return WriterSink(writer)
    logger.info("another process writes %s: results go to its inbox", folder)
    return InboxSink(reader, sender=sender)


def _writer_of(folder: Path) -> Gallery | None:
    try:
        return Gallery.open(folder, "w")
    except GalleryBusyError:
        return None
