"""Ctrl-C and SIGTERM as a wish to stop, looked at between batches."""

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """While it is entered, the first signal is noted and a second one interrupts at once.

    Attributes:
        number: Of the signal that came, None before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}
        self._came = threading.Event()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                # An ignored signal stays ignored: nohup and background shells ask for that.
                if before != signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def sleep(self, seconds: float) -> None:
        """Sleep, shorter when a signal comes."""
        self._came.wait(seconds)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt(number)
        self.number = number
        self._came.set()
