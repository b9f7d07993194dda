"""Damaged images, each warned of once, whichever loader worker meets it in whichever epoch."""

import torch


class DamagedImages:
    """Which images have been met; shared by a loader and its workers.

    Args:
        num_images: Images of the data set.
    """

    def __init__(self, num_images: int) -> None:
        # Workers start anew each epoch: what they have said must outlive them.
        self._met = torch.zeros(num_images, dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return int(self._met.sum())

    def is_new(self, index: int) -> bool:
        """Note an image; return whether it is met for the first time."""
        new = not self._met[index]
        self._met[index] = True
        return new
