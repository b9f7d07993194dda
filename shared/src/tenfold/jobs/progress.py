"""Progress of a run of jobs: a Rich bar on a terminal, a log line every tenth otherwise."""

import logging
import sys
from contextlib import ExitStack
from types import TracebackType

logger = logging.getLogger(__name__)


class JobProgress:
    """Count finished and failed jobs in front of the user.

    Args:
        title: Name of the jobs.
        total: Number of jobs.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title = title
        self.total = total
        self.finished = 0
        self.failed = 0
        self._bar = _Bar(title, total) if sys.stderr.isatty() else None
        self._stack = ExitStack()

    def __enter__(self) -> "JobProgress":
        if self._bar is not None:
            self._stack.enter_context(self._bar.progress)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def step(self, *, failed: bool = False) -> None:
        """Count one more job that ended."""
        tenths_before = 10 * (self.finished + self.failed) // self.total
        self.finished += not failed
        self.failed += failed
        ended = self.finished + self.failed
        if self._bar is not None:
            self._bar.update(ended, self.failed)
        elif 10 * ended // self.total > tenths_before:
            logger.info("%s: %d of %d ended, %d failed", self.title, ended, self.total, self.failed)


class _Bar:
    def __init__(self, title: str, total: int) -> None:
        # Here, so that workers and log files do not pay for it.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]} failed"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.bar = self.progress.add_task(title, total=total, failed=0)

    def update(self, ended: int, failed: int) -> None:
        self.progress.update(self.bar, completed=ended, failed=failed)
