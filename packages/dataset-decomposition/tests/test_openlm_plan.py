"""The official planner's published integers."""

import pytest

from dataset_decomposition.openlm_plan import openlm_plan

# README of the official code: full shards of the DCLM part, by bucket.
DCLM = dict(zip(range(8, 14), (3560, 5996, 7410, 6309, 5157, 4513), strict=True))
GROW_P2 = dict(zip(range(8, 14), (32.0, 16.0, 8.0, 4.0, 2.0, 1.0), strict=True))


def test_the_official_example_gives_its_published_integers() -> None:
    made = openlm_plan(DCLM, GROW_P2, tokens=28_795_904_000, cycles=8, gpus=8)
    assert list(made.factors.values()) == [46, 78, 97, 82, 67, 60]
    assert made.tokens_per_cycle == 3_607_101_440
    assert made.tokens == 28_856_811_520
    assert list(made.weights.values()) == [1472, 1248, 776, 328, 134, 60]
    assert made.sequences_per_cycle[8] == 46 * 8 * 4096
    assert made.sequences_per_cycle[13] == 60 * 8 * 128
    assert made.warnings == (
        "28,795,904,000 tokens fit no whole number of shards; 28,856,811,520 instead",
    )


def test_the_official_planner_ends_beyond_the_asked_tokens_as_seen_from_the_rounded_shares() -> (
    None
):
    unit, odds = 2**20, {8: 1.0, 9: 1.0}

    def factors(shards: tuple[int, int], tokens: float) -> list[int]:
        counts = dict(zip((8, 9), shards, strict=True))
        made = openlm_plan(counts, odds, tokens=int(tokens * unit), cycles=1, gpus=1)
        return list(made.factors.values())

    assert factors((10, 10), 8) == [4, 4]  # exact
    assert factors((10, 10), 8.5) == [4, 5]  # 8 rounded, the longest moves up to 9
    assert factors((10, 10), 9.5) == [5, 4]  # 10 rounded, the longest moves down to 9
    assert factors((10, 10), 9) == [4, 5]  # halves round to even, then up to the exact 9
    assert factors((2, 16), 18) == [2, 16]


def test_the_official_planner_counts_workers_and_repeats() -> None:
    made = openlm_plan(
        {8: 8, 9: 8}, {8: 2.0, 9: 1.0}, tokens=32 * 2**20, cycles=2, gpus=2, workers=2
    )
    assert list(made.factors.values()) == [2, 2]
    assert made.passes == {8: 2.0, 9: 2.0}
    assert made.weights == {8: 4, 9: 2}
    assert made.warnings == (
        "D_8 is passed over 2.00 times",
        "D_9 is passed over 2.00 times",
    )


@pytest.mark.parametrize(
    ("shards", "changes", "message"),
    [
        ({8: 0, 9: 0}, {}, "no bucket fills one official shard"),
        ({3: 5}, {}, "bucket D_3 hold fewer than"),
        ({8: 6, 9: 6, 10: 6, 11: 6, 12: 1}, {"tokens": 13 * 2**18}, "do not split over the"),
        ({8: 1}, {"tokens": 3 * 2**18}, "786,432 tokens are 0.75 units of 1,048,576"),
        ({8: 1}, {"gpus": 0}, "gpus must be >= 1"),
        ({8: 1}, {"cycles": 0}, "cycles must be >= 1"),
        ({8: 1}, {"tokens": 0}, "tokens must be >= 1"),
    ],
)
def test_what_the_official_planner_cannot_do_is_refused(
    shards: dict[int, int], changes: dict[str, int], message: str
) -> None:
    options = {"tokens": 2**20, "cycles": 1, "gpus": 1, **changes}
    with pytest.raises(ValueError, match=message):
        openlm_plan(shards, dict.fromkeys(shards, 1.0), **options)
