"""The plan of a run: which bucket each step uses and which rows each rank takes from it.

A plan is a pure function of its described fields. Ranks, accumulation and loader workers only slice
its global batches, so a run may go on with other numbers of them.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from tenfold.bucketing.counts import checked_count
from tenfold.bucketing.curriculum import Bucket, Curriculum
from tenfold.bucketing.passes import BucketPasses, PassPosition, Repeat, supply
from tenfold.bucketing.quotas import check_divides, step_quotas
from tenfold.bucketing.schedule import count_ordinals, draw_schedule, lead_with_costliest
from tenfold.bucketing.skips import Range, ranges_of, skip_mask

logger = logging.getLogger(__name__)

VERSION = 2
MAX_BUCKETS = 2**16


@dataclass(frozen=True)
class BucketStats:
    """What a plan takes from one bucket.

    Attributes:
        steps: Steps of this bucket.
        items_per_step: Items in the global batch.
        cost: Total cost drawn.
        share: Fraction of the plan's cost, which is its fraction of the steps.
        passes: Passes over the bucket's whole batches; above 1 rows repeat.
        unused_items: Items that no step uses (in the first pass, if there are several).
    """

    steps: int
    items_per_step: int
    cost: int
    share: float
    passes: float
    unused_items: int


@dataclass(frozen=True, eq=False)
class BucketPlan:
    """Bucket and rows of every optimiser step; make one with `BucketPlan.build`.

    Attributes:
        buckets: The buckets; a bucket id is an index into them.
        cost_per_step: Cost of one optimiser step over all ranks and micro-batches.
        curriculum: Curriculum with its odds as numbers, or the name of its order.
        seed: Key of schedule and row order.
        longest_first: Steps at the start that are of the costliest bucket.
        steps: Bucket id of each step, uint16[S].
        ordinal: How many earlier steps used the same bucket, int32[S].
        continued: Where an earlier plan has left the buckets, by key; see `positions`.
        skipped: Ranges of steps that `without` has taken out.
    """

    buckets: tuple[Bucket, ...]
    cost_per_step: int
    curriculum: Curriculum
    seed: int
    longest_first: int
    steps: NDArray[np.uint16] = field(repr=False)
    ordinal: NDArray[np.int32] = field(repr=False)
    continued: Mapping[str, PassPosition] = field(default_factory=dict)
    skipped: tuple[Range, ...] = ()

    @classmethod
    def build(
        cls,
        buckets: Sequence[Bucket],
        *,
        cost_per_step: int,
        curriculum: Curriculum,
        seed: int,
        divisor: int = 1,
        wanted: Mapping[str, int] | None = None,
        longest_first: int = 1,
        repeat: Repeat = "error",
        continued: Mapping[str, PassPosition] | None = None,
    ) -> Self:
        """Plan a whole run: one million steps take less than a second.

        Args:
            buckets: Buckets with unique keys; some may be empty.
            cost_per_step: Cost of one optimiser step, the same for every bucket.
            curriculum: Odds and cycles.
            seed: Key of schedule and row order.
            divisor: Parts that each global batch must split into: ranks x accumulation.
            wanted: Cost wanted from a bucket by key, rounded down to whole steps; 0 leaves the
                bucket out, a bucket that is not named gives all its whole batches.
            longest_first: Steps at the start that are of the costliest bucket, so that running out
                of memory shows at once; 0 keeps the drawn order.
            repeat: What to do when a bucket has less than is wanted: `"error"`, or `"reshuffle"`
                for further passes in another order. A batch never spans two passes.
            continued: `positions` of an earlier plan of the same data. Its rows are not used again
                before all others are; with `repeat="error"` they are not used at all.

        Raises:
            ValueError: The buckets cannot give what is asked; the message has the remedy.
        """
        buckets = tuple(buckets)
        _check_buckets(buckets)
        if repeat not in get_args(Repeat):
            raise ValueError(f"repeat must be one of {get_args(Repeat)}, got {repeat!r}")
        seed = checked_count("seed", seed, least=0, hint="any other whole number will do")
        cost_per_step = checked_count("cost_per_step", cost_per_step, least=1, hint="see item_cost")
        divisor = checked_count("divisor", divisor, least=1, hint="it is ranks x accumulation")
        lead = checked_count("longest_first", longest_first, least=0, hint="0 switches it off")
        used = [b for b in buckets if (wanted or {}).get(b.key, b.num_items)]
        check_divides(used, cost_per_step, divisor)
        continued = dict(continued or {})
        left = supply(buckets, continued, repeat)
        quotas = step_quotas(left, cost_per_step=cost_per_step, wanted=wanted, repeat=repeat)
        costs = np.array([bucket.item_cost for bucket in buckets], dtype=np.int64)
        steps = draw_schedule(
            quotas,
            curriculum.weights(buckets, quotas),
            costs,
            cycles=curriculum.cycles,
            seed=seed,
        )
        steps = lead_with_costliest(steps, costs, lead)
        ordinal = count_ordinals(steps)
        steps.setflags(write=False)
        ordinal.setflags(write=False)
        resolved = curriculum.resolve(buckets)
        plan = cls(buckets, cost_per_step, resolved, seed, lead, steps, ordinal, continued)
        for key, times in ((key, stats.passes) for key, stats in plan.stats().items()):
            if times > 1:
                logger.warning("bucket %r is passed over %.2f times, reshuffled each", key, times)
        return plan

    def __len__(self) -> int:
        """Return the number of optimiser steps."""
        return self.steps.size

    def items(self, bucket: int) -> int:
        """Return the global batch size of a bucket id."""
        return self.cost_per_step // self.buckets[bucket].item_cost

    def rows(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
        """Return the rows of the step's bucket that a rank takes, int64[items / world_size].

        The global batch does not depend on `world_size`: rank r has its r-th equal part.

        Raises:
            IndexError: The plan has no such step.
            ValueError: The batch does not split over the ranks, or there is no such rank.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is outside the plan's {len(self)} steps")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}; ranks count from 0")
        bucket_id = int(self.steps[step])
        items = self.items(bucket_id)
        if items % world_size:
            self.check_divisor(world_size)
        passes = self._passes[bucket_id]
        return passes.rows(int(self.ordinal[step]), rank, items // world_size)

    def without(self, ranges: Iterable[Range]) -> Self:
        """Leave out steps `[first, end)` of this plan; all others stay as they are and move up.

        Raises:
            ValueError: A range is empty or beyond the plan, or nothing is left.
        """
        assert not self.skipped, "ranges count the steps of the whole plan"
        mask = skip_mask(ranges, len(self))
        if mask.all():
            raise ValueError(f"all {len(self)} steps of the plan are left out; keep some")
        steps, ordinal = self.steps[~mask], self.ordinal[~mask]
        steps.setflags(write=False)
        ordinal.setflags(write=False)
        return replace(self, steps=steps, ordinal=ordinal, skipped=ranges_of(mask))

    def planned_step(self, step: int) -> int:
        """Return the number that a step had before others were left out."""
        for first, end in self.skipped:
            if first > step:
                break
            step += end - first
        return step

    def positions(self, step: int) -> dict[str, PassPosition]:
        """Return where the first `step` steps leave the buckets that they use, for `continued`."""
        assert not self.skipped, "rows of steps that are left out count as used: ask the whole plan"
        counts = np.bincount(self.steps[:step], minlength=len(self.buckets)).tolist()
        return {
            bucket.key: (
                self._passes[bucket_id].after(count) if count else self.continued[bucket.key]
            )
            for bucket_id, (bucket, count) in enumerate(zip(self.buckets, counts, strict=True))
            if count or bucket.key in self.continued
        }

    def check_divisor(self, divisor: int) -> None:
        """Check that every global batch splits into `divisor` (ranks x accumulation) equal parts.

        Raises:
            ValueError: One does not; the nearest values of `cost_per_step` that would are named.
        """
        drawn = [self.buckets[bucket] for bucket in np.unique(self.steps)]
        check_divides(drawn, self.cost_per_step, divisor)

    def describe(self) -> dict[str, Any]:
        """Return the fields behind the fingerprint, as JSON values.

        `odds` are numbers by bucket key, or `"natural"` or `"sequential"`.
        `schedule` hashes the drawn steps as well, so that two machines whose libraries round a
        logarithm differently notice it.
        """
        odds = self.curriculum.odds
        assert isinstance(odds, str | Mapping), "build() resolves odds that are a function"
        counts = np.bincount(self.steps, minlength=len(self.buckets))
        return {
            "version": VERSION,
            "buckets": [asdict(bucket) for bucket in self.buckets],
            "odds": odds if isinstance(odds, str) else dict(odds),
            "odds_mode": self.curriculum.mode,
            "cycles": self.curriculum.cycles,
            "seed": self.seed,
            "cost_per_step": self.cost_per_step,
            "steps_per_bucket": counts.tolist(),
            "longest_first": self.longest_first,
            "continued": {key: asdict(begin) for key, begin in self.continued.items()},
            "skipped": [list(one) for one in self.skipped],
            "schedule": hashlib.sha256(self.steps.astype("<u2").tobytes()).hexdigest(),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Return the hex SHA-256 of `describe()`."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()

    def stats(self) -> dict[str, BucketStats]:
        """Return what the plan takes from each bucket, by key."""
        counts = np.bincount(self.steps, minlength=len(self.buckets)).tolist()
        return {
            bucket.key: self._stats_of(bucket_id, steps)
            for bucket_id, (bucket, steps) in enumerate(zip(self.buckets, counts, strict=True))
        }

    def _stats_of(self, bucket_id: int, steps: int) -> BucketStats:
        items, passes = self.items(bucket_id), self._passes[bucket_id]
        left = passes.bucket.num_items - passes.begin.used
        return BucketStats(
            steps=steps,
            items_per_step=items,
            cost=steps * self.cost_per_step,
            share=steps / len(self),
            passes=passes.count(steps) if steps else 0.0,
            unused_items=max(left - steps * items, left % max(items, 1)),
        )

    @cached_property
    def _passes(self) -> list[BucketPasses]:
        fresh = PassPosition(self.seed, 0, 0)
        return [
            BucketPasses(bucket, self.items(n), self.seed, self.continued.get(bucket.key, fresh))
            for n, bucket in enumerate(self.buckets)
        ]

    def expected_cost(self, function: Callable[[int], float]) -> float:
        """Return the mean of `function(item_cost)` over the steps.

        With the measured time of a step at each `item_cost` as `function`, this is the expected
        step time of the mixture.
        """
        counts = np.bincount(self.steps, minlength=len(self.buckets))
        costs = [
            function(bucket.item_cost) if n else 0.0
            for bucket, n in zip(self.buckets, counts, strict=True)
        ]
        return float(np.dot(costs, counts) / len(self))


def _check_buckets(buckets: tuple[Bucket, ...]) -> None:
    keys = [bucket.key for bucket in buckets]
    if not keys or len(keys) > MAX_BUCKETS:
        raise ValueError(
            f"a plan needs 1 to {MAX_BUCKETS} buckets, got {len(keys)}; add or merge some"
        )
    if len(set(keys)) < len(keys):
        raise ValueError(f"bucket keys must be unique, got {keys}; rename the repeated ones")
