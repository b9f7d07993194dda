"""How many steps each bucket gives, and the checks that name what is missing.

Not here: the order of the steps (`schedule`).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.bucketing.counts import checked_count
from tenfold.bucketing.curriculum import Bucket
from tenfold.bucketing.passes import Repeat


def step_quotas(
    buckets: Sequence[Bucket],
    *,
    cost_per_step: int,
    wanted: Mapping[str, int] | None = None,
    repeat: Repeat = "error",
) -> NDArray[np.int64]:
    """Return the number of steps of each bucket, int64[buckets].

    A bucket that `wanted` does not name gives all its whole batches; the others give
    `wanted // cost_per_step` steps.

    Raises:
        ValueError: A bucket cannot fill one batch, or has less than is wanted.
    """
    wanted = {
        key: checked_count(f"wanted[{key!r}]", cost, least=0, hint="0 leaves the bucket out")
        for key, cost in (wanted or {}).items()
    }
    if unknown := set(wanted) - {bucket.key for bucket in buckets}:
        raise ValueError(
            f"wanted names unknown buckets {sorted(unknown)}; "
            f"the buckets are {[bucket.key for bucket in buckets]}"
        )
    quotas = [_quota(bucket, cost_per_step, wanted.get(bucket.key), repeat) for bucket in buckets]
    if not any(quotas):
        raise ValueError(
            f"no bucket gives a step of cost_per_step={cost_per_step}: have "
            f"{ {bucket.key: bucket.num_items for bucket in buckets} } items; add data or want more"
        )
    return np.array(quotas, dtype=np.int64)


def _quota(bucket: Bucket, cost_per_step: int, wanted: int | None, repeat: Repeat) -> int:
    if wanted == 0 or (wanted is None and bucket.num_items == 0):
        return 0
    _check_fills_a_batch(bucket, cost_per_step, wanted)
    if wanted is None:
        return bucket.num_items // (cost_per_step // bucket.item_cost)
    have = bucket.num_items * bucket.item_cost
    if wanted > have and repeat == "error":
        raise ValueError(
            f"bucket {bucket.key!r} has cost {have}, need wanted={wanted}, which is "
            f"{wanted / have:.2f} passes; lower wanted or set repeat='reshuffle'"
        )
    return wanted // cost_per_step


def _check_fills_a_batch(bucket: Bucket, cost_per_step: int, wanted: int | None) -> None:
    need = cost_per_step // bucket.item_cost
    if bucket.num_items < need:
        raise ValueError(
            f"bucket {bucket.key!r} is too small for one batch: have {bucket.num_items} items, "
            f"need {need} (cost_per_step={cost_per_step} / item_cost={bucket.item_cost}); lower "
            f"cost_per_step or leave it out with wanted={{{bucket.key!r}: 0}}"
        )
    if wanted is not None and wanted < cost_per_step:
        raise ValueError(
            f"wanted[{bucket.key!r}]={wanted} is less than one batch of "
            f"cost_per_step={cost_per_step} (item_cost={bucket.item_cost}); want at least one "
            "batch, or 0 to leave the bucket out"
        )


def check_divides(buckets: Sequence[Bucket], cost_per_step: int, divisor: int) -> None:
    """Check that a step of each bucket splits into `divisor` equal parts of whole items.

    Raises:
        ValueError: It does not; the nearest values of `cost_per_step` that would are named.
    """
    if not buckets:
        return
    unit = divisor * math.lcm(*(bucket.item_cost for bucket in buckets))
    if cost_per_step % unit == 0:
        return
    bad = next(b for b in buckets if cost_per_step % (divisor * b.item_cost))
    below = cost_per_step // unit * unit
    nearest = f"{below} or {below + unit}" if below else f"{unit}"
    raise ValueError(
        f"cost_per_step={cost_per_step} must be a multiple of divisor * item_cost = {divisor} * "
        f"{bad.item_cost} (bucket {bad.key!r}); nearest values that suit all buckets: {nearest}"
    )
