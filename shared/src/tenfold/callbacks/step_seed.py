"""Random numbers of a training step that depend on the step alone."""

import hashlib
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback


class StepSeed(Callback):
    """Seed torch before each batch from (seed, optimiser step, micro-batch in the step, rank).

    Dropout and the like are then the same in a resumed run, whatever ran before it, and no
    generator state has to stand in the checkpoint. Steps keep their numbers when the accumulation
    or the length of an epoch changes.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._step = -1
        self._micro = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Count micro-batches from 0: training starts and resumes at the border of a step."""
        self._step = -1

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Seed all devices."""
        self._micro = self._micro + 1 if trainer.global_step == self._step else 0
        self._step = trainer.global_step
        key = f"{self.seed}/{self._step}/{self._micro}/{trainer.global_rank}"
        digest = hashlib.sha256(key.encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
