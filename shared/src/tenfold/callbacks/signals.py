"""Signals that ask a training to stop."""

import logging
import os
import signal
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(BaseException):
    """Training ended early because of a signal.

    Args:
        signum: The signal.
        checkpoint: Where the run goes on; none when it had not begun.
    """

    def __init__(self, signum: int, checkpoint: Path | None) -> None:
        where = f"the run is saved in {checkpoint}" if checkpoint else "before the first checkpoint"
        super().__init__(f"stopped by {signal.Signals(signum).name}, {where}")
        self.exit_code = 128 + signum
        self.checkpoint = checkpoint


class StopSignal:
    """SIGTERM and SIGINT ask for a stop at the next batch border; a second one ends the process.

    Lightning's own SIGTERM handler broadcasts from inside the handler and ends with exit code 0, so
    this one takes its place while training runs. What handled the signals when the object was made,
    before Lightning, gets them back: Lightning has left by then.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def install(self) -> None:
        """Take over both signals; once is enough."""
        for signum in SIGNALS:
            signal.signal(signum, self._handle)

    def uninstall(self) -> None:
        """Give both signals back."""
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.received = signum
        log.warning("%s: stopping after this batch", signal.Signals(signum).name)
