"""Passes over one bucket: the rows of its n-th batch, and from where a later plan goes on.

A pass is a keyed permutation of the bucket's rows, and batches are consecutive parts of it. So the
rows that are used are always the head of a pass, and three numbers tell a later plan, with other
batch sizes and another order of buckets, which rows are left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.bucketing.counts import checked_count
from tenfold.bucketing.curriculum import Bucket
from tenfold.bucketing.keys import key_words
from tenfold.bucketing.permutation import permute

Repeat = Literal["error", "reshuffle"]


@dataclass(frozen=True)
class PassPosition:
    """How far the rows of a bucket are used up.

    Attributes:
        seed: Seed of the plan that shuffled the pass.
        number: Which pass it is, from 0.
        used: Rows at its head that are used.
    """

    seed: int
    number: int
    used: int

    def __post_init__(self) -> None:
        for field in ("seed", "number", "used"):
            value = checked_count(field, getattr(self, field), least=0, hint="see positions()")
            object.__setattr__(self, field, value)


@dataclass(frozen=True)
class BucketPasses:
    """The rows of one bucket in the order in which a plan takes them.

    Attributes:
        bucket: The bucket.
        batch_size: Rows of a global batch.
        seed: Seed of the plan; it shuffles every pass but one that an earlier plan began.
        begin: Where the plan takes the bucket over.
    """

    bucket: Bucket
    batch_size: int
    seed: int
    begin: PassPosition

    @property
    def first_batches(self) -> int:
        """Return the whole batches that are left of the pass in which the plan begins."""
        return (self.bucket.num_items - self.begin.used) // self.batch_size

    @property
    def batches_per_pass(self) -> int:
        """Return the whole batches of a pass; what is over changes with each pass's shuffle."""
        return self.bucket.num_items // self.batch_size

    def rows(self, ordinal: int, rank: int, share: int) -> NDArray[np.int64]:
        """Return rows `[rank * share, (rank + 1) * share)` of the bucket's n-th batch, int64."""
        start, position = rank * share, self.begin
        if ordinal < self.first_batches:
            start += self.begin.used + ordinal * self.batch_size
        else:
            number, slot = divmod(ordinal - self.first_batches, self.batches_per_pass)
            start += slot * self.batch_size
            position = PassPosition(self.seed, self.begin.number + number + 1, 0)
        words = key_words(position.seed, "rows", self.bucket.key, position.number)
        return permute(np.arange(start, start + share), self.bucket.num_items, words)

    def after(self, batches: int) -> PassPosition:
        """Return where the bucket stands when its first `batches` batches are used."""
        if batches <= self.first_batches:
            return replace(self.begin, used=self.begin.used + batches * self.batch_size)
        number, slot = divmod(batches - self.first_batches - 1, self.batches_per_pass)
        used = (slot + 1) * self.batch_size
        return PassPosition(self.seed, self.begin.number + number + 1, used)

    def count(self, batches: int) -> float:
        """Return the passes that `batches` > 0 batches make; above 1 rows repeat."""
        if batches <= self.first_batches:
            return batches / self.first_batches
        return (batches + self.batches_per_pass - self.first_batches) / self.batches_per_pass


def supply(
    buckets: Sequence[Bucket], continued: Mapping[str, PassPosition], repeat: Repeat
) -> list[Bucket]:
    """Return the buckets with the rows that a plan may take from them.

    Args:
        buckets: All buckets.
        continued: What earlier plans have used, by bucket key.
        repeat: `"error"`: no row may come twice, so only those that no plan has used count;
            `"reshuffle"`: further passes follow, so all count.

    Raises:
        ValueError: More is used than a bucket has, or a bucket does not exist.
    """
    if unknown := set(continued) - {bucket.key for bucket in buckets}:
        raise ValueError(
            f"continued names unknown buckets {sorted(unknown)}; "
            f"the buckets are {[bucket.key for bucket in buckets]}"
        )
    for bucket in buckets:
        if bucket.key in continued and continued[bucket.key].used > bucket.num_items:
            raise ValueError(
                f"{continued[bucket.key].used} rows of bucket {bucket.key!r} are used, but it has "
                f"{bucket.num_items}; continue a plan of the same data"
            )
    return list(buckets) if repeat == "reshuffle" else [_unused(b, continued) for b in buckets]


def _unused(bucket: Bucket, continued: Mapping[str, PassPosition]) -> Bucket:
    if bucket.key not in continued:
        return bucket
    position = continued[bucket.key]
    return replace(bucket, num_items=0 if position.number else bucket.num_items - position.used)
