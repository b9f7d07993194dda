"""A plan that goes on where another stopped, and plans with steps left out: naive bookkeeping."""

import numpy as np
import pytest

from tenfold.bucketing import Bucket, BucketPlan, Curriculum, PassPosition, assert_lockstep
from tenfold.bucketing.skips import check_same_until, ranges_of, skip_mask, written
from tenfold.testing import run_ranks

BUCKETS = (Bucket("short", 8, 290), Bucket("middle", 24, 97), Bucket("long", 48, 65))


def build(seed=0, cost_per_step=384, curriculum="grow_p2", **changes):
    return BucketPlan.build(
        BUCKETS,
        cost_per_step=cost_per_step,
        curriculum=Curriculum.named(curriculum, cycles=2),
        seed=seed,
        **changes,
    )


def wanted(plan_steps, cost_per_step):
    keys = (bucket.key for bucket in BUCKETS)
    return {key: n * cost_per_step for key, n in zip(keys, plan_steps, strict=True)}


def rows_of(plan, steps):
    """List what steps use as (bucket key, row)."""
    return [
        (plan.buckets[plan.steps[step]].key, row)
        for step in steps
        for row in plan.rows(step).tolist()
    ]


def unused(used):
    return {(b.key, row) for b in BUCKETS for row in range(b.num_items)} - set(used)


@pytest.mark.parametrize("step", range(0, 21, 2))
@pytest.mark.parametrize("cost_per_step", [384, 192, 576])
def test_a_continued_plan_uses_the_rows_that_are_left_and_no_other(step, cost_per_step):
    first = build()
    assert len(first) == 20
    used = rows_of(first, range(step))
    left = unused(used)
    counts = [
        sum(1 for key, _ in left if key == b.key) // (cost_per_step // b.item_cost) for b in BUCKETS
    ]
    if not any(counts):
        return
    second = build(
        seed=9,
        curriculum="uniform",
        cost_per_step=cost_per_step,
        continued=first.positions(step),
        wanted=wanted(counts, cost_per_step),
        longest_first=0,
    )
    assert np.bincount(second.steps, minlength=3).tolist() == counts
    rows = rows_of(second, range(len(second)))
    assert len(rows) == len(set(rows))
    assert set(rows) <= left
    assert len(left) - len(rows) == sum(  # only what does not fill a batch stays
        sum(1 for key, _ in left if key == b.key) % (cost_per_step // b.item_cost) for b in BUCKETS
    )
    parts = [second.rows(0, rank, 2) for rank in range(2)]
    assert np.concatenate(parts).tolist() == second.rows(0).tolist()
    for key, stats in second.stats().items():
        mine = {row for row in left if row[0] == key}
        assert stats.unused_items == len(mine - set(rows))


def test_a_third_plan_knows_what_the_two_before_have_used():
    first = build()
    used = rows_of(first, range(6))
    second = build(
        seed=1,
        cost_per_step=192,
        curriculum="shrink_p2",
        continued=first.positions(6),
        wanted=wanted([4, 4, 6], 192),
    )
    used += rows_of(second, range(7))
    third = build(
        seed=2, continued=second.positions(7), wanted=wanted([2, 1, 1], 384), longest_first=0
    )
    used += rows_of(third, range(len(third)))
    assert len(third) == 4
    assert len(used) == len(set(used))


def passes_by_bookkeeping(plan, steps, seen):
    """Add the rows of steps to `seen`, the rows of each bucket's present pass; a pass may restart.

    Returns:
        Whether each step was one of rows that its pass had not seen.
    """
    fresh = []
    for step in steps:
        bucket = plan.buckets[plan.steps[step]]
        batch = set(plan.rows(step).tolist())
        assert len(batch) == plan.items(int(plan.steps[step]))
        if len(seen[bucket.key]) + len(batch) > bucket.num_items:
            seen[bucket.key] = set()
        fresh.append(not batch & seen[bucket.key])
        seen[bucket.key] |= batch
    return fresh


@pytest.mark.parametrize("step", range(0, 61, 5))
def test_with_repeats_all_other_rows_come_before_any_comes_again(step):
    first = build(repeat="reshuffle", wanted=wanted([20, 20, 20], 384))
    second = build(
        seed=first.seed,
        repeat="reshuffle",
        cost_per_step=192,
        continued=first.positions(step),
        wanted=wanted([30, 30, 30], 192),
        curriculum="uniform",
    )
    seen = {bucket.key: set() for bucket in BUCKETS}
    assert all(passes_by_bookkeeping(first, range(step), seen))
    assert all(passes_by_bookkeeping(second, range(len(second)), seen))


def test_repeats_are_announced_when_the_rest_runs_out(caplog):
    positions = build().positions(20)
    build(repeat="reshuffle", continued=positions, wanted=wanted([2, 0, 0], 384))
    assert "bucket 'short' is passed over 1.33 times" in caplog.text


def test_a_bucket_of_a_later_pass_has_no_unused_rows():
    positions = {"long": PassPosition(0, 1, 8)}
    with pytest.raises(ValueError, match="'long' is too small for one batch: have 0 items"):
        build(continued=positions, wanted=wanted([1, 1, 1], 384))
    assert len(build(continued=positions, wanted=wanted([1, 1, 0], 384))) == 2


def test_what_no_step_used_keeps_its_state():
    assert build().positions(0) == {}
    begun = {"long": PassPosition(5, 0, 16)}
    plan = build(continued=begun, wanted=wanted([2, 2, 0], 384))
    assert plan.positions(0) == begun
    assert plan.positions(4) == begun | {
        "short": PassPosition(0, 0, 96),
        "middle": PassPosition(0, 0, 32),
    }
    assert plan.fingerprint != build(wanted=wanted([2, 2, 0], 384)).fingerprint


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ({"tall": PassPosition(0, 0, 1)}, r"unknown buckets \['tall'\]"),
        ({"long": PassPosition(0, 0, 66)}, "66 rows of bucket 'long' are used, but it has 65"),
    ],
)
def test_positions_of_other_data_are_refused(positions, message):
    with pytest.raises(ValueError, match=message):
        build(continued=positions)


