"""Images as they are evaluated, one rank's share of them.

Not here: the measures (`module.py`, `evaluate.py`).
"""

from torch.utils.data import Dataset

from dataset_reinforcement.image_order import rank_batches
from dataset_reinforcement.images import ImageSource
from dataset_reinforcement.replay import Example, ImageBatch, collate
from tenfold.augment.config import AugmentConfig
from tenfold.augment.params import ViewParams
from tenfold.augment.pipeline import Augment


class EvaluationImages(Dataset[ImageBatch]):
    """Images as they are evaluated: resized and cropped at the centre, one rank's batches of them.

    How they are split over ranks and batches is told at `rank_batches`.

    Args:
        images: The images.
        size: Side of the crop.
        resize: Side to which the shorter edge is scaled before; None scales the image as a whole.
        batch_size: Most images of a batch on one rank.
        rank: This rank, from 0.
        world_size: Number of ranks.

    Raises:
        ValueError: There are fewer images than ranks.
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
    ) -> None:
        self.images = images
        self.augment = evaluation_augment(size, resize=resize)
        self._batches = rank_batches(len(images), batch_size, rank=rank, world_size=world_size)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> ImageBatch:
        return collate([self._example(index) for index in self._batches[number]])

    def _example(self, index: int) -> Example:
        image = self.augment.apply(self.images.load(index), ViewParams())
        label, key = self.images.label(index), self.images.key(index)
        return {"image": image, "label": label, "key": key, "reinforced": False}


def evaluation_augment(size: int, *, resize: int | None) -> Augment:
    """Return the transform of evaluation (paper: shorter edge to 256, centre crop of 224)."""
    crop = "center" if resize else "none"
    return Augment(AugmentConfig(size=size, resize=resize, crop=crop, flip=0.0))
