"""Batches of a COCO-format folder for the training `detection`."""

from functools import cached_property
from pathlib import Path

from dataset_reinforcement.coco import CocoImages, Detection
from dataset_reinforcement.detection import DetectionBatch
from dataset_reinforcement.image_loaders import TransferData


class DetectionData(TransferData[DetectionBatch]):
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
        super().__init__(
            batch_size=batch_size, val_batch_size=val_batch_size, workers=workers, seed=seed
        )
        if not 0 <= flip <= 1:
            raise ValueError(f"data.flip must be a probability, got {flip}")
        self.path = path
        self.train = train
        self.val = val
        self.flip = flip

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

    def images(self, *, train: bool) -> CocoImages:
        """Return the images to train on or to measure on."""
        return self.train_images if train else self.val_images

    @staticmethod
    def collate(found: list[Detection]) -> DetectionBatch:
        """Return lists: images differ in size."""
        return {
            "image": [each["image"] for each in found],
            "objects": [each["objects"] for each in found],
            "keys": [each["key"] for each in found],
        }
