"""Saving during a Lightning run: periodic, best, last, and when a signal asks to stop."""

import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from tenfold import checkpoints

log = logging.getLogger(__name__)


class Preempted(BaseException):
    """Training ended early because of a signal, with everything saved in `checkpoint`."""

    def __init__(self, signum: int, checkpoint: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after saving {checkpoint}")
        self.exit_code = 128 + signum
        self.checkpoint = checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to `tenfold.checkpoints`: every file that the Trainer writes."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write one checkpoint with its manifest."""
        checkpoints.save(Path(path), checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and read one checkpoint, with `weights_only=True` whatever is asked."""
        return checkpoints.load(Path(path), map_location=map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one checkpoint with its manifest."""
        checkpoints.remove(Path(path))


class StopSignal:
    """SIGTERM and SIGINT ask for a stop at the next batch border; a second one ends the process.

    Lightning's own SIGTERM handler broadcasts from inside the handler and exits with code 0, so
    this one takes its place while training runs.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Take over both signals."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._handle)

    def uninstall(self) -> None:
        """Give both signals back."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.received = signum
        log.warning("%s: stopping after this batch", signal.Signals(signum).name)


class RunCheckpoint(Checkpoint):
    """Write checkpoints of a run at optimiser-step borders.

    A retained file is deleted only after its successor has been written and has its manifest.

    Args:
        folder: Where the checkpoints go.
        every_n_steps: Optimiser steps between two saves.
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
        self.signals = StopSignal()
        self._seen_step = -1
        self._saved_step = -1

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Listen to signals from here on."""
        self._seen_step = self._saved_step = trainer.global_step
        self.signals.install()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is time or a signal came.

        Raises:
            Preempted: A signal came; the checkpoint is written.
        """
        step = trainer.global_step
        if step == self._seen_step:  # inside an accumulation
            return
        self._seen_step = step
        received = self._agreed_signal(trainer)
        if received or step % self.every_n_steps == 0:
            path = self._save(trainer)
            if received:
                raise Preempted(received, path)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Keep the checkpoint of the best monitored value.

        Raises:
            ValueError: The monitored metric was not logged.
        """
        if not self.monitor or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(
                f"checkpoint.monitor '{self.monitor}' is not logged, there are: {known}"
            )
        value = float(trainer.callback_metrics[self.monitor])
        if self.best is None or self.sign * value < self.sign * self.best:
            self.best = value
            self._save(trainer, prefix="best")

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save the end of the run unless that was done."""
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Give the signals back."""
        self.signals.uninstall()

    def state_dict(self) -> dict[str, Any]:
        """Remember the best value over a resume."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the best value of the interrupted run."""
        self.best = state_dict["best"]

    def _agreed_signal(self, trainer: lightning.Trainer) -> int | None:
        """Return the signal that any rank received, the same answer on all ranks."""
        received = self.signals.received or 0
        if trainer.world_size > 1:
            highest = torch.tensor(received, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
            received = int(highest)
        return received or None

    def _save(self, trainer: lightning.Trainer, prefix: str = "step") -> Path:
        path = self.folder / f"{prefix}-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        keep = 1 if prefix == "best" else self.keep
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob(f"{prefix}-*.ckpt"))[:-keep]:
                checkpoints.remove(old)
        if prefix == "step":
            self._saved_step = trainer.global_step
        return path
