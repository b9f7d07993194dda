"""How long the steps of a training take, on the GPU's own clock where there is one."""

import time
from itertools import pairwise
from statistics import median
from typing import Any

import lightning
import torch

WARM_UP = 10
"""One in so many steps is left out at the start: loaders fill their queues, kernels are chosen."""


class StepTimes(lightning.Callback):
    """Notes when each step begins and ends.

    On a GPU by events in its own queue, so that nothing waits for them.

    Args:
        on_gpu: Whether the steps are a GPU's.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._marks: list[Any] = []

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Note that a step begins."""
        self._note()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Note that it ends."""
        self._note()

    @property
    def step_seconds(self) -> float:
        """Median time from the start of a step to the start of the next, waiting included."""
        edges = self._seconds()
        return median(b - a for a, b in pairwise([*edges[::2], edges[-1]]))

    @property
    def busy_share(self) -> float:
        """Share of all time in which a step was under way, and none waited for its batch."""
        edges = self._seconds()
        busy = sum(b - a for a, b in zip(edges[::2], edges[1::2], strict=True))
        return busy / (edges[-1] - edges[0])

    def _note(self) -> None:
        if self._on_gpu:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        else:
            mark = time.perf_counter()
        self._marks.append(mark)

    def _seconds(self) -> list[float]:
        """Return starts and ends in turn, without those of the warm-up."""
        steps = len(self._marks) // 2
        marks = self._marks[2 * (steps // WARM_UP) :]
        if not self._on_gpu:
            return marks
        torch.cuda.synchronize()
        return [marks[0].elapsed_time(mark) / 1000 for mark in marks]
