"""Pairs whose image is too small to train on: passed over and counted, not held to be bad.

The official trainer's `--dataset-reinforcement-filter-image-size`. The size is read from the
image's header, before anything of the pair is decoded.
"""

from typing import NamedTuple

import torch
from torch.utils.data import get_worker_info

from mobileclip.images import IMAGE_EXTENSIONS, ImageError, image_size
from tenfold.shards import ShardError, TarMembers
from tenfold.shards.samples import UnwantedSampleError


class Passed(NamedTuple):
    """Pairs that were looked at, each time that they were, and those of them passed over."""

    read: int
    small: int


class SizeFilter:
    """Refuses small images and counts them, over all loader workers of a rank.

    Args:
        least: Pixels that the shorter side must have.
        workers: Loader processes. Each counts in a row of its own of shared memory.
    """

    def __init__(self, least: int, *, workers: int = 0) -> None:
        self.least = least
        self._counts = torch.zeros(workers + 1, len(Passed._fields), dtype=torch.int64)
        self._counts.share_memory_()

    def check(self, members: TarMembers, key: str, *, max_bytes: int) -> None:
        """Look at one sample; one without a readable image is left to the checks that follow.

        Args:
            members: The shard.
            key: The sample.
            max_bytes: Largest image that is read.

        Raises:
            UnwantedSampleError: Its image is too small.
        """
        size = _stored_size(members, key, max_bytes)
        small = size is not None and min(size) < self.least
        worker = get_worker_info()
        self._counts[0 if worker is None else 1 + worker.id] += torch.tensor([1, int(small)])
        if size is not None and small:
            raise UnwantedSampleError(
                f"image size: {size[0]} x {size[1]} pixels, the shorter side must have "
                f"data.min_image_size={self.least}"
            )

    def passed(self) -> Passed:
        """Return the counts of all workers so far."""
        read, small = self._counts.sum(0).tolist()
        return Passed(read, small)


def _stored_size(members: TarMembers, key: str, max_bytes: int) -> tuple[int, int] | None:
    if key in members.bad:
        return None
    present = members.extensions(key)
    extension = next((known for known in IMAGE_EXTENSIONS if known in present), None)
    if extension is None or members.size(key, extension) > max_bytes:
        return None
    try:
        return image_size(members.read(key, extension))
    except (ImageError, ShardError):
        return None
