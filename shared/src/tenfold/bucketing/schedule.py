"""Order of the buckets: Algorithm 1 of dataset decomposition, vectorised and still exact.

In each cycle, bucket i with n_i steps gets n_i gaps of Exp(1); its steps arrive at cumsum(gaps) /
w_i and all arrivals are sorted. These are competing Poisson processes: the next arrival is of
bucket i with probability w_i / (sum of the weights that are left), and being memoryless they need
no correction when a bucket runs dry. O(S log S) instead of a Python loop over steps.

Weights that follow the steps left make a plain shuffle, which is drawn as such (`"natural"`).
"""

import logging

import numpy as np
from numpy.typing import NDArray

from tenfold.bucketing.curriculum import FixedOrder
from tenfold.bucketing.keys import key_words, uniforms

logger = logging.getLogger(__name__)


def draw_schedule(
    quotas: NDArray[np.int64],
    weights: NDArray[np.float64] | FixedOrder,
    item_costs: NDArray[np.int64],
    *,
    cycles: int,
    seed: int,
) -> NDArray[np.uint16]:
    """Draw the bucket of every step.

    Args:
        quotas: int64[buckets], steps that each bucket gives over all cycles.
        weights: float64[buckets], draw weights; `"natural"` shuffles each cycle, `"sequential"`
            sorts it by cost.
        item_costs: int64[buckets].
        cycles: Equal portions, each drawn with its own key.
        seed: Key of the draw.

    Returns:
        Bucket id of each step, uint16[sum of quotas].
    """
    if np.any((quotas > 0) & (quotas < cycles)):
        logger.warning("a bucket has fewer steps than the %d cycles: some cycles lack it", cycles)
    edges = np.arange(cycles + 1)[:, None] * quotas // cycles
    parts = []
    for cycle, portion in enumerate(np.diff(edges, axis=0)):
        words = key_words(seed, "schedule", cycle)
        if not isinstance(weights, str):
            parts.append(_drawn_cycle(portion, weights, words))
        elif weights == "natural":
            parts.append(_shuffled_cycle(portion, words))
        else:
            parts.append(_sorted_cycle(portion, item_costs))
    return np.concatenate(parts)


def _sorted_cycle(portion: NDArray[np.int64], item_costs: NDArray[np.int64]) -> NDArray[np.uint16]:
    order = np.argsort(item_costs, kind="stable")
    return np.repeat(order, portion[order]).astype(np.uint16)


def _shuffled_cycle(portion: NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.uint16]:
    ids = np.repeat(np.arange(portion.size, dtype=np.uint16), portion)
    return ids[np.argsort(uniforms(words, ids.size), kind="stable")]


def _drawn_cycle(
    portion: NDArray[np.int64], weights: NDArray[np.float64], words: NDArray[np.uint64]
) -> NDArray[np.uint16]:
    gaps = -np.log(uniforms(words, int(portion.sum())))
    # Logarithms keep any finite odds apart: 1e-300 as a divisor would overflow to equal arrivals.
    arrivals = [
        np.log(np.cumsum(part)) - np.log(weight)
        for part, weight in zip(np.split(gaps, np.cumsum(portion)[:-1]), weights, strict=True)
    ]
    ids = np.repeat(np.arange(portion.size, dtype=np.uint16), portion)
    return ids[np.argsort(np.concatenate(arrivals), kind="stable")]


def lead_with_costliest(
    steps: NDArray[np.uint16], item_costs: NDArray[np.int64], count: int
) -> NDArray[np.uint16]:
    """Swap steps so that the first `count` are of the highest drawn cost; all counts stay.

    A model that does not fit in memory then fails at once and not after hours.

    Raises:
        ValueError: Fewer than `count` steps have that cost.
    """
    costs = item_costs[steps]
    places = np.flatnonzero(costs == costs.max())
    if places.size < count:
        raise ValueError(
            f"longest_first={count}, but only {places.size} steps have the highest item_cost "
            f"{costs.max()}; lower longest_first to at most {places.size}"
        )
    gaps = np.setdiff1d(np.arange(count), places)
    donors = places[places >= count][: gaps.size]
    swapped = steps.copy()
    swapped[gaps], swapped[donors] = steps[donors], steps[gaps]
    return swapped


def count_ordinals(steps: NDArray[np.uint16]) -> NDArray[np.int32]:
    """Number each bucket's steps 0, 1, 2, ... in plan order, int32[S]."""
    order = np.argsort(steps, kind="stable")
    counts = np.bincount(steps)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    ordinal = np.empty(steps.size, dtype=np.int32)
    ordinal[order] = np.arange(steps.size) - first
    return ordinal
