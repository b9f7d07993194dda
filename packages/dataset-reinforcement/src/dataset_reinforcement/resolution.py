"""Image size and number of images of every optimiser step.

One size for the whole run, or another at each step with the pixels of a step kept constant
(CVNets' variable batch sampler): sizes are drawn by `tenfold.bucketing`, the same on all ranks. A
stored crop is in pixels of the source image, so a view fits every size.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dataset_reinforcement.config import ResolutionConfig
from tenfold.bucketing import Bucket, BucketPlan, Curriculum


class StepShape(NamedTuple):
    """What an optimiser step takes over all ranks and micro-batches.

    Attributes:
        first: Place of its first image in the endless sequence of images.
        num_images: Their number.
        size: Side of the images.
    """

    first: int
    num_images: int
    size: int


class StepPlan(Protocol):
    """Shape of every step of a run."""

    def shape(self, step: int) -> StepShape:
        """Return the shape of an optimiser step."""
        ...


class FixedPlan:
    """The same size and number of images at every step, without end.

    Args:
        batch_size: Images of an optimiser step over all ranks and micro-batches.
        size: Side of the images.
        divisor: Ranks times micro-batches, among which a step is split.

    Raises:
        ValueError: The batch does not split into equal parts.
    """

    def __init__(self, batch_size: int, size: int, *, divisor: int = 1) -> None:
        check_batch(batch_size, divisor)
        self.batch_size = batch_size
        self.size = size

    def shape(self, step: int) -> StepShape:
        """Return the shape of an optimiser step."""
        return StepShape(step * self.batch_size, self.batch_size, self.size)


class VariablePlan:
    """Sizes drawn for each step, all equally often, in a planned order.

    Args:
        config: The sizes.
        base: Side at which `batch_size` counts.
        batch_size: Images of a step of side `base`.
        total_steps: Length of the run.
        seed: Key of the order.
        divisor: Ranks times micro-batches, among which a step is split.

    Raises:
        ValueError: The batch does not split, or there are more sizes than steps.
    """

    def __init__(
        self,
        config: ResolutionConfig,
        *,
        base: int,
        batch_size: int,
        total_steps: int,
        seed: int,
        divisor: int = 1,
    ) -> None:
        check_batch(batch_size, divisor)
        self.sizes = image_sizes(config)
        if total_steps < len(self.sizes):
            raise ValueError(
                f"{len(self.sizes)} image sizes need as many steps, the run has {total_steps}; "
                "lower data.resolution.scales or raise trainer.max_steps"
            )
        counts = [
            images_per_step(size, base=base, batch_size=batch_size, divisor=divisor)
            for size in self.sizes
        ]
        self.plan = _plan(self.sizes, counts, total_steps=total_steps, seed=seed, divisor=divisor)
        per_step = np.array(counts, dtype=np.int64)[self.plan.steps]
        self._counts = per_step
        self._first = np.concatenate([[0], np.cumsum(per_step)])

    def shape(self, step: int) -> StepShape:
        """Return the shape of an optimiser step.

        Raises:
            IndexError: The run has no such step.
        """
        if not 0 <= step < len(self.plan):
            raise IndexError(f"step {step} is outside the run's {len(self.plan)} steps")
        size = self.sizes[int(self.plan.steps[step])]
        return StepShape(int(self._first[step]), int(self._counts[step]), size)


def image_sizes(config: ResolutionConfig) -> tuple[int, ...]:
    """Return the rising sides that CVNets' sampler makes of these bounds, without repeats."""
    evenly = np.linspace(config.low, config.high, config.scales)
    return tuple(sorted({_divisible(float(side), config.multiple) for side in evenly}))


def images_per_step(size: int, *, base: int, batch_size: int, divisor: int = 1) -> int:
    """Return how many images of side `size` have the pixels of `batch_size` images of side `base`.

    Each of the `divisor` parts is rounded down, but holds at least one image.
    """
    return divisor * max(1, batch_size // divisor * base**2 // size**2)


def check_batch(batch_size: int, divisor: int) -> None:
    """Check that a step splits into equal parts.

    Raises:
        ValueError: It does not.
    """
    if batch_size < 1 or batch_size % divisor:
        raise ValueError(
            f"data.batch_size must be a positive multiple of ranks x micro-batches = {divisor}, "
            f"got {batch_size}"
        )


def _divisible(side: float, multiple: int) -> int:
    rounded = max(multiple, int(side + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * side else rounded


def _plan(
    sizes: Sequence[int], counts: Sequence[int], *, total_steps: int, seed: int, divisor: int
) -> BucketPlan:
    # Rounded numbers of images have no common cost in pixels; this one is common to all of them.
    cost = math.lcm(*counts)
    if cost >= 2**62:
        raise ValueError(
            f"{len(sizes)} image sizes have no common batch; lower data.resolution.scales or make "
            "data.batch_size a multiple of more small numbers"
        )
    share, more = divmod(total_steps, len(sizes))
    buckets = [
        Bucket(f"size-{size}", cost // count, count * (share + (place < more)))
        for place, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]
    return BucketPlan.build(
        buckets,
        cost_per_step=cost,
        curriculum=Curriculum.natural(),
        seed=seed,
        divisor=divisor,
    )
