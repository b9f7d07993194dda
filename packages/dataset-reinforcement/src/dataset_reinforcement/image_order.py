"""Which images a step takes in training, and a rank in evaluation, for data sets of images.

Every epoch has each image once, in an order that only seed and epoch decide, and batches run across
the borders of epochs. The position is the trainer's step, so that a run resumes exactly.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from tenfold import keyed


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
        if batch_size < 1 or batch_size % (world_size * accum):
            raise ValueError(
                f"data.batch_size must be a multiple of {world_size} ranks times {accum} "
                f"micro-batches, got {batch_size}"
            )
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
            yield [self._draw(n) for n in range(place, place + self.share)]
            number += 1

    def _draw(self, place: int) -> Draw:
        epoch, position = divmod(place, self.count)
        return Draw(epoch, int(_order(self.count, self.seed, epoch)[position]))


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


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return keyed.generator("image order", seed, epoch).permutation(count)
