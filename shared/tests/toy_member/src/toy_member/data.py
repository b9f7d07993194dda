"""Points on a line; batch n is a function of n alone, and the position is the trainer's step."""

import time
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch.utils.data import IterableDataset

from tenfold.loader import StepLoader


class Points(IterableDataset[dict[str, Any]]):
    """Batches `start, start + 1, ...`, each after `pause` seconds."""

    def __init__(self, start: int, end: int, pause: float) -> None:
        self.start, self.end, self.pause = start, end, pause

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.start, self.end):
            time.sleep(self.pause)
            x = torch.randn(8, 2, generator=torch.Generator().manual_seed(number))
            keys = [f"batch-{number}/{row}" for row in range(8)]
            yield {"x": x, "y": x.sum(dim=1, keepdim=True), "keys": keys}

    def __len__(self) -> int:
        return self.end


class ToyData(lightning.LightningDataModule):
    """Points.

    Args:
        batches: Number of micro-batches.
        pause: Seconds between two batches.
    """

    def __init__(self, batches: int = 1000, pause: float = 0.0) -> None:
        super().__init__()
        self.batches = batches
        self.pause = pause

    def train_dataloader(self) -> StepLoader[dict[str, Any]]:
        """Return the batches from the trainer's step on."""
        assert self.trainer is not None
        start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return StepLoader(Points(start, self.batches, self.pause), batch_size=None)

    def val_dataloader(self) -> StepLoader[dict[str, Any]]:
        """Return two batches."""
        return StepLoader(Points(5000, 5002, 0.0), batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader
