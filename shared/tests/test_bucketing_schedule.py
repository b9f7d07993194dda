"""Schedule and row order against naive loops: Algorithm 1, brute-force permutations, sorting."""

import itertools
from collections import Counter

import numpy as np
import pytest

from tenfold.bucketing import Bucket, Curriculum
from tenfold.bucketing.curriculum import FixedOrder
from tenfold.bucketing.keys import key_words, uniforms
from tenfold.bucketing.permutation import permute
from tenfold.bucketing.schedule import count_ordinals, draw_schedule, lead_with_costliest

QUOTAS = np.array([6, 5, 3])
WEIGHTS = np.array([4.0, 2.0, 1.0])
COSTS = np.array([32, 64, 128])
SEEDS = 2000
CHI_SQUARE_0_001 = {
    2: 13.82,
    11: 31.26,
    23: 49.73,
}  # degrees of freedom -> value exceeded with p = 0.001


def chi_square(seen, expected):
    return float(np.sum((np.array(seen) - np.array(expected)) ** 2 / np.array(expected)))


def naive_cycle(quotas, weights, rng):
    """Algorithm 1 as printed: draw, take one step, drop the buckets that are empty."""
    left, drawn = list(quotas), []
    while any(left):
        odds = np.array([w if n else 0.0 for w, n in zip(weights, left, strict=True)])
        bucket = int(rng.choice(len(left), p=odds / odds.sum()))
        left[bucket] -= 1
        drawn.append(bucket)
    return np.array(drawn)


def positions(schedules, bucket):
    return [float(np.flatnonzero(steps == bucket).mean()) for steps in schedules]


def drawn(cycles, seed, quotas=QUOTAS, weights: np.ndarray | FixedOrder = WEIGHTS):
    return draw_schedule(quotas, weights, COSTS, cycles=cycles, seed=seed)


def test_vectorised_schedule_has_the_distribution_of_algorithm_1():
    rng = np.random.Generator(np.random.Philox(key=7))
    fast = [drawn(1, seed) for seed in range(SEEDS)]
    naive = [naive_cycle(QUOTAS, WEIGHTS, rng) for _ in range(SEEDS)]

    first = Counter(int(steps[0]) for steps in fast)
    expected = WEIGHTS / WEIGHTS.sum() * SEEDS
    assert chi_square([first[bucket] for bucket in range(3)], expected) < CHI_SQUARE_0_001[2]
    for bucket in range(3):
        ours, theirs = positions(fast, bucket), positions(naive, bucket)
        error = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(SEEDS)
        assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error
        assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.1)


def test_every_order_of_a_tiny_cycle_has_its_exact_probability():
    quotas, weights = np.array([2, 1]), np.array([3.0, 1.0])
    seen = Counter(
        tuple(draw_schedule(quotas, weights, COSTS[:2], cycles=1, seed=seed).tolist())
        for seed in range(SEEDS)
    )
    exact = {(0, 0, 1): 3 / 4 * 3 / 4, (0, 1, 0): 3 / 4 * 1 / 4, (1, 0, 0): 1 / 4}
    assert set(seen) == set(exact)
    counts = [seen[order] for order in exact]
    assert chi_square(counts, [p * SEEDS for p in exact.values()]) < CHI_SQUARE_0_001[2]


def test_a_natural_cycle_is_uniform_over_all_orders_of_its_steps():
    quotas = np.array([2, 1, 1])
    seen = Counter(
        tuple(draw_schedule(quotas, "natural", COSTS, cycles=1, seed=seed).tolist())
        for seed in range(SEEDS)
    )
    orders = set(itertools.permutations([0, 0, 1, 2]))
    assert set(seen) == orders
    counts = [seen[order] for order in sorted(orders)]
    assert chi_square(counts, [SEEDS / 12] * 12) < CHI_SQUARE_0_001[11]


def test_a_rare_bucket_of_a_natural_cycle_may_come_at_any_time():
    places = [
        int(np.flatnonzero(drawn(1, seed, np.array([1, 99, 0]), "natural") == 0)[0])
        for seed in range(2 * SEEDS)
    ]
    error = np.sqrt((100**2 - 1) / 12 / len(places))
    assert abs(np.mean(places) - 49.5) < 4 * error
    for place in (0, 99):
        share = np.mean(np.array(places) == place)
        assert abs(share - 0.01) < 4 * np.sqrt(0.01 * 0.99 / len(places))


def test_each_natural_cycle_has_its_part_in_an_order_of_its_own():
    steps = drawn(2, seed=3, quotas=np.array([40, 40, 6]), weights="natural")
    cycles = np.split(steps, 2)
    assert [np.bincount(cycle).tolist() for cycle in cycles] == [[20, 20, 3]] * 2
    assert not np.array_equal(*cycles)


