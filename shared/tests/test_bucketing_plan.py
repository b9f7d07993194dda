"""Plans: what they promise over many random settings, and how they refuse what cannot be."""

import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from tenfold.bucketing import Bucket, BucketPlan, Curriculum

BUCKETS = [Bucket("D5", 32, 200), Bucket("D6", 64, 100), Bucket("D7", 128, 40)]
PRESETS = ["uniform", "natural", "grow_linear", "grow_p2", "grow_p100", "shrink_p100", "sequential"]


def build(buckets=BUCKETS, **changes):
    settings = {"cost_per_step": 1024, "curriculum": Curriculum.grow_p2(cycles=2), "seed": 0}
    return BucketPlan.build(buckets, **(settings | changes))


def weights_of(curriculum, buckets, quotas):
    weights = curriculum.weights(buckets, quotas)
    assert not isinstance(weights, str)
    return weights.tolist()


def random_plan(seed):
    """Draw costs that are no powers of two, sizes, unequal wishes, a curriculum and repeats."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    costs = rng.choice([3, 4, 6, 10, 12, 15, 20], size=rng.integers(1, 5), replace=False)
    buckets = [
        Bucket(f"b{cost}", cost, int(rng.integers(480 // cost, 3000 // cost))) for cost in costs
    ]
    wanted = {b.key: int(rng.integers(480, 6000)) for b in buckets if rng.random() < 0.5}
    return BucketPlan.build(
        buckets,
        cost_per_step=480,
        divisor=8,
        curriculum=Curriculum.named(str(rng.choice(PRESETS)), cycles=int(rng.integers(1, 4))),
        seed=seed,
        wanted=wanted,
        longest_first=int(rng.integers(0, 2)),
        repeat="reshuffle",
    )


@pytest.mark.parametrize("seed", range(60))
def test_rows_are_used_at_most_once_per_pass_and_ranks_share_each_batch(seed):
    plan = random_plan(seed)
    used: Counter[tuple[int, int, int]] = Counter()
    for step in range(len(plan)):
        bucket = int(plan.steps[step])
        batch = plan.rows(step)
        assert batch.size * plan.buckets[bucket].item_cost == plan.cost_per_step
        assert 0 <= batch.min() <= batch.max() < plan.buckets[bucket].num_items
        for world_size in (2, 4, 8):
            parts = [plan.rows(step, rank, world_size) for rank in range(world_size)]
            assert np.array_equal(np.concatenate(parts), batch)
        number = int(plan.ordinal[step]) // (plan.buckets[bucket].num_items // batch.size)
        used.update((bucket, number, row) for row in batch.tolist())
    assert set(used.values()) == {1}


def test_a_whole_pass_uses_every_row_exactly_once_and_passes_differ():
    buckets = [Bucket("a", 32, 192), Bucket("b", 48, 64)]
    wanted = {"a": 2 * 192 * 32, "b": 64 * 48}
    plan = build(buckets, cost_per_step=96 * 8, wanted=wanted, repeat="reshuffle", longest_first=0)
    rows: dict[int, list[int]] = {0: [], 1: []}
    for step in range(len(plan)):
        rows[int(plan.steps[step])] += plan.rows(step).tolist()
    assert sorted(rows[1]) == list(range(64))
    first, second = np.split(np.array(rows[0]), 2)
    assert sorted(first) == sorted(second) == list(range(192))
    assert not np.array_equal(first, second)


def test_equal_arguments_give_equal_plans_and_every_field_changes_the_fingerprint():
    base = build()
    from_numpy = Bucket("D5", *np.array([32, 200]))
    again = build([from_numpy, *BUCKETS[1:]], seed=np.int64(0))
    assert again.fingerprint == base.fingerprint
    assert np.array_equal(again.steps, base.steps)
    assert build(divisor=8).fingerprint == base.fingerprint
    assert build(wanted={"D5": 200 * 32}).fingerprint == base.fingerprint
    others = [
        build(seed=1),
        build(cost_per_step=512),
        build(curriculum=Curriculum.grow_p2(cycles=3)),
        build(curriculum=Curriculum.grow_linear(cycles=2)),
        build(curriculum=Curriculum.grow_p2(cycles=2, mode="times_size")),
        build(wanted={"D5": 1024}),
        build(longest_first=2),
        build([Bucket("D5", 32, 201), *BUCKETS[1:]]),
        build([Bucket("E5", 32, 200), *BUCKETS[1:]]),
        build(BUCKETS[::-1]),
    ]
    assert len({plan.fingerprint for plan in [base, *others]}) == len(others) + 1


def test_shape_and_dtype_of_the_public_arrays():
    plan = build()
    assert plan.steps.dtype == np.uint16
    assert plan.ordinal.dtype == np.int32
    assert len(plan) == plan.steps.size == plan.ordinal.size == 6 + 6 + 5
    assert [plan.items(bucket) for bucket in range(3)] == [32, 16, 8]
    with pytest.raises(ValueError, match="read-only"):
        plan.steps[0] = 1
    assert pickle.loads(pickle.dumps(plan)).fingerprint == plan.fingerprint  # noqa: S301


def test_the_first_steps_are_the_costliest_and_zero_switches_it_off():
    drawn = build(longest_first=0)
    assert drawn.steps[0] != 2
    lead = build(longest_first=3)
    assert lead.steps[:3].tolist() == [2, 2, 2]
    assert np.bincount(lead.steps).tolist() == np.bincount(drawn.steps).tolist()
    assert build(wanted={"D7": 0}).steps[0] == 1


def test_stats_and_expected_cost():
    plan = build(wanted={"D5": 2048, "D6": 13 * 1024, "D7": 0}, repeat="reshuffle")
    stats = plan.stats()
    assert (stats["D5"].steps, stats["D5"].unused_items, stats["D5"].cost) == (2, 136, 2048)
    assert (stats["D6"].steps, stats["D6"].unused_items) == (13, 4)
    assert stats["D6"].passes == pytest.approx(13 / 6)
    assert (stats["D7"].steps, stats["D7"].unused_items, stats["D7"].passes) == (0, 40, 0.0)
    assert sum(one.share for one in stats.values()) == pytest.approx(1.0)
    naive = np.mean([222.2 + 0.01 * plan.buckets[b].item_cost for b in plan.steps])
    assert plan.expected_cost(lambda cost: 222.2 + 0.01 * cost) == pytest.approx(naive)


def test_empty_buckets_and_a_single_bucket():
    plan = build([*BUCKETS, Bucket("D13", 8192, 0)], curriculum=Curriculum.grow_p2(cycles=2))
    assert 3 not in plan.steps
    assert plan.stats()["D13"].unused_items == 0
    alone = build(BUCKETS[:1])
    assert alone.steps.tolist() == [0] * 6


def test_a_repeat_is_logged_with_its_factor(caplog):
    build(wanted={"D7": 10 * 1024}, repeat="reshuffle")
    assert "bucket 'D7' is passed over 2.00 times" in caplog.text
    caplog.clear()
    build()
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"wanted": {"D7": 10_240}},
            r"'D7' has cost 5120, need wanted=10240.*2\.00 passes.*repeat",
        ),
        ({"wanted": {"D9": 1}}, r"unknown buckets \['D9'\].*'D5', 'D6', 'D7'"),
        ({"wanted": {"D5": 1000}}, r"wanted\['D5'\]=1000 is less than one batch.*1024"),
        ({"wanted": {"D5": -1}}, r"wanted\['D5'\] must be >= 0, got -1"),
        ({"wanted": {"D5": 2048.5}}, r"wanted\['D5'\] must be a whole number, got 2048.5"),
        ({"wanted": {"D5": 0, "D6": 0, "D7": 0}}, "no bucket gives a step"),
        (
            {"cost_per_step": 1000},
            r"cost_per_step=1000 .*divisor \* item_cost = 1 \* 32 \(bucket 'D5'\).* 896 or 1024",
        ),
        ({"divisor": 3}, r"3 \* 32 \(bucket 'D5'\).*nearest values.*768 or 1152"),
        ({"cost_per_step": 96}, r"1 \* 64 \(bucket 'D6'\).*nearest values.*: 128$"),
        (
            {"cost_per_step": 8192},
            r"'D5' .* have 200 items, need 256 \(cost_per_step=8192 / item_cost=32\).*{'D5': 0}",
        ),
        ({"cost_per_step": 0}, "cost_per_step must be >= 1, got 0"),
        ({"divisor": 0}, "divisor must be >= 1, got 0"),
        ({"longest_first": 6}, "longest_first=6, but only 5 steps"),
        ({"longest_first": -1}, "longest_first must be >= 0"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"repeat": "yes"}, "repeat must be one of .*got 'yes'"),
        ({"curriculum": Curriculum({"D5": 1.0, "D6": 1.0})}, r"differ in \['D7'\]"),
        ({"curriculum": Curriculum({"D5": 0, "D6": 1, "D7": 1})}, "'D5' must be positive.*got 0.0"),
        ({"curriculum": Curriculum(lambda buckets: [1.0])}, "returned 1 odds for 3 buckets"),
        (
            {"curriculum": Curriculum.grow_p(1e200)},
            "'D5' must be positive and finite, got inf.*seq",
        ),
    ],
)
def test_impossible_plans_are_refused_with_the_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([], "1 to 65536 buckets, got 0"),
        ([BUCKETS[0], BUCKETS[0]], r"keys must be unique, got \['D5', 'D5'\]"),
        ([Bucket("empty", 32, 0)], "no bucket gives a step"),
    ],
)
def test_impossible_buckets_are_refused(buckets, message):
    with pytest.raises(ValueError, match=message):
        build(buckets)


def test_an_empty_bucket_cannot_be_repeated():
    buckets = [*BUCKETS, Bucket("D8", 256, 0)]
    with pytest.raises(ValueError, match="'D8' is too small for one batch: have 0 items, need 4"):
        build(buckets, wanted={"D8": 1024}, repeat="reshuffle")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bucket("", 1, 1), "must not be empty"),
        (lambda: Bucket("a", 0, 1), "item_cost of bucket 'a' must be >= 1, got 0"),
        (lambda: Bucket("a", 1, -1), "num_items of bucket 'a' must be >= 0, got -1"),
        (lambda: Bucket("a", *[1.5, 1]), "item_cost of bucket 'a' must be a whole number, got 1.5"),
        (lambda: Curriculum.uniform(cycles=0), "cycles must be >= 1, got 0"),
        (lambda: Curriculum({}, mode="size"), "mode must be one of .*got 'size'"),  # pyright: ignore
        (lambda: Curriculum("grow_p2"), r"got 'grow_p2'; Curriculum.named\(\)"),  # pyright: ignore
        (lambda: Curriculum.grow_p(1), "base must be finite and > 1, got 1"),
        (lambda: Curriculum.named("pacman"), "'pacman' is unknown; use one of uniform, natural"),
        (lambda: Curriculum.named("grow_p"), "'grow_p' is unknown"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_presets_have_the_odds_of_the_paper():
    lengths = [Bucket(f"D{k}", 2**k, 1) for k in range(8, 14)]
    ones = np.ones(6, dtype=np.int64)

    def odds(curriculum):
        return weights_of(curriculum, lengths, ones)

    assert odds(Curriculum.uniform()) == [1] * 6
    assert odds(Curriculum.grow_linear()) == [6, 5, 4, 3, 2, 1]
    assert odds(Curriculum.grow_p2()) == [32, 16, 8, 4, 2, 1]
    assert odds(Curriculum.grow_p(100)) == [100.0**k for k in (5, 4, 3, 2, 1, 0)]
    assert odds(Curriculum.shrink_p(100)) == [100.0**k for k in range(6)]
    assert Curriculum.sequential().weights(lengths, ones) == "sequential"
    assert Curriculum.natural().weights(lengths, ones) == "natural"
    for name in PRESETS:
        named = Curriculum.named(name, cycles=3)
        assert named.cycles == 3
    assert odds(Curriculum.named("grow_p2.5")) == [2.5**k for k in (5, 4, 3, 2, 1, 0)]
    custom = {bucket.key: 1.0 + rank for rank, bucket in enumerate(lengths)}
    assert odds(Curriculum(custom)) == list(custom.values())
    assert odds(Curriculum(lambda given: [b.item_cost for b in given])) == [
        2**k for k in range(8, 14)
    ]


def test_times_size_gives_the_weights_of_the_official_code():
    lengths = [Bucket(f"D{k}", 2**k, 1) for k in range(8, 14)]
    factors = np.array([46, 78, 97, 82, 67, 60])
    official = Curriculum.grow_p2(mode="times_size")
    assert weights_of(official, lengths, factors) == [1472, 1248, 776, 328, 134, 60]
    equal = np.full(6, 2)
    paper = weights_of(Curriculum.grow_p2(), lengths, equal)
    assert weights_of(official, lengths, equal) == [2 * odds for odds in paper]


def test_buckets_of_equal_cost_share_their_odds():
    sources = [Bucket("web/8", 256, 1), Bucket("code/8", 256, 1), Bucket("web/9", 512, 1)]
    assert weights_of(Curriculum.grow_p2(), sources, np.full(3, 1)) == [2, 2, 1]


def test_natural_lets_a_rare_bucket_come_at_any_time():
    """Odds by the initial size would leave the one rare step for last in 36 % of the plans."""
    buckets = [Bucket("rare", 32, 32), Bucket("common", 64, 99 * 16)]
    places = np.array(
        [
            build(buckets, curriculum=Curriculum.natural(), longest_first=0, seed=seed)
            .steps.tolist()
            .index(0)
            for seed in range(2000)
        ]
    )
    assert np.mean(places) == pytest.approx(49.5, abs=4 * 100 / np.sqrt(12 * places.size))
    assert np.mean(places == 99) == pytest.approx(0.01, abs=4 * np.sqrt(0.0099 / places.size))


@pytest.mark.parametrize("name", ["natural", "sequential"])
def test_orders_without_odds_are_described_by_name(name):
    described = build(curriculum=Curriculum.named(name, cycles=2)).describe()
    assert (described["odds"], described["odds_mode"], described["cycles"]) == (
        name,
        "per_batch",
        2,
    )


def test_rows_of_bad_steps_and_ranks_are_refused():
    plan = build()
    with pytest.raises(IndexError, match="step 17 is outside the plan's 17 steps"):
        plan.rows(17)
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        plan.rows(0, 2, 2)
    with pytest.raises(ValueError, match=r"16 \* 128 .bucket 'D7'.*nearest values.*2048"):
        plan.rows(0, 0, 16)


def test_planning_imports_no_torch():
    code = (
        "import sys; from tenfold.bucketing import Bucket, BucketPlan, Curriculum, BadRecordError; "
        "BucketPlan.build([Bucket('a', 2, 9)], cost_per_step=4, curriculum=Curriculum.uniform(), "
        "seed=0).rows(0); assert 'torch' not in sys.modules; "
        "from tenfold.bucketing import BucketStream; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors():
    import tenfold.bucketing

    with pytest.raises(AttributeError, match="no attribute 'BucketLoader'"):
        _ = tenfold.bucketing.BucketLoader