def test_impossible_positions_are_refused():
    with pytest.raises(ValueError, match="used must be >= 0, got -1"):
        PassPosition(0, 0, -1)


@pytest.mark.parametrize("ranges", [[(3, 7)], [(0, 1), (18, 20)], [(5, 9), (2, 6), (9, 10)], []])
def test_steps_left_out_change_no_other(ranges):
    whole = build()
    gone = {step for first, end in ranges for step in range(first, end)}
    kept = [step for step in range(len(whole)) if step not in gone]
    plan = whole.without(ranges)
    assert len(plan) == len(kept)
    assert [plan.planned_step(step) for step in range(len(plan))] == kept
    assert [rows_of(plan, [step]) for step in range(len(plan))] == [
        rows_of(whole, [step]) for step in kept
    ]
    assert (plan.fingerprint == whole.fingerprint) == (not ranges)
    assert {step for first, end in plan.skipped for step in range(first, end)} == gone
    assert plan.planned_step(len(plan)) == min(
        (step for step in range(21) if step > kept[-1] and step not in gone), default=20
    )


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(3, 3)], "range 3:3 holds no step"),
        ([(-2, 3)], "range -2:3 holds no step"),
        ([(4, 21)], "range 4:21 reaches beyond the plan's 20 steps"),
        ([(0, 12), (12, 20)], "all 20 steps of the plan are left out"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(ranges, message):
    with pytest.raises(ValueError, match=message):
        build().without(ranges)


def test_ranges_are_put_in_order_and_joined():
    assert ranges_of(skip_mask([(8, 9), (1, 4), (3, 6), (6, 7)], 12)) == ((1, 7), (8, 9))
    assert written([(1, 7), (8, 9)]) == "1:7, 8:9"


@pytest.mark.parametrize(
    ("saved", "current", "message"),
    [
        ([(3, 5)], [(3, 5), (10, 12)], None),
        ([(3, 5), (11, 12)], [(3, 5)], None),
        ([(3, 5), (9, 12)], [(3, 5), (9, 10)], None),
        ([(3, 5)], [(3, 6)], "steps 5:6 are trained already, .* of step 5 or earlier"),
        ([(3, 5)], [(3, 5), (8, 12)], "steps 8:10 are trained already"),
        ([(3, 5)], [(4, 5)], "left out steps 3:4, which cannot be undone"),
    ],
)
def test_only_the_future_may_change(saved, current, message):
    end = 9 if message is None else 10
    if message is None:
        check_same_until(end, saved, current)
    else:
        with pytest.raises(ValueError, match=message):
            check_same_until(end, saved, current)


def one_rank_leaves_out_a_step(rank, world_size):
    plan = build().without([(4, 5)] if rank else [])
    with pytest.raises(ValueError, match=r"different plans: .*skipped \(ranks 0 \| 1\)"):
        assert_lockstep(plan)


def test_ranks_that_leave_out_other_steps_are_told_so():
    run_ranks(one_rank_leaves_out_a_step, 2)
