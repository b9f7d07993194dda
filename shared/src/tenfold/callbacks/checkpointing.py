"""Saving during a Lightning run: periodic, best, last, and when a signal asks to stop."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from tenfold import checkpoints
from tenfold.callbacks.loop_state import count_micro_batches, go_on_in_epoch, validate_first
from tenfold.callbacks.signals import Preempted, StopSignal

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to `tenfold.checkpoints`.

    Attributes:
        failure: Why the last save did not succeed (a full disk); the older checkpoints stay.
    """

    failure: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write one checkpoint with its manifest, or note the failure."""
        self.failure = None
        try:
            checkpoints.save(Path(path), checkpoint)
        except OSError as error:
            checkpoints.remove(Path(path))
            log.error("%s was not saved: %s; older checkpoints stay", path, error)
            self.failure = error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and read one checkpoint, with `weights_only=True` whatever is asked."""
        return checkpoints.load(Path(path), map_location=map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one checkpoint with its manifest."""
        checkpoints.remove(Path(path))


class RunCheckpoint(Checkpoint):
    """Write the checkpoints of a run at optimiser-step borders.

    A checkpoint is written before the validation of its step, so that a signal during a long
    validation loses nothing; a run that goes on there validates first. The last step is always
    validated. A retained file is deleted only after its successor is complete.

    Args:
        folder: Where the checkpoints go.
        every_n_steps: Optimiser steps between two saves; a validation has one in any case.
        keep: Number of periodic checkpoints to retain, at least 2.
        monitor: Validation metric whose best checkpoint is kept as well, for evaluation and export
            (it is written inside a validation, where no run can go on); none when empty.
        mode: Whether a small or a large `monitor` is better.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_n_steps: int,
        keep: int = 2,
        monitor: str = "",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.monitor = monitor
        self.sign = 1.0 if mode == "min" else -1.0
        self.best: float | None = None
        self.io = AtomicCheckpointIO()
        self.signals = StopSignal()
        self._accumulate = 1
        self._unvalidated = False
        self._seen_step = 0
        self._saved: Path | None = None

    def on_sanity_check_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Listen to signals from here on: Lightning has set its own handlers just before."""
        self.signals.install()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Set aside what an abandoned continuation has left; validate the step if that is due."""
        self.signals.install()
        self._accumulate = trainer.accumulate_grad_batches
        self._seen_step = trainer.global_step
        if trainer.is_global_zero:
            checkpoints.set_aside(self.folder, after_step=trainer.global_step)
        trainer.strategy.barrier()
        go_on_in_epoch(trainer)
        if self._unvalidated:
            validate_first(trainer)
            self._unvalidated = False

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is time, before a validation, or when a signal came.

        Raises:
            Preempted: A signal came; the checkpoint is written.
            OSError: A signal came and the checkpoint could not be written.
        """
        step = trainer.global_step
        if step == self._seen_step:  # inside an accumulation
            return
        self._seen_step = step
        if step >= trainer.max_steps:
            trainer.should_stop = True  # makes Lightning validate the last step
        received = self._agreed_signal(trainer)
        self._unvalidated = _validation_is_due(trainer)
        if received or step % self.every_n_steps == 0 or self._unvalidated:
            self._save(trainer, must_succeed=received is not None)
        if received:
            raise Preempted(received, self._saved)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop in mid-validation when a signal came; the step was saved before.

        Several ranks, which may have unequal numbers of batches, stop at the next training batch.

        Raises:
            Preempted: A signal came.
        """
        if self.signals.received and trainer.world_size == 1 and trainer.state.fn == "fit":
            raise Preempted(self.signals.received, self._saved)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Keep the checkpoint of the best monitored value, as rank 0 sees it.

        Raises:
            ValueError: The monitored metric was not logged.
        """
        if not self.monitor or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        mine = float(metrics[self.monitor]) if self.monitor in metrics else None
        value: float | None = trainer.strategy.broadcast(mine, 0)
        if value is None:
            raise ValueError(
                f"checkpoint.monitor '{self.monitor}' is not logged, there are: "
                f"{', '.join(sorted(metrics))}"
            )
        if not math.isfinite(value):
            log.warning("%s is %s at step %d", self.monitor, value, trainer.global_step)
        elif self.best is None or self.sign * value < self.sign * self.best:
            self.best = value
            self._save(trainer, prefix="best")

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save the end of the run unless that was done.

        Raises:
            OSError: It could not be written.
        """
        if self._saved != self._path(trainer):
            self._save(trainer, must_succeed=True)

    def state_dict(self) -> dict[str, Any]:
        """Remember the best value, what a step was made of, and whether a validation is due."""
        return {
            "best": self.best,
            "accumulate": self._accumulate,
            "unvalidated": self._unvalidated,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the best value of the interrupted run."""
        self.best = state_dict["best"]

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Note whether a validation is due, and mend Lightning's counters, see `loop_state`.

        Raises:
            ValueError: Accumulation changed in a later epoch.
        """
        if trainer.state.fn != "fit":
            return
        before = checkpoint["callbacks"][self.state_key]
        self._unvalidated = before["unvalidated"]
        now = trainer.accumulate_grad_batches
        if now != before["accumulate"]:
            step = checkpoint["global_step"]
            count_micro_batches(checkpoint["loops"], step=step, accumulate=now)

    def _agreed_signal(self, trainer: lightning.Trainer) -> int | None:
        """Return the signal that any rank received, the same answer on all ranks."""
        received = self.signals.received or 0
        if trainer.world_size > 1:
            highest = torch.tensor(received, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
            received = int(highest)
        return received or None

    def _path(self, trainer: lightning.Trainer, prefix: str = "step") -> Path:
        return self.folder / f"{prefix}-{trainer.global_step:08d}.ckpt"

    def _save(
        self, trainer: lightning.Trainer, *, prefix: str = "step", must_succeed: bool = False
    ) -> None:
        path = self._path(trainer, prefix)
        trainer.save_checkpoint(path)
        failure: OSError | None = trainer.strategy.broadcast(self.io.failure, 0)
        if failure is not None:  # the next interval tries again
            if must_succeed:
                raise failure
            return
        if prefix == "step":
            self._saved = path
        if trainer.is_global_zero:
            keep = 1 if prefix == "best" else self.keep
            for old in sorted(self.folder.glob(f"{prefix}-*.ckpt"))[:-keep]:
                checkpoints.remove(old)


def _validation_is_due(trainer: lightning.Trainer) -> bool:
    """Ask Lightning whether it validates after this batch; it has no public name for that."""
    fit_loop = trainer.fit_loop
    return fit_loop.epoch_loop._should_check_val_fx(fit_loop._data_fetcher)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
