"""How long a training step takes, and for what share of that time the device has work."""

import time
from typing import Any

import lightning
import torch

SKIPPED = 10
"""One in so many steps is left out at the start: loaders fill their queues, kernels are chosen."""

Mark = torch.cuda.Event | float


class StepClock(lightning.Callback):
    """Marks the start and the end of every step of a training.

    On a GPU the marks are events in its own queue, so that nothing waits for them. From one step's
    end to the next one's start the device had nothing to do but wait for a batch. What it idles
    within a step, between two kernels, counts as work: the share is an upper bound of what a
    driver reports as utilisation, and needs no library of the driver.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._steps: list[tuple[Mark, Mark]] = []
        self._started: Mark = 0.0

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Mark the start of a step."""
        self._started = self._mark()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Mark the end of a step."""
        self._steps.append((self._started, self._mark()))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the device, whose marks can be read then."""
        if self._on_gpu:
            torch.cuda.synchronize()

    @property
    def step_seconds(self) -> float:
        """Seconds from one step's start to the next one's, waiting for batches included."""
        steps = self._measured()
        return _seconds(steps[0][0], steps[-1][1]) / len(steps)

    @property
    def busy_share(self) -> float:
        """Share of the time in which a step was under way, 0..1."""
        steps = self._measured()
        busy = sum(_seconds(started, ended) for started, ended in steps)
        return busy / _seconds(steps[0][0], steps[-1][1])

    def _mark(self) -> Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _measured(self) -> list[tuple[Mark, Mark]]:
        assert self._steps, "no training has run"
        return self._steps[len(self._steps) // SKIPPED :]


def _seconds(started: Mark, ended: Mark) -> float:
    if isinstance(started, torch.cuda.Event):
        assert isinstance(ended, torch.cuda.Event)
        return started.elapsed_time(ended) / 1000
    assert not isinstance(ended, torch.cuda.Event)
    return ended - started
