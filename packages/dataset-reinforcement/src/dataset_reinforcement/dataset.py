"""Images by index with their reinforcements, and the stream of them that a run takes.

The order is that of `image_order`.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from dataset_reinforcement.damaged_images import DamagedImages
from dataset_reinforcement.image_order import images_at
from dataset_reinforcement.images import ImageDecodeError, ImageSource
from dataset_reinforcement.replay import (
    Example,
    ImageBatch,
    Place,
    Replay,
    ReplayConfig,
    collate,
)
from dataset_reinforcement.resolution import StepPlan
from dataset_reinforcement.store.columns import Reinforcement
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.views import draw_reinforcement
from tenfold.augment.params import MixParams, ViewParams

logger = logging.getLogger(__name__)

MAX_SUBSTITUTES = 16


class ReinforcedImages(Dataset[Example]):
    """Examples of a data set, by place.

    Args:
        images: The images.
        config: How examples are drawn.
        store: Reinforcements of these images; None for `erm` and for `kd` that draws views.
    """

    def __init__(
        self, images: ImageSource, config: ReplayConfig, *, store: Store | None = None
    ) -> None:
        self.images = images
        self.config = config
        self.store = store
        self.replay = Replay(config, draw=self._draw)
        self.damaged = DamagedImages(len(images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: Place) -> Example:
        """Return the example of a place; in the place of a damaged image, that of the next one.

        Raises:
            ValueError: So many images in a row are damaged that the data set must be looked at.
        """
        for attempt in range(MAX_SUBSTITUTES + 1):
            index = (place.index + attempt) % len(self)
            try:
                record = StoredImage(self.images, self.store, index)
                return self.replay.example(record, replace(place, index=index))
            except ImageDecodeError as error:
                if self.damaged.is_new(index):
                    logger.warning("image %d replaced by the next one: %s", index, error)
        raise ValueError(
            f"image {place.index} and the {MAX_SUBSTITUTES} after it are damaged; check the files"
        )

    def _draw(self, index: int, view: int) -> tuple[ViewParams, MixParams | None]:
        augment, sizes = self.replay.views, _Sizes(self.images, self.damaged, owner=index)
        return draw_reinforcement(augment, self.config.seed, index, view, sizes, partner_group=None)


class StoredImage:
    """One image of a source and its part of a store; what `Replay` reads.

    Args:
        images: The images.
        store: Their reinforcements, if there are any.
        index: The image.
    """

    def __init__(self, images: ImageSource, store: Store | None, index: int) -> None:
        self.images = images
        self.store = store
        self.index = index

    @property
    def label(self) -> int:
        """The class."""
        return self.images.label(self.index)

    @property
    def key(self) -> str:
        """The name."""
        return self.images.key(self.index)

    @property
    def num_views(self) -> int:
        """Number of stored views."""
        if self.store is None or not self.store.is_reinforced(self.index):
            return 0
        return self.store.num_views

    def reinforcement(self, view: int) -> Reinforcement:
        """Return a stored view."""
        assert self.store is not None
        return self.store.read(self.index, view)

    def entropies(self) -> NDArray[np.floating]:
        """Return the entropy of each stored label."""
        assert self.store is not None
        return self.store.entropies(self.index)

    def load(self, index: int) -> Tensor:
        """Return the pixels of this or another image of the source.

        Raises:
            ValueError: It is of another size than the store's views were drawn for.
        """
        pixels = self.images.load(index)
        if self.store is not None:
            self.store.check_size(index, pixels.shape[1], pixels.shape[2])
        return pixels


class ReinforcedStream(IterableDataset[ImageBatch]):
    """The micro-batches of one rank from a step on, in an order that only the seed decides.

    Worker w of W makes the micro-batches w, w + W, ..., in which order `DataLoader` asks for them.

    Args:
        dataset: The examples.
        plan: Size and number of images of each step.
        start: First optimiser step.
        total: Step at which the stream ends.
        rank: This rank, from 0.
        world_size: Number of ranks.
        accum: Micro-batches of an optimiser step.
    """

    def __init__(
        self,
        dataset: ReinforcedImages,
        plan: StepPlan,
        *,
        start: int = 0,
        total: int,
        rank: int = 0,
        world_size: int = 1,
        accum: int = 1,
    ) -> None:
        self.dataset = dataset
        self.plan = plan
        self.start = start
        self.total = total
        self.rank = rank
        self.world_size = world_size
        self.accum = accum
        last = plan.shape(total - 1)
        self._num_places = last.first + last.num_images

    def __iter__(self) -> Iterator[ImageBatch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(self.start * self.accum + first, self.total * self.accum, stride):
            yield collate([self.dataset[place] for place in self.places(number)])

    def places(self, number: int) -> list[Place]:
        """Return what this rank takes in micro-batch `number`."""
        step, part = divmod(number, self.accum)
        shape = self.plan.shape(step)
        share = shape.num_images // (self.accum * self.world_size)
        first = shape.first + (part * self.world_size + self.rank) * share
        seed, size = self.dataset.config.seed, len(self.dataset)
        return [
            # By whole epochs: the choice of a view then depends on no image's place in the epoch.
            Place(epoch, index, shape.size, epoch * size / self._num_places)
            for epoch, index in images_at(range(first, first + share), size=size, seed=seed)
        ]


class _Sizes(Sequence[tuple[int, int]]):
    """Height and width of every image, found by loading it; 0, 0 for a damaged partner.

    `generate` leaves the same partners out, so that the same views are drawn.
    """

    def __init__(self, images: ImageSource, damaged: DamagedImages, *, owner: int) -> None:
        self._images = images
        self._damaged = damaged
        self._owner = owner

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            _, height, width = self._images.load(index).shape
        except ImageDecodeError as error:
            if index == self._owner:
                raise
            if self._damaged.is_new(index):
                logger.warning("image %d gets another partner: %s", self._owner, error)
            return 0, 0
        return height, width
