"""Random numbers of a training step that depend on the step alone."""

import hashlib
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback


class StepSeed(Callback):
    """Seed torch before each batch from (seed, epoch, batch, rank).

    Dropout and the like are then the same in a resumed run, whatever ran before it, and no
    generator state has to stand in the checkpoint.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Seed all devices."""
        key = f"{self.seed}/{trainer.current_epoch}/{batch_idx}/{trainer.global_rank}"
        digest = hashlib.sha256(key.encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
