"""How far and how fast: throughput, memory, and plain lines where no terminal shows a bar."""

import logging
import resource
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar

log = logging.getLogger(__name__)


class Throughput(Callback):
    """Log `time/<unit>_per_s` and `mem/peak_gib`.

    The module says what it counts: `unit` (`"tokens"`, `"samples"`) and
    `count_units(batch) -> int`, the batch's share on this rank. Validation time is left out.

    Args:
        every_n_steps: Batches between two values; the Trainer's logging interval.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._units = 0
        self._seconds = 0.0
        self._started = 0.0

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Start the clock of this batch."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop it, and log the interval's rate when the interval is over."""
        self._seconds += time.perf_counter() - self._started
        self._units += pl_module.count_units(batch)
        if (batch_idx + 1) % self.every_n_steps:
            return
        rate = self._units * trainer.world_size / max(self._seconds, 1e-9)
        pl_module.log(f"time/{pl_module.unit}_per_s", rate, prog_bar=True, batch_size=1)
        pl_module.log("mem/peak_gib", peak_memory_gib(), batch_size=1)
        self._units, self._seconds = 0, 0.0


class ProgressBar(RichProgressBar):
    """Lightning's bar without its epoch count: a run here is a number of steps."""

    def __init__(self) -> None:
        super().__init__(leave=True)

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands behind the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return "train"


class ProgressLines(Callback):
    """Log one line an interval; the log file keeps them, and batch jobs have no terminal.

    Args:
        every_n_steps: Batches between two lines.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._began = 0.0
        self._first_step = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock of the remaining time."""
        self._began, self._first_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log step, metrics of the progress bar and remaining time."""
        step = trainer.global_step
        if (batch_idx + 1) % self.every_n_steps or not trainer.is_global_zero:
            return
        per_step = (time.perf_counter() - self._began) / max(step - self._first_step, 1)
        shown = {k: v for k, v in trainer.progress_bar_metrics.items() if k != "v_num"}
        metrics = "  ".join(f"{name} {float(value):.4g}" for name, value in shown.items())
        left = f"{max(trainer.max_steps - step, 0) * per_step:.0f} s left"
        log.info("step %d/%d  %s  %s", step, trainer.max_steps, metrics, left)


def peak_memory_gib() -> float:
    """Return the peak memory so far: of the accelerator if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
