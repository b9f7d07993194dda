"""A teacher that runs out of memory gets fewer views at once."""

import logging

import torch
from torch import Tensor

from dataset_reinforcement.teacher import Teacher

logger = logging.getLogger(__name__)


class BackOff:
    """Predicts a batch in parts, as many as memory asks for.

    The parts of a batch have one size, the last padded with its first view, so that compiled
    networks see few shapes. Once halved, the size stays for the life of this object.

    Args:
        teacher: The ensemble.
        batch: Views at once to begin with.
    """

    def __init__(self, teacher: Teacher, batch: int) -> None:
        self.teacher = teacher
        self.batch = batch

    def probabilities(self, views: Tensor) -> Tensor:
        """Return the probabilities of views `[B, 3, S, S]`, float32 `[B, C]`.

        Raises:
            torch.OutOfMemoryError: A single view does not fit.
        """
        while True:
            try:
                return torch.cat([self._padded(part) for part in views.split(self.batch)])
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch = (self.batch + 1) // 2
            # Outside of `except`, whose exception would keep the tensors of the failed run alive.
            logger.warning("the teacher ran out of memory; going on with %d views", self.batch)
            if self.teacher.device.type == "cuda":
                torch.cuda.empty_cache()

    def _padded(self, views: Tensor) -> Tensor:
        missing = self.batch - len(views)
        if missing:
            views = torch.cat([views, views[:1].expand(missing, *views.shape[1:])])
        probabilities = self.teacher.probabilities(views)
        return probabilities[: len(probabilities) - missing]
