"""Images as they are evaluated, one rank's share of them.

Not here: the measures (`module.py`, `evaluate.py`).
"""

import logging

import torch
from torch.utils.data import Dataset

from dataset_reinforcement.damaged_images import DamagedImages
from dataset_reinforcement.image_order import rank_batches
from dataset_reinforcement.images import ImageDecodeError, ImageSource
from dataset_reinforcement.replay import Example, ImageBatch, collate
from tenfold.augment.config import AugmentConfig
from tenfold.augment.params import ViewParams
from tenfold.augment.pipeline import Augment

logger = logging.getLogger(__name__)


class EvaluationImages(Dataset[ImageBatch]):
    """Images as they are evaluated: resized and cropped at the centre, one rank's batches of them.

    How they are split over ranks and batches is told at `rank_batches`. Damaged images are left
    out, each with a warning: a long run must not end at its first validation for one of them.

    Args:
        images: The images.
        size: Side of the crop.
        resize: Side to which the shorter edge is scaled before; None scales the image as a whole.
        batch_size: Most images of a batch on one rank.
        rank: This rank, from 0.
        world_size: Number of ranks.
        name: What the images are called in warnings.

    Raises:
        ValueError: There are fewer images than ranks, or all are damaged.
    """

    def __init__(
        self,
        images: ImageSource,
        *,
        size: int,
        resize: int | None,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        name: str = "the images",
    ) -> None:
        self.images = images
        self.name = name
        self.damaged = DamagedImages(len(images))
        self.augment = evaluation_augment(size, resize=resize)
        self._batches = rank_batches(len(images), batch_size, rank=rank, world_size=world_size)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> ImageBatch:
        found = [self._example(index) for index in self._batches[number]]
        whole = [example for example in found if example is not None]
        return collate(whole) if whole else self._nothing()

    def _example(self, index: int) -> Example | None:
        try:
            pixels = self.images.load(index)
        except ImageDecodeError as error:
            self._leave_out(index, error)
            return None
        image = self.augment.apply(pixels, ViewParams())
        label, key = self.images.label(index), self.images.key(index)
        return {"image": image, "label": label, "key": key, "reinforced": False}

    def _leave_out(self, index: int, error: ImageDecodeError) -> None:
        if self.damaged.is_new(index):
            logger.warning(
                "%s: %s; it is left out of the measures (%d of %d images so far): mend or remove",
                *(self.name, error, len(self.damaged), len(self.images)),
            )
        if len(self.damaged) == len(self.images):
            raise ValueError(f"{self.name}: none of the {len(self.images)} images can be decoded")

    def _nothing(self) -> ImageBatch:
        size = self.augment.config.size
        return {
            "image": torch.empty(0, 3, size, size, dtype=torch.uint8),
            "label": torch.empty(0, dtype=torch.int64),
            "keys": [],
        }


def evaluation_augment(size: int, *, resize: int | None) -> Augment:
    """Return the transform of evaluation (paper: shorter edge to 256, centre crop of 224)."""
    crop = "center" if resize else "none"
    return Augment(AugmentConfig(size=size, resize=resize, crop=crop, flip=0.0))
