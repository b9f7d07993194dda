"""Loaders over data sets of images for a trainer, in the order of `image_order`."""

from collections.abc import Callable
from typing import Any, TypeVar

import lightning
from torch.utils.data import DataLoader, Dataset

from dataset_reinforcement.image_order import EndlessBatches, rank_batches
from tenfold.loader import StepLoader

Example = TypeVar("Example")
Batch = TypeVar("Batch")


def train_loader(
    images: Dataset[Example],
    trainer: lightning.Trainer,
    *,
    collate: Callable[[list[Example]], Batch],
    batch_size: int,
    seed: int,
    workers: int,
) -> StepLoader[Batch]:
    """Return this rank's micro-batches from the trainer's step on; `images` is asked by `Draw`.

    Args:
        images: The images; with a length.
        trainer: Says step, rank and micro-batches.
        collate: Makes a batch.
        batch_size: Images of an optimiser step over all ranks and micro-batches.
        seed: Key of the order.
        workers: Processes that read images.
    """
    batches = EndlessBatches(
        _length(images),
        batch_size,
        seed=seed,
        start=trainer.global_step,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        accum=trainer.accumulate_grad_batches,
    )
    examples: Any = images  # a DataLoader has the type of its examples, not of what collate makes
    return StepLoader(examples, batch_sampler=batches, num_workers=workers, collate_fn=collate)


def held_out_loader(
    images: Dataset[Example],
    trainer: lightning.Trainer,
    *,
    collate: Callable[[list[Example]], Batch],
    batch_size: int,
    workers: int,
) -> DataLoader[Batch]:
    """Return this rank's share of the images to measure on, each once; asked by index.

    Args:
        images: The images; with a length.
        trainer: Says the rank.
        collate: Makes a batch.
        batch_size: Most images of a batch on one rank.
        workers: Processes that read images.
    """
    batches = rank_batches(
        _length(images), batch_size, rank=trainer.global_rank, world_size=trainer.world_size
    )
    examples: Any = images
    return DataLoader(examples, batch_sampler=batches, num_workers=workers, collate_fn=collate)


def _length(images: Any) -> int:
    return len(images)
