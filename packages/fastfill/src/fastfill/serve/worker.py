"""The backfill that a service runs itself: a process beside it, so that queries stay quick."""

import logging
import multiprocessing
import time
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

RESTART_S = 60.0
"""Least time between two starts: failed items are due again after such times."""
STOP_S = 60.0
"""How long a batch in flight may take to end."""


class BackfillWorker:
    """Starts a backfill of the gallery, and again while there is work.

    Args:
        folder: Of the gallery.
        model: The new model.
        source: Originals.
        metric: Of the model.
        device: Where it runs.
    """

    def __init__(self, folder: Path, *, model: str, source: str, metric: str, device: str) -> None:
        self._arguments = (folder, model, source, metric, device)
        self._process: Any = None
        self._started = 0.0

    @property
    def state(self) -> str:
        """Return `running`, `idle`, or `failed` after an error, which the log tells."""
        if self._process is None:
            return "idle"
        if self._process.is_alive():
            return "running"
        return "failed" if self._process.exitcode else "idle"

    def tend(self, *, work: bool) -> None:
        """Start a process where there is work and none runs."""
        waited = time.monotonic() - self._started
        if not work or self.state == "running" or (self._process and waited < RESTART_S):
            return
        self._started = time.monotonic()
        # spawn: threads and locks of the service must not be copied.
        self._process = multiprocessing.get_context("spawn").Process(
            target=_backfill, args=self._arguments, name="backfill", daemon=True
        )
        self._process.start()
        logger.info("backfill started as process %d", self._process.pid)

    def stop(self) -> None:
        """Let the batch in flight end, and the process with it."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(STOP_S)
        if self._process.is_alive():
            logger.warning("the backfill did not end within %g s and is killed", STOP_S)
            self._process.kill()
            self._process.join()


def _backfill(folder: Path, model: str, source: str, metric: Any, device: str) -> None:
    from fastfill.backfill_run import run_backfill
    from fastfill.batch_job import BatchJob

    job = BatchJob(model=model, source=source, metric=metric, devices=(device,))
    run_backfill(folder, job)
