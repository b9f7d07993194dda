"""A network that runs out of memory gets fewer items at once."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class BackOff:
    """Runs a network over a batch in parts, as many as memory asks for.

    The parts of a batch have one size, the last padded with its first item, so that compiled
    networks see few shapes. Once halved, the size stays for the life of this object.

    Args:
        run: From a tensor `[n, ...]` or a list of n items to one or more rows each, `[n, ...]`.
        batch: Items at once to begin with.
        name: What runs, for the log.
    """

    def __init__(self, run: Callable[[Any], Tensor], batch: int, *, name: str) -> None:
        if batch < 1:
            raise ValueError(f"batch must be >= 1, got {batch}")
        self.run = run
        self.batch = batch
        self.name = name

    def __call__(self, items: Tensor | Sequence[Any]) -> Tensor:
        """Return the rows of all items, in order.

        Args:
            items: At least one; a tensor along its first dimension, or a list.

        Raises:
            torch.OutOfMemoryError: A single item does not fit.
        """
        while True:
            try:
                return torch.cat([self._padded(part) for part in self._parts(items)])
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch = (self.batch + 1) // 2
            # Outside of `except`, whose exception would keep the tensors of the failed run alive.
            logger.warning("%s ran out of memory; going on with %d at once", self.name, self.batch)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _parts(self, items: Tensor | Sequence[Any]) -> Iterator[Tensor | list[Any]]:
        for first in range(0, len(items), self.batch):
            part = items[first : first + self.batch]
            yield part if isinstance(part, Tensor) else list(part)

    def _padded(self, part: Tensor | list[Any]) -> Tensor:
        missing = self.batch - len(part)
        if not missing:
            return self.run(part)
        if isinstance(part, Tensor):
            padded = torch.cat([part, part[:1].expand(missing, *part.shape[1:])])
        else:
            padded = part + part[:1] * missing
        return self.run(padded)[: len(part)]
