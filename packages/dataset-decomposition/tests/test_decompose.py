import math

import numpy as np
import pytest

from dataset_decomposition.concat import Chunker
from dataset_decomposition.decompose import CutRule, cut, decompose, overflow_odds
from dataset_decomposition.randomness import integers_below, permutation, stream, stream_key

LENGTHS = [*range(36), 63, 64, 65, 127, 128, 129, 130, 255, 256, 257, 258, 600]
RULES = [
    CutRule(min_bucket=lo, max_bucket=hi, mode=mode, overflow=overflow, tail=tail)
    for lo, hi in ((0, 3), (2, 5), (4, 4), (3, 13))
    for mode in ("disjoint", "overlap1")
    for overflow in ("greedy", "random")
    for tail in ("drop", "keep-small")
]


def document(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.uint16)


def naive_cut(length: int, rule: CutRule) -> list[tuple[int, int]]:
    """Follow the paper's sentence with floats and lists: longest power of two first."""
    left, found, position = list(range(length)), [], 0
    lowest = 0 if rule.tail == "keep-small" else rule.min_bucket
    while len(left) >= 2**lowest + 1:
        bucket = min(rule.max_bucket, math.floor(math.log2(len(left) - 1)))
        found.append((position, bucket))
        step = 2**bucket + (rule.mode == "disjoint")
        left, position = left[step:], position + step
    return found


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_pieces_concatenate_back_to_the_document(rule: CutRule):
    key = stream_key(7, "test")
    for length in LENGTHS:
        tokens = document(length)
        cuts = cut(length, rule, stream(key, length))
        found = decompose(tokens, rule, stream(key, length))
        assert all(len(piece.tokens) == 2**piece.bucket + 1 for piece in found)
        assert all(rule.lowest_bucket <= piece.bucket <= rule.max_bucket for piece in found)
        shared = 0 if rule.mode == "disjoint" else 1
        glued = [piece.tokens[shared if i else 0 :] for i, piece in enumerate(found)]
        again = np.concatenate([*glued, tokens[cuts.covered :]])
        np.testing.assert_array_equal(again, tokens)
        tail = length - cuts.covered
        # What is left holds fewer tokens than the shortest row still needs.
        assert tail < 2**rule.lowest_bucket + 1 - (shared if found else 0)


@pytest.mark.parametrize("rule", [r for r in RULES if r.overflow == "greedy"], ids=str)
def test_greedy_cuts_equal_the_naive_loop(rule: CutRule):
    for length in LENGTHS:
        cuts = cut(length, rule)
        assert list(zip(cuts.starts, cuts.buckets, strict=True)) == naive_cut(length, rule)


@pytest.mark.parametrize("hi", [0, 3, 6, 13])
def test_number_of_pieces_is_the_published_formula(hi: int):
    rule = CutRule(min_bucket=0, max_bucket=hi, mode="overlap1")
    for length in range(1, 1500):
        r = length - 1
        expected = r // 2**hi + (r % 2**hi).bit_count()
        assert len(cut(length, rule).buckets) == expected


def test_covered_tokens_are_distinct_stored_tokens_and_targets_are_counted():
    for rule in RULES:
        for length in LENGTHS:
            cuts = cut(length, rule, stream(stream_key(0, "x"), length))
            stored = set()
            targets = []
            for start, bucket in zip(cuts.starts, cuts.buckets, strict=True):
                stored.update(range(start, start + 2**bucket + 1))
                targets.extend(range(start + 1, start + 2**bucket + 1))
            assert stored == set(range(cuts.covered))
            assert len(set(targets)) == len(targets)
            if rule.mode == "overlap1" and cuts.starts:
                assert targets == list(range(1, cuts.covered))
            if rule.mode == "disjoint":
                assert cuts.covered == sum(2**k + 1 for k in cuts.buckets)


def test_long_lengths_are_exact_where_float_logarithms_are_not():
    rule = CutRule(min_bucket=0, max_bucket=24, mode="overlap1")
    for exponent in (20, 23, 24):
        for offset in (-1, 0, 1):
            r = 2**exponent + offset
            buckets = cut(r + 1, rule).buckets
            assert sum(2**k for k in buckets) == r
            assert buckets == sorted(buckets, reverse=True)


