"""Batch sampler for map-style data sets whose index is (bucket id, row)."""

from collections.abc import Iterator
from itertools import repeat

from torch.utils.data import Sampler

from tenfold.bucketing.cursor import StepCursor
from tenfold.bucketing.plan import BucketPlan


class BucketBatchSampler(StepCursor, Sampler[list[tuple[int, int]]]):
    """Yield the micro-batches of one rank as lists of (bucket id, row), in plan order.

    Use as `DataLoader(dataset, batch_sampler=sampler)`. `DataLoader` workers ask for batches ahead
    of training, therefore `state_dict()` reports what `advance` was told and not what was yielded.
    An iteration starts at `step` when its first batch is asked for.

    With Lightning: `Trainer(use_distributed_sampler=False, max_steps=len(plan))`, and

    - make plan and sampler in the data module's `setup`;
    - call `sampler.advance()` after each optimiser step and return `sampler.state_dict()` from the
      data module's `state_dict`; or keep no position at all and, on resume, call
      `sampler.load_state_dict({"step": trainer_step, "fingerprint": saved_fingerprint})` with the
      trainer's step, which is the same number as long as no step was skipped.

    Args:
        plan: The plan; the same on all ranks (`assert_lockstep`).
        rank: This rank, from 0.
        world_size: Number of data-parallel ranks.
        accum: Micro-batches per optimiser step.

    Raises:
        ValueError: The global batches do not split into `world_size * accum` equal parts.
    """

    def __init__(self, plan: BucketPlan, rank: int, world_size: int, accum: int = 1) -> None:
        super().__init__(plan)
        check_split(plan, rank, world_size, accum)
        self.rank = rank
        self.world_size = world_size
        self.accum = accum

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.step, len(self.plan)):
            bucket = int(self.plan.steps[step])
            rows = self.plan.rows(step, self.rank, self.world_size).tolist()
            size = len(rows) // self.accum
            for start in range(0, len(rows), size):
                yield list(zip(repeat(bucket, size), rows[start : start + size], strict=True))

    def __len__(self) -> int:
        """Return the micro-batches of the whole plan: equal on all ranks and after a resume."""
        return len(self.plan) * self.accum


def check_split(plan: BucketPlan, rank: int, world_size: int, accum: int) -> None:
    """Check that a rank exists and that every global batch splits into equal micro-batches.

    Raises:
        ValueError: Otherwise.
    """
    if accum < 1:
        raise ValueError(f"accum must be >= 1, got {accum}; 1 means no accumulation")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), got {rank}; ranks count from 0")
    plan.check_divisor(world_size * accum)
