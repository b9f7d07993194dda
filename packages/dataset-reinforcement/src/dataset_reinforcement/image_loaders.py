"""What the data of detection and segmentation share: loaders in the order of `image_order`."""

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import lightning
from torch.utils.data import DataLoader, Dataset

from dataset_reinforcement.image_order import EndlessBatches, rank_batches
from tenfold.loader import StepLoader
from tenfold.loader_workers import usable_workers

Batch = TypeVar("Batch")


class TransferData(lightning.LightningDataModule, Generic[Batch]):
    """Images to train and to measure on.

    Args:
        batch_size: Images of an optimiser step over all ranks and micro-batches.
        val_batch_size: Images of a batch on one rank in evaluation.
        workers: Processes that read images; 0 reads in the training process.
        seed: Key of the order.

    Raises:
        ValueError: A number is too small.
    """

    def __init__(self, *, batch_size: int, val_batch_size: int, workers: int, seed: int) -> None:
        super().__init__()
        for name, value, least in (("val_batch_size", val_batch_size, 1), ("workers", workers, 0)):
            if value < least:
                raise ValueError(f"data.{name} must be >= {least}, got {value}")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.workers = workers
        self.seed = seed

    @abstractmethod
    def images(self, *, train: bool) -> Dataset[Any]:
        """Return the images to train on, asked by `Draw`, or to measure on, asked by index."""

    @staticmethod
    @abstractmethod
    def collate(found: list[Any]) -> Batch:
        """Make a batch."""

    def train_dataloader(self) -> StepLoader[Batch]:
        """Return this rank's micro-batches from the trainer's step on."""
        trainer, images = self._trainer(), self.images(train=True)
        batches = EndlessBatches(
            _length(images),
            self.batch_size,
            seed=self.seed,
            start=trainer.global_step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accum=trainer.accumulate_grad_batches,
        )
        examples: Any = images  # a DataLoader has the type of its examples, not of their batch
        return StepLoader(
            examples,
            batch_sampler=batches,
            num_workers=usable_workers(self.workers),
            collate_fn=self.collate,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's share of the images to measure on, each once."""
        trainer, images = self._trainer(), self.images(train=False)
        batches = rank_batches(
            _length(images),
            self.val_batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        examples: Any = images
        return DataLoader(
            examples,
            batch_sampler=batches,
            num_workers=usable_workers(self.workers),
            collate_fn=self.collate,
        )

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return what `val_dataloader` returns."""
        return self.val_dataloader()

    def _trainer(self) -> lightning.Trainer:
        assert self.trainer is not None
        return self.trainer


def _length(images: Any) -> int:
    return len(images)
