"""Batches of images with a class for every pixel, for the training `segmentation`."""

from functools import cached_property
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from dataset_reinforcement.image_loaders import TransferData
from dataset_reinforcement.segmentation_images import Labelled, SegmentationImages


class SegmentationBatch(TypedDict):
    """Images uint8 `[B, 3, S, S]`, classes of the pixels of each, file names."""

    image: Tensor
    mask: list[Tensor]
    keys: list[str]


class SegmentationData(TransferData[SegmentationBatch]):
    """Images with a class for every pixel, in folders as ADE20K's.

    Args:
        path: Folder with `images/<split>` and `annotations/<split>`.
        num_classes: Kinds of pixels.
        train: Split to train on.
        val: Split to measure on.
        size: Side of the images.
        zero_is_ignored: Whether grey level 0 of a mask is no class and classes count from 1.
        scale: Smallest and largest random scale; 1 brings the shorter side to `size`.
        batch_size: Images of an optimiser step over all ranks and micro-batches.
        val_batch_size: Images of a batch on one rank in evaluation.
        workers: Processes that read images; 0 reads in the training process.
        seed: Key of order and random views.
    """

    def __init__(
        self,
        path: Path,
        num_classes: int = 150,
        train: str = "training",
        val: str = "validation",
        size: int = 512,
        zero_is_ignored: bool = True,
        scale: tuple[float, float] = (0.5, 2.0),
        batch_size: int = 16,
        val_batch_size: int = 4,
        workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, val_batch_size=val_batch_size, workers=workers, seed=seed
        )
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"data.scale must be two rising numbers > 0, got {scale}")
        for name, value in (("num_classes", num_classes), ("size", size)):
            if value < 1:
                raise ValueError(f"data.{name} must be >= 1, got {value}")
        self.path = path
        self.num_classes = num_classes
        self.train = train
        self.val = val
        self.size = size
        self.zero_is_ignored = zero_is_ignored
        self.scale = scale

    @cached_property
    def train_images(self) -> SegmentationImages:
        """The images to train on."""
        return self._images(self.train)

    @cached_property
    def val_images(self) -> SegmentationImages:
        """The images to measure on."""
        return self._images(self.val)

    def _images(self, split: str) -> SegmentationImages:
        return SegmentationImages(
            self.path,
            split,
            classes=self.num_classes,
            size=self.size,
            zero_is_ignored=self.zero_is_ignored,
            scale=self.scale,
            seed=self.seed,
        )

    def images(self, *, train: bool) -> SegmentationImages:
        """Return the images to train on or to measure on."""
        return self.train_images if train else self.val_images

    @staticmethod
    def collate(found: list[Labelled]) -> SegmentationBatch:
        """Stack the images; masks stay a list, since they differ in size in evaluation."""
        return {
            "image": torch.stack([each["image"] for each in found]),
            "mask": [each["mask"] for each in found],
            "keys": [each["key"] for each in found],
        }
