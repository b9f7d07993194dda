"""Labelled images in batches: what backbones are trained on.

Which images, in which crop, is a function of seed, epoch and id alone, so that a run resumes
exactly and does not depend on the number of ranks or loader processes.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypedDict, get_args

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from fastfill.backbone import Backbone
from fastfill.encoder_networks import published_crop
from fastfill.sources import OriginalError, Source, open_source
from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.pipeline import Augment
from tenfold.loader import StepLoader
from tenfold.loader_workers import usable_workers

logger = logging.getLogger(__name__)

Crops = Literal["crop", "flip", "none"]


class ImageBatch(TypedDict):
    """Images uint8 `[B, C, H, W]`, classes int64 `[B]`, ids, and what could not be read."""

    image: Tensor
    label: Tensor
    keys: list[str]
    bad: list[str]


class ImageData(lightning.LightningDataModule):
    """Images with classes as an endless stream of batches.

    Args:
        path: What `fastfill.sources.open_source` opens: a folder with a subfolder a class, tars, or
            demo data such as `digits:train`.
        val: Held-out images of the same classes; none to measure on `path`.
        classes: Train on the first of the classes alone, in their sorted order; 0 for all. How the
            old model of the published pairs came about.
        augment: `crop` random resized crops and flips (ImageNet), `flip` the whole image, resized,
            and flips (CIFAR), `none`.
        batch_size: Images of a micro-batch over all ranks.
        seed: Key of order and crops.
        workers: Loader processes of each rank; 0 loads within the training process.
        max_bad_fraction: Share of unreadable images at which a run ends; each is logged once.
    """

    def __init__(
        self,
        path: str,
        val: str | None = None,
        classes: int = 0,
        augment: Crops = "crop",
        batch_size: int = 1024,
        seed: int = 0,
        workers: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        super().__init__()
        if augment not in get_args(Crops):
            raise ValueError(f"data.augment must be one of {get_args(Crops)}, got {augment!r}")
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction must lie in 0..1, got {max_bad_fraction}")
        if batch_size < 2:
            raise ValueError(f"data.batch_size must be >= 2, got {batch_size}")
        if classes < 0:
            raise ValueError(f"data.classes must be >= 0, got {classes}")
        self.path, self.val_path = path, path if val is None else val
        self.augment: Crops = augment
        self.classes, self.batch_size = classes, batch_size
        self.seed, self.max_bad_fraction = seed, max_bad_fraction
        self.workers = usable_workers(workers)
        self.seen = self.bad = 0
        self.told: set[str] = set()

    def setup(self, stage: str) -> None:
        """Open the images.

        Raises:
            FileNotFoundError: They are not there.
            ValueError: They are too few, have no classes, or more than the model.
        """
        self.train, self.held_out = open_source(self.path), open_source(self.val_path)
        self.rows = labelled_rows(self.train, self.classes)
        if self.batch_size > len(self.rows):
            raise ValueError(
                f"data.batch_size must lie in 2..{len(self.rows)}, the images of {self.path}, "
                f"got {self.batch_size}"
            )
        for source in (self.train, self.held_out):
            self._check_labels(source)

    def train_dataloader(self) -> StepLoader[ImageBatch]:
        """Return this rank's micro-batches from the trainer's step on."""
        trainer = self.trainer
        assert trainer is not None
        if self.batch_size % trainer.world_size:
            raise ValueError(
                f"data.batch_size must be a multiple of the {trainer.world_size} ranks, "
                f"got {self.batch_size}"
            )
        order = EpochOrder(
            self.rows,
            self.batch_size,
            self.seed,
            start=trainer.global_step * trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        size = self._network().input_size
        images: Any = Images(self.train, size, augment=self.augment, seed=self.seed)
        return StepLoader(images, batch_sampler=order, collate_fn=collate, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """Return this rank's share of the held-out images."""
        trainer = self.trainer
        assert trainer is not None
        rows = labelled_rows(self.held_out, self.classes)
        places = [(0, int(row)) for row in rows[trainer.global_rank :: trainer.world_size]]
        size = max(1, self.batch_size // trainer.world_size)
        images = Images(self.held_out, self._network().input_size, augment=None, seed=self.seed)
        # A subset, not a sampler: Lightning would have to trust that a sampler leaves nothing out.
        held_out: Any = Subset(images, places)  # pyright: ignore[reportArgumentType]
        return DataLoader(held_out, batch_size=size, collate_fn=collate, num_workers=self.workers)

    test_dataloader = predict_dataloader = val_dataloader

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Count what could not be read.

        Raises:
            ValueError: It is too much.
        """
        for line in dict.fromkeys(batch["bad"]):
            if line not in self.told:
                logger.warning("left out: %s", line)
        self.told.update(batch["bad"])
        self.bad += len(batch["bad"])
        self.seen += len(batch["bad"]) + len(batch["keys"])
        if self.bad > self.max_bad_fraction * max(self.seen, len(self.rows)):
            raise ValueError(
                f"{self.bad} of {self.seen} images could not be read, more than "
                f"data.max_bad_fraction {self.max_bad_fraction}; the last: {batch['bad'][-1]}"
            )
        return batch

    def _check_labels(self, source: Source) -> None:
        highest = int(source.labels[labelled_rows(source, self.classes)].max())
        if highest >= self._network().num_classes:
            raise ValueError(
                f"{source.name} has a class number {highest}, model.num_classes is "
                f"{self._network().num_classes}: it must be above all of them"
            )

    def _network(self) -> Backbone:
        assert self.trainer is not None
        network: Any = self.trainer.lightning_module.network
        return network


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Micro-batches `start, start + 1, ...` of one rank as (epoch, row) pairs, without end.

    Args:
        rows: Rows of the source to train on.
        batch_size: Images of a micro-batch over all ranks; the rest of an epoch is left out.
        seed: Key of the order.
        start: Number of the first micro-batch.
        rank: This rank, from 0.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        batch_size: int,
        seed: int,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source_rows, self.batch_size, self.seed = rows, batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size, per_epoch = self.batch_size, len(self.source_rows) // self.batch_size
        epoch, position = divmod(self.start, per_epoch)
        while True:
            order = keyed.generator("images", self.seed, epoch).permutation(len(self.source_rows))
            for number in range(position, per_epoch):
                mine = order[number * size : (number + 1) * size][self.rank :: self.world_size]
                yield [(epoch, int(row)) for row in self.source_rows[mine]]
            epoch, position = epoch + 1, 0


class Images(Dataset[tuple[str, Tensor | str, int]]):
    """Images by (epoch, row): id, pixels or why there are none, class.

    Args:
        source: The originals.
        input_size: Channels, height and width of the network's input.
        augment: How images are cut; None as the published recipes evaluate, see `published_crop`.
        seed: Key of the crops.
    """

    def __init__(
        self, source: Source, input_size: tuple[int, int, int], *, augment: Crops | None, seed: int
    ) -> None:
        channels, height, width = input_size
        if height != width:
            raise ValueError(f"images are cut square, the network takes {height} x {width}")
        self.source, self.channels, self.seed = source, channels, seed
        self.ids, self.labels = source.ids(), source.labels
        self.size = height
        self.augment = None if augment is None else augmentation(augment, height)

    def __getitem__(self, place: tuple[int, int]) -> tuple[str, Tensor | str, int]:
        epoch, row = place
        id = self.ids[row]
        try:
            image = self.source.load(id)
        except OriginalError as error:
            return id, str(error), -1
        if not isinstance(image, Image.Image):
            raise ValueError(f"{self.source.name} has texts; backbones are trained on images")
        view = self._view(image, epoch, id)
        return id, view if self.channels == 3 else view[:1], int(self.labels[row])

    def _view(self, image: Image.Image, epoch: int, id: str) -> Tensor:
        if self.augment is None:
            image = published_crop(image, self.size)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if self.augment is None:
            return pixels.contiguous()
        draw = keyed.generator("crop", self.seed, epoch, id)
        return self.augment.apply(pixels, self.augment.draw(draw, *pixels.shape[1:]))


def augmentation(kind: Crops, size: int) -> Augment:
    """Return how training images are cut to `size` x `size`."""
    crop = "random_resized" if kind == "crop" else "none"
    return Augment(AugmentConfig(size=size, crop=crop, flip=0.0 if kind == "none" else 0.5))


def collate(samples: Sequence[tuple[str, Tensor | str, int]]) -> ImageBatch:
    """Put the images that could be read into a batch.

    Raises:
        ValueError: None could.
    """
    good = [(id, image, label) for id, image, label in samples if isinstance(image, Tensor)]
    bad = [image for _, image, _ in samples if isinstance(image, str)]
    if not good:
        raise ValueError(f"no image of a batch could be read; the first: {bad[0]}")
    return {
        "image": torch.stack([image for _, image, _ in good]),
        "label": torch.tensor([label for _, _, label in good]),
        "keys": [id for id, _, _ in good],
        "bad": bad,
    }


def labelled_rows(source: Source, classes: int) -> NDArray[np.int64]:
    """Return the rows whose class is known and among the first `classes` (0: any).

    Raises:
        ValueError: There is none.
    """
    labels = source.labels
    rows = np.flatnonzero((labels >= 0) & ((labels < classes) if classes else True))
    if not len(rows):
        raise ValueError(f"{source.name} has no image of a known class; put a folder a class")
    return rows
