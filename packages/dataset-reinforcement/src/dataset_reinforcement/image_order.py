"""Which images a step takes in training, and a rank in evaluation, for data sets of images.

Place `n` of the endless order is image `n mod N` of a permutation drawn for epoch `n // N`: every
epoch has each image once, in an order that only seed and epoch decide, and batches run across the
borders of epochs, so that none is smaller. The position is the trainer's step, so that a run
resumes exactly.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from dataset_reinforcement.resolution import check_batch
from tenfold.bucketing.keys import key_words
from tenfold.bucketing.permutation import permute


class Draw(NamedTuple):
    """An image of an epoch.

    Attributes:
        epoch: From 0; keys what is random about the image.
        index: The image.
    """

    epoch: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


class EndlessBatches(Sampler[list[Draw]]):
    """The micro-batches of one rank from a step on, without end.

    Args:
        count: Images of the data set.
        batch_size: Images of an optimiser step over all ranks and micro-batches.
        seed: Key of the order.
        start: First optimiser step.
        rank: This rank, from 0.
        world_size: Number of ranks.
        accum: Micro-batches of an optimiser step.

    Raises:
        ValueError: The batch does not split into equal parts.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accum: int = 1,
    ) -> None:
        check_batch(batch_size, world_size * accum)
        self.count = count
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.share = batch_size // (world_size * accum)
        self.first = start * accum

    def __iter__(self) -> Iterator[list[Draw]]:
        number = self.first
        while True:
            place = (number * self.world_size + self.rank) * self.share
            yield list(images_at(range(place, place + self.share), size=self.count, seed=self.seed))
            number += 1


def images_at(places: range, *, size: int, seed: int) -> Iterator[Draw]:
    """Yield the images at consecutive places of the endless order of `size` images."""
    for epoch in range(places.start // size, (places.stop - 1) // size + 1):
        begin = max(places.start, epoch * size) - epoch * size
        end = min(places.stop, (epoch + 1) * size) - epoch * size
        for index in permute(np.arange(begin, end), size, key_words(seed, "images", epoch)):
            yield Draw(epoch, int(index))


def rank_batches(
    count: int, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Return the batches of one rank over which all images are spread once, as evenly as can be.

    Every rank has the same number of batches, since ranks wait for each other at each; with batches
    of one some may have two for that.

    Args:
        count: Images of the data set.
        batch_size: Most images of a batch on one rank.
        rank: This rank, from 0.
        world_size: Number of ranks.

    Raises:
        ValueError: There are fewer images than ranks.
    """
    if count < world_size:
        raise ValueError(f"{count} images are too few for {world_size} ranks")
    parts = min(-(-count // (batch_size * world_size)), count // world_size) * world_size
    edges = [part * count // parts for part in range(parts + 1)]
    return [list(range(edges[part], edges[part + 1])) for part in range(rank, parts, world_size)]
