"""How many steps each bucket gives to a run of a stated length (spec 2.4, paper Table 1).

No bucket vanishes silently: one that is asked for and gives no step is an error, one that `natural`
or `equal` leaves out is logged.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from tenfold.bucketing import Bucket

logger = logging.getLogger(__name__)

Mixture = Literal["natural", "equal"] | dict[str, float]


def mixture_steps(
    mixture: Mixture, buckets: Sequence[Bucket], *, total_steps: int, tokens_per_step: int
) -> dict[str, int]:
    """Return the steps of each bucket by key, `total_steps` in all.

    Args:
        mixture: `"natural"`, `"equal"` or shares by bucket key, as for `step_shares`.
        buckets: All buckets of the data set.
        total_steps: Optimiser steps of the run.
        tokens_per_step: Trained tokens of a step over all ranks and micro-batches.

    Raises:
        ValueError: The shares do not fit the buckets, no bucket fills a batch, or a bucket with a
            share of its own would give no step; the message has the remedy.
    """
    need = {bucket.key: max(tokens_per_step // bucket.item_cost, 1) for bucket in buckets}
    too_small = {
        bucket.key: _too_small(bucket, need[bucket.key], tokens_per_step)
        for bucket in buckets
        if bucket.num_items < need[bucket.key]
    }
    if len(too_small) == len(buckets):
        raise ValueError(
            f"no bucket fills one batch: {'; '.join(too_small.values())}; "
            "lower data.tokens_per_step or add data"
        )
    shares = step_shares(mixture, {b.key: b.num_items // need[b.key] for b in buckets})
    steps = apportion(shares, total_steps)
    if isinstance(mixture, dict):
        _check_explicit(shares, steps, total_steps, too_small)
    else:
        unused = [bucket.key for bucket in buckets if bucket.num_items and not steps[bucket.key]]
        reasons = [too_small.get(key) or _rounded_away(key, shares, total_steps) for key in unused]
        if reasons:
            logger.warning("data.mixture=%s leaves buckets out: %s", mixture, "; ".join(reasons))
    return steps


def step_shares(mixture: Mixture, available: Mapping[str, int]) -> dict[str, float]:
    """Return each bucket's share of the steps.

    Args:
        mixture: `"natural"`: in proportion to the steps that a bucket can give in one pass;
            `"equal"`: the same for all that can give one; or shares by bucket key.
        available: Steps that each bucket can give in one pass.

    Raises:
        ValueError: A named bucket does not exist, or no share is positive.
    """
    if isinstance(mixture, dict):
        if unknown := sorted(set(mixture) - set(available)):
            raise ValueError(
                f"data.mixture names {unknown}, the data has the buckets {sorted(available)}"
            )
        shares = {key: float(mixture.get(key, 0.0)) for key in available}
    else:
        shares = {
            key: float(steps if mixture == "natural" else steps > 0)
            for key, steps in available.items()
        }
    whole = sum(shares.values())
    if not all(share >= 0 for share in shares.values()) or not 0 < whole < math.inf:
        raise ValueError(f"data.mixture needs finite shares >= 0 with a positive sum, got {shares}")
    return shares


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Split `total` steps in proportion to `shares` by largest remainder, earlier keys first."""
    whole = sum(shares.values())
    exact = {key: total * share / whole for key, share in shares.items()}
    counts = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: counts[key] - exact[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def _check_explicit(
    shares: Mapping[str, float],
    steps: Mapping[str, int],
    total_steps: int,
    too_small: Mapping[str, str],
) -> None:
    """Refuse a positive share without a step; more passes over too small a bucket do not help."""
    for key, share in shares.items():
        if share and key in too_small:
            raise ValueError(
                f"data.mixture asks for {key}, but {too_small[key]}; lower data.tokens_per_step "
                f"or set data.mixture.{key} to 0"
            )
        if share and not steps[key]:
            longer = math.ceil(sum(shares.values()) / share)
            raise ValueError(
                f"data.mixture asks for {key}, but {_rounded_away(key, shares, total_steps)}; "
                f"raise its share, train for {longer:,} steps or set data.mixture.{key} to 0"
            )


def _too_small(bucket: Bucket, need: int, tokens_per_step: int) -> str:
    return (
        f"{bucket.key} is too small for one batch: have {bucket.num_items:,} sequences of "
        f"{bucket.item_cost:,} tokens, need {need:,} (tokens_per_step={tokens_per_step:,})"
    )


def _rounded_away(key: str, shares: Mapping[str, float], total_steps: int) -> str:
    exact = total_steps * shares[key] / sum(shares.values())
    return f"{key} rounds to 0 steps: have {exact:.2g} of {total_steps:,} steps, need 1"