def test_overflow_odds_are_the_published_ones():
    odds = overflow_odds(CutRule(overflow="random"))
    assert list(odds) == [8, 9, 10, 11, 12, 13]
    published = [0.5079, 0.2540, 0.1270, 0.0635, 0.0317, 0.0159]
    np.testing.assert_allclose(list(odds.values()), published, atol=5e-5)
    # Equal expected tokens for every bucket is what these odds are for.
    expected_tokens = [p * 2**k for k, p in odds.items()]
    np.testing.assert_allclose(expected_tokens, expected_tokens[0])


def test_random_overflow_draws_follow_the_odds():
    rule = CutRule(min_bucket=2, max_bucket=5, overflow="random", mode="overlap1")
    key = stream_key(3, "odds")
    first = [cut(2**6 + 1, rule, stream(key, i)).buckets[0] for i in range(6000)]
    odds = overflow_odds(rule)
    expected = np.array([odds[k] * len(first) for k in sorted(odds)])
    observed = np.bincount(first, minlength=6)[2:]
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < 16.27  # 99.9 % quantile of three degrees of freedom


def test_random_overflow_never_touches_a_remainder_that_fits():
    rule = CutRule(min_bucket=2, max_bucket=5, overflow="random")
    greedy = CutRule(min_bucket=2, max_bucket=5)
    for length in range(2**6):
        assert cut(length, rule) == cut(length, greedy)
    with pytest.raises(ValueError, match="random stream"):
        cut(2**6 + 1, rule)


def test_pieces_are_views():
    tokens = document(100)
    assert all(np.shares_memory(p.tokens, tokens) for p in decompose(tokens, CutRule(min_bucket=2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_bucket": 9, "max_bucket": 8}, "min_bucket <= max_bucket"),
        ({"min_bucket": -1}, "min_bucket -1"),
        ({"max_bucket": 8192}, "exponents of two"),
        ({"mode": "overlap2"}, "mode must be one of disjoint, overlap1"),
        ({"overflow": "best"}, "overflow must be one of"),
        ({"tail": "crop"}, "tail must be one of drop, keep-small, pack"),
    ],
)
def test_impossible_rules_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CutRule(**options)


@pytest.mark.parametrize("mode", ["disjoint", "overlap1"])
@pytest.mark.parametrize("length", [1, 4, 16])
def test_chunker_equals_slicing_the_glued_documents(mode: str, length: int):
    rng = np.random.default_rng(5)
    sizes = [1, 3, 40, 16, 17, 2, 100, 1]
    documents = [rng.integers(0, 1000, size).astype(np.uint16) for size in sizes]
    chunker = Chunker(length, mode=mode)
    rows = np.concatenate([chunker.push(tokens) for tokens in documents])
    glued = np.concatenate(documents)
    step = length + (mode == "disjoint")
    starts = range(0, len(glued) - length, step)
    expected = np.stack([glued[s : s + length + 1] for s in starts])
    np.testing.assert_array_equal(rows, expected)
    assert chunker.covered == starts[-1] + length + 1
    assert len(glued) - chunker.covered < length + (mode == "disjoint")


def test_chunker_that_never_fills_a_row_covers_nothing():
    chunker = Chunker(8)
    assert chunker.push(document(8)).shape == (0, 9)
    assert chunker.covered == 0
    with pytest.raises(ValueError, match="at least 1 token"):
        Chunker(0)


def test_streams_are_keyed_and_stable():
    assert stream_key(0, "a", 1).tolist() != stream_key(0, "a", 2).tolist()
    assert stream_key(0, "a", "b").tolist() != stream_key(0, "ab").tolist()
    # Prepared data hang on these bits: they must never change.
    assert stream_key(0, "shuffle", 8, 0).tolist() == [
        1687011676145896389,
        17526372982378465168,
    ]
    assert permutation(stream_key(0, "shuffle", 8, 0), 8).tolist() == [6, 0, 4, 7, 1, 3, 5, 2]
    drawn = integers_below(stream(stream_key(1, "p")), 7, 5000)
    assert drawn.min() == 0
    assert drawn.max() == 6
    assert abs(drawn.mean() - 3) < 0.15
