"""Batches of a COCO-format folder for the training `detection`."""

from functools import cached_property
from pathlib import Path

import lightning
from torch.utils.data import DataLoader

from dataset_reinforcement.coco import CocoImages, Detection
from dataset_reinforcement.detection import DetectionBatch
from dataset_reinforcement.image_loaders import held_out_loader, train_loader
from tenfold.loader import StepLoader


class DetectionData(lightning.LightningDataModule):
    """Images with boxes and masks, `<path>/<split>` and `<path>/annotations`.

    Args:
        path: Folder of the data set.
        train: Split to train on.
        val: Split to measure on.
        batch_size: Images of an optimiser step over all ranks and micro-batches.
        val_batch_size: Images of a batch on one rank in evaluation.
        flip: Probability that a training image is mirrored left to right.
        workers: Processes that read images; 0 reads in the training process.
        seed: Key of order and mirroring.
    """

    def __init__(
        self,
        path: Path,
        train: str = "train2017",
        val: str = "val2017",
        batch_size: int = 32,
        val_batch_size: int = 4,
        flip: float = 0.5,
        workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= flip <= 1:
            raise ValueError(f"data.flip must be a probability, got {flip}")
        for name, value, least in (("val_batch_size", val_batch_size, 1), ("workers", workers, 0)):
            if value < least:
                raise ValueError(f"data.{name} must be >= {least}, got {value}")
        self.path = path
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.flip = flip
        self.workers = workers
        self.seed = seed

    @cached_property
    def train_images(self) -> CocoImages:
        """The images to train on."""
        return CocoImages(self.path, self.train, train=True, flip=self.flip, seed=self.seed)

    @cached_property
    def val_images(self) -> CocoImages:
        """The images to measure on."""
        return CocoImages(self.path, self.val)

    def setup(self, stage: str) -> None:
        """Read the annotations; both splits must name the same classes."""
        if stage == "fit" and self.train_images.classes != self.val_images.classes:
            raise ValueError(
                f"{self.path}: {self.train} has {len(self.train_images.classes)} categories, "
                f"{self.val} {len(self.val_images.classes)}; they must be the same"
            )

    @property
    def num_classes(self) -> int:
        """Number of categories."""
        return len(self.val_images.classes)

    def train_dataloader(self) -> StepLoader[DetectionBatch]:
        """Return this rank's micro-batches from the trainer's step on."""
        assert self.trainer is not None
        return train_loader(
            self.train_images,
            self.trainer,
            collate=collate,
            batch_size=self.batch_size,
            seed=self.seed,
            workers=self.workers,
        )

    def val_dataloader(self) -> DataLoader[DetectionBatch]:
        """Return this rank's share of the images to measure on."""
        assert self.trainer is not None
        return held_out_loader(
            self.val_images,
            self.trainer,
            collate=collate,
            batch_size=self.val_batch_size,
            workers=self.workers,
        )

    def test_dataloader(self) -> DataLoader[DetectionBatch]:
        """Return what `val_dataloader` returns."""
        return self.val_dataloader()


def collate(found: list[Detection]) -> DetectionBatch:
    """Return lists: images differ in size."""
    return {
        "image": [each["image"] for each in found],
        "objects": [each["objects"] for each in found],
        "keys": [each["key"] for each in found],
    }