def test_each_cycle_uses_an_equal_part_in_an_order_of_its_own():
    steps = drawn(4, seed=3, quotas=np.array([40, 42, 7]))
    assert np.bincount(steps).tolist() == [40, 42, 7]
    parts = [[10, 10, 1], [10, 11, 2], [10, 10, 2], [10, 11, 2]]
    edges = np.cumsum([0, *map(sum, parts)])
    cycles = [steps[start:stop] for start, stop in itertools.pairwise(edges)]
    assert [np.bincount(cycle).tolist() for cycle in cycles] == parts
    assert len({tuple(cycle[:20].tolist()) for cycle in cycles}) == 4


def test_two_cycles_of_the_same_counts_differ():
    steps = drawn(2, seed=0, quotas=np.array([40, 40, 40]))
    assert not np.array_equal(steps[:60], steps[60:])


def test_a_huge_base_is_the_sorted_order_of_each_cycle():
    buckets = [Bucket(str(cost), int(cost), 1) for cost in COSTS]
    huge = Curriculum.grow_p(1e15).weights(buckets, QUOTAS)
    sequential = drawn(2, seed=5, weights="sequential")
    assert np.array_equal(drawn(2, seed=5, weights=huge), sequential)
    assert sequential.tolist() == [0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 1, 1, 2, 2]
    shrinking = Curriculum.shrink_p(1e15).weights(buckets, QUOTAS)
    assert drawn(1, seed=5, weights=shrinking).tolist() == [2] * 3 + [1] * 5 + [0] * 6


def test_tiny_and_huge_odds_keep_apart():
    weights = np.array([1e-300, 1.0, 1e300])
    assert drawn(1, seed=1, weights=weights).tolist() == [2] * 3 + [1] * 5 + [0] * 6


def test_a_bucket_scarcer_than_the_cycles_is_logged(caplog):
    drawn(8, seed=0)
    assert "fewer steps than the 8 cycles" in caplog.text


def test_lead_swaps_and_keeps_all_counts():
    steps = np.array([0, 1, 2, 0, 2, 1, 2], dtype=np.uint16)
    assert lead_with_costliest(steps, COSTS, 0).tolist() == steps.tolist()
    assert lead_with_costliest(steps, COSTS, 1).tolist() == [2, 1, 0, 0, 2, 1, 2]
    assert lead_with_costliest(steps, COSTS, 3).tolist() == [2, 2, 2, 0, 0, 1, 1]
    assert steps.tolist() == [0, 1, 2, 0, 2, 1, 2]
    with pytest.raises(ValueError, match=r"longest_first=4, but only 3 steps.*at most 3"):
        lead_with_costliest(steps, COSTS, 4)


def test_ordinals_match_a_counting_loop():
    steps = drawn(3, seed=9)
    seen: Counter[int] = Counter()
    expected = []
    for step in steps.tolist():
        expected.append(seen[step])
        seen[step] += 1
    assert count_ordinals(steps).tolist() == expected


@pytest.mark.parametrize("size", [*range(1, 40), 100, 1023, 1024, 1025, 9973])
def test_permutation_is_a_bijection(size):
    rows = permute(np.arange(size), size, key_words(0, "rows", size))
    assert sorted(rows.tolist()) == list(range(size))


def test_permutation_of_a_part_is_the_part_of_the_permutation():
    words = key_words(3, "rows")
    whole = permute(np.arange(1000), 1000, words)
    assert np.array_equal(permute(np.arange(137, 400), 1000, words), whole[137:400])


def test_permutation_reaches_terabyte_sizes_without_an_index():
    size = 10**12 + 39
    rows = permute(np.arange(size - 4096, size), size, key_words(1))
    assert np.unique(rows).size == 4096
    assert 0 <= rows.min() < size * 0.01
    assert size * 0.99 < rows.max() < size


def test_all_orders_of_a_small_permutation_are_equally_likely():
    places = np.arange(4)
    seen = Counter(
        tuple(permute(places, 4, key_words(seed, "rows")).tolist()) for seed in range(4800)
    )
    assert len(seen) == 24
    assert chi_square(list(seen.values()), [200] * 24) < CHI_SQUARE_0_001[23]


def test_neighbours_and_keys_are_uncorrelated():
    size = 20_000
    first, second = (permute(np.arange(size), size, key_words(seed, "rows")) for seed in (0, 1))
    bound = 4 / np.sqrt(size)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < bound
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first, np.arange(size))[0, 1]) < bound
    assert np.count_nonzero(first == second) < 10


def test_random_numbers_stay_what_they_are():
    assert key_words(0, "schedule", 0)[:2].tolist() == [4982234756069153021, 17367415818806346840]
    assert uniforms(key_words(0, "schedule", 0), 2).tolist() == [
        0.5626806471832421,
        0.6286222361518533,
    ]
    assert permute(np.arange(5), 5, key_words(0, "rows")).tolist() == [0, 1, 2, 4, 3]
    assert drawn(1, seed=0).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 2, 1, 2, 1, 2, 1]
