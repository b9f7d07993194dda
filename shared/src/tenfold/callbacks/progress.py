"""How far and how fast: throughput, memory, the bar, and the same as lines of the log file.

An interval is a number of optimiser steps everywhere here, as it is for Lightning's loggers, so
accumulation does not change it, nor do epochs that are shorter than an interval.
"""

import logging
import resource
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar

log = logging.getLogger(__name__)


class Interval:
    """Say when a count of optimiser steps passes a multiple of `every_n_steps`."""

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._seen = 0

    def start(self, step: int) -> None:
        """Count from `step` on; a resumed run does not begin at 0."""
        self._seen = step

    def passed(self, step: int) -> bool:
        """Return whether a multiple lies between the last call's step and this one."""
        passed = step // self.every_n_steps > self._seen // self.every_n_steps
        self._seen = step
        return passed


class Throughput(Callback):
    """Log `time/<unit>_per_s` and `mem/peak_gib`.

    The module says what it counts: `unit` (`"tokens"`, `"samples"`) and
    `count_units(batch) -> int`, the batch's share on this rank; the ranks' shares are taken as
    equal. The rate is that of the wall clock, waiting for data included. The clock stops at a
    validation and when a checkpoint is saved, and goes on at the next batch's start; the wait for
    that batch, which workers prepared meanwhile, is left out too.

    Lightning's `ThroughputMonitor` is no substitute: it synchronises a CUDA device at every batch,
    counts checkpoint saving as training, logs under names of its own past the module (so neither
    the bar nor a callback sees them), and takes all batches to be of one size.

    Args:
        every_n_steps: Optimiser steps between two values; the Trainer's logging interval.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.interval = Interval(every_n_steps)
        self._units = 0
        self._seconds = 0.0
        self._running_since: float | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Forget an earlier fit; the clock starts with the first batch."""
        self.interval.start(trainer.global_step)
        self._units, self._seconds, self._running_since = 0, 0.0, None

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Let the clock go on if it stands."""
        if self._running_since is None:
            self._running_since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch, and log the interval's rate when the interval is over."""
        self._units += pl_module.count_units(batch)
        if not self.interval.passed(trainer.global_step):
            return
        self._stop_clock()
        rate = self._units * trainer.world_size / max(self._seconds, 1e-9)
        # Not for Lightning's part of the bar: it would fetch the value from the device each step.
        pl_module.log(f"time/{pl_module.unit}_per_s", rate, batch_size=1)
        pl_module.log("mem/peak_gib", peak_memory_gib(pl_module.device), batch_size=1)
        self._units, self._seconds, self._running_since = 0, 0.0, time.perf_counter()

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Stop the clock."""
        self._stop_clock()

    def _stop_clock(self) -> None:
        if self._running_since is not None:
            self._seconds += time.perf_counter() - self._running_since
            self._running_since = None


class ProgressBar(RichProgressBar):
    """Lightning's bar without its epoch count: a run here is a number of steps.

    Beside it stand the loss terms, the throughput, and what the module logs for the bar, renewed at
    the Trainer's logging interval: each renewal waits for the device.
    """

    def __init__(self) -> None:
        super().__init__(leave=True)
        self._interval = Interval(1)
        self._shown: dict[str, int | str | float | dict[str, float]] = {}

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the bar and take up the Trainer's interval."""
        super().on_train_start(trainer, pl_module)
        every_n_steps: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        self._interval = Interval(max(every_n_steps, 1))
        self._interval.start(trainer.global_step)

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands behind the bar."""
        if self._interval.passed(trainer.global_step) or trainer.validating:
            self._shown = {**shown_metrics(trainer)}
        return self._shown

    def _get_train_description(self, current_epoch: int) -> str:
        return "train"


class ProgressLines(Callback):
    """Log one line an interval; the log file keeps them, and batch jobs have no terminal.

    Each record has the attribute `file_only`, true while a progress bar shows the same on the
    terminal, for the handler of the terminal to leave the line out.

    Args:
        every_n_steps: Optimiser steps between two lines.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.interval = Interval(every_n_steps)
        self._began = 0.0
        self._first_step = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock of the remaining time."""
        self.interval.start(trainer.global_step)
        self._began, self._first_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log step, loss terms, throughput and remaining time."""
        step = trainer.global_step
        if not self.interval.passed(step) or not trainer.is_global_zero:
            return
        per_step = (time.perf_counter() - self._began) / max(step - self._first_step, 1)
        left = f"{max(trainer.max_steps - step, 0) * per_step:.0f} s left"
        shown = {n: v for n, v in shown_metrics(trainer).items() if not n.startswith("val/")}
        self._log(trainer, shown, left)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Log the validation metrics of a training."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics.items()
        self._log(trainer, {n: float(v) for n, v in metrics if n.startswith("val/")}, "")

    def _log(self, trainer: lightning.Trainer, values: dict[str, float], left: str) -> None:
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        line = f"step {trainer.global_step}/{trainer.max_steps}  {metrics}  {left}".rstrip()
        log.info("%s", line, extra={"file_only": trainer.progress_bar_callback is not None})


def shown_metrics(trainer: lightning.Trainer) -> dict[str, float]:
    """Return the newest loss terms, throughput and progress-bar metrics; waits for the device."""
    logged = trainer.logged_metrics
    shown = {name: v for name, v in logged.items() if name.startswith(("train/loss", "time/"))}
    return {name: float(value) for name, value in {**shown, **trainer.progress_bar_metrics}.items()}


def peak_memory_gib(device: torch.device | None = None) -> float:
    """Return the peak memory so far, in GiB: of a CUDA `device`, otherwise of the process.

    Without `device`, of the current CUDA device if there is one.
    """
    on_cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
    if on_cuda:
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
