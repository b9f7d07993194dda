"""Packing and unpacking: what is read is what was written, in few bytes; joins agree with it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_stores import AUGMENTS, assert_same, reinforcement, rows

from dataset_reinforcement.store.columns import Reinforcement, ShardColumns, pack, unpack
from dataset_reinforcement.store.joining import join_rows, join_views, take_rows
from tenfold.augment.config import AugmentConfig
from tenfold.augment.params import Box, MixParams, Op, ViewParams


def all_views(columns: dict[str, Any]) -> list[list[Reinforcement]]:
    found = ShardColumns.of(columns)
    images, views, _ = found.shape
    return [[unpack(found, row, view) for view in range(views)] for row in range(images)]


@pytest.mark.parametrize("name", AUGMENTS)
def test_unpacks_what_was_packed(name: str) -> None:
    written = rows(AUGMENTS[name], 0, 6, range(20))
    columns = pack(written, prob_dtype="float32")
    for wrote, read in zip(written, all_views(columns), strict=True):
        for one, other in zip(wrote, read, strict=True):
            assert_same(one, other)


def test_the_drawn_views_use_every_column() -> None:
    """Guard of the test above: what it compares is not all None."""
    columns = pack(rows(AUGMENTS["randaug_mixing"], 0, 6, range(20)))
    assert set(columns) >= {"crop", "ops", "magnitude", "erase.box", "mix.erase", "mix.ops"}
    assert "levels" not in columns
    assert len(columns["erase.box"]) > 10
    assert {int(flags) & 48 for flags in columns["mix.flags"]} == {16, 32, 48}


@pytest.mark.parametrize(("name", "absent"), [("center", "crop"), ("rrc", "ops"), ("rrc", "mix")])
def test_steps_without_randomness_store_nothing(name: str, absent: str) -> None:
    columns = pack(rows(AUGMENTS[name], 0, 3, range(5)))
    assert not [column for column in columns if column.startswith(absent)]


def test_half_precision_rounds_and_keeps_the_order() -> None:
    written = rows(AUGMENTS["rrc"], 0, 4, range(10))
    for wrote, read in zip(written, all_views(pack(written)), strict=True):
        for one, other in zip(wrote, read, strict=True):
            expected = one.probabilities.astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(other.probabilities, expected)
            assert (np.diff(other.probabilities) <= 0).all()
            assert other.probabilities.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "budget"), [("rrc", 51.1), ("randaug", 60), ("mixing", 83), ("randaug_mixing", 95)]
)
def test_bytes_a_sample(name: str, budget: float) -> None:
    """Below the published 65, 73, 90 and 104 compressed ones, with ten classes (section 3)."""
    written = rows(AUGMENTS[name], 0, 8, range(100), top_k=10)
    columns = pack(written)
    assert sum(array.nbytes for array in columns.values()) / 800 < budget


def test_levels_that_differ_get_a_column() -> None:
    drawn = reinforcement(AUGMENTS["rrc"], 0, 0)
    levels = [(Op(3, -9), Op(0, 0)), (Op(3, 4), Op(11, 30)), None]
    written = [[replace(drawn, own=ViewParams(ops=ops)) for ops in levels]]
    columns = pack(written)
    assert "magnitude" not in columns
    assert [view.own.ops for view in all_views(columns)[0]] == levels


def test_a_skipped_image_keeps_its_row() -> None:
    written = rows(AUGMENTS["randaug_mixing"], 0, 5, range(6))
    written[0] = written[3] = []
    columns = pack(written, prob_dtype="float32")
    assert columns["classes"].shape == (5, 6, 3)
    assert not columns["flags"][3].any()
    read = all_views(columns)
    for row in (1, 2, 4):
        for one, other in zip(written[row], read[row], strict=True):
            assert_same(one, other)


def test_a_shard_of_skipped_images_needs_a_shape() -> None:
    with pytest.raises(ValueError, match="give `shape`"):
        pack([[], []])
    assert pack([[], []], shape=(7, 3))["probabilities"].shape == (2, 7, 3)


def _labels(**changes: Any) -> Callable[[Reinforcement], Reinforcement]:
    return lambda drawn: replace(drawn, **changes)


def _own(**changes: Any) -> Callable[[Reinforcement], Reinforcement]:
    return lambda drawn: replace(drawn, own=replace(drawn.own, **changes))


HALF = MixParams(1, ViewParams(crop=Box(0, 0, 4, 4)), mixup=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_labels(probabilities=np.array([0.2, np.nan, 0.1], np.float32)), "not finite"),
        (_labels(entropy=float("inf")), "not finite"),
        (_labels(probabilities=np.array([0.2, 0.3, 0.1], np.float32)), "must fall"),
        (_labels(probabilities=np.array([1.2, 0.3, 0.1], np.float32)), r"expected 0\.\.1"),
        (_labels(probabilities=np.array([0.3, 0.2, -0.1], np.float32)), r"expected 0\.\.1"),
        (_labels(classes=np.array([1, 2, 70000])), r"1\.\.70000, expected 0\.\.65535"),
        (_labels(classes=np.array([1, 2], np.uint16)), r"expected \(3,\) for both"),
        (_own(crop=Box(0, 0, 40000, 5)), "crop box Box.*40000.* exceeds 32767"),
        (_own(crop=None), "4 of 5 views have a crop"),
        (_own(ops=(Op(1, 9),)), r"\[1, 2\] operations"),
        (_own(ops=(Op(16, 0), Op(0, 0))), "operation 16 is unknown"),
        (_own(ops=(Op(1, 9), Op(1, 200))), "expected -128..127"),
        (_labels(mix=replace(HALF, partner=-1)), r"partners lie in -1"),
        (_labels(mix=replace(HALF, mixup=0.1)), "no float32 value"),
    ],
)
def test_bad_values_are_refused(
    change: Callable[[Reinforcement], Reinforcement], message: str
) -> None:
    written = rows(AUGMENTS["randaug"], 0, 1, range(5))
    written[0][2] = change(written[0][2])
    with pytest.raises(ValueError, match=message):
        pack(written)


def test_rows_of_other_lengths_are_refused() -> None:
    written = rows(AUGMENTS["rrc"], 0, 3, range(5))
    written[1].pop()
    with pytest.raises(ValueError, match="row 1 has 4 views, expected 5"):
        pack(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": np.zeros(1, np.uint8)}, "'colour' is unknown"),
        ({"flags": None}, "'flags' is missing"),
        ({"mix.partner": None}, "'mix.partner' is missing"),
        ({"classes": np.zeros((2, 5, 3), np.int64)}, r"'classes' is int64 .* expected uint16"),
        ({"entropy": np.zeros((2, 4), np.float16)}, r"'entropy' is float16 \[2, 4\]"),
        ({"flags": np.zeros((2, 5, 1), np.uint8)}, r"'flags' is uint8 \[2, 5, 1\]"),
        ({"mix.start": np.array([0, 1, 99], np.uint32)}, "'mix.start' does not rise"),
    ],
)
def test_columns_of_another_layout_are_refused(change: dict[str, Any], message: str) -> None:
    columns = pack(rows(AUGMENTS["mixing"], 0, 2, range(5))) | change
    with pytest.raises(ValueError, match=message):
        ShardColumns.of({name: array for name, array in columns.items() if array is not None})


@pytest.mark.parametrize("name", AUGMENTS)
def test_joins_equal_packing_everything_at_once(name: str) -> None:
    config = AUGMENTS[name]
    whole = pack(rows(config, 0, 7, range(9)))
    cuts = [(0, 3), (3, 4), (4, 7)]
    by_rows = join_rows([pack(rows(config, a, b, range(9))) for a, b in cuts])
    by_views = join_views([pack(rows(config, 0, 7, range(a, b))) for a, b in [(0, 4), (4, 9)]])
    taken = join_rows([take_rows(whole, a, b) for a, b in cuts])
    for joined in (by_rows, by_views, taken):
        assert set(joined) == set(whole)
        for column, array in whole.items():
            assert joined[column].dtype == array.dtype
            np.testing.assert_array_equal(joined[column], array, err_msg=column)


def test_joins_fit_pieces_with_other_columns_together() -> None:
    """Other magnitudes, a piece without erasing or mixing, one of skipped images only."""
    config = AUGMENTS["randaug_mixing"]
    pieces = [
        rows(config, 0, 3, range(8)),
        rows(replace(config, magnitude=3), 0, 3, range(8), seed=1),
        rows(replace(config, mixup=0.0, cutmix=0.0, erase=0.0), 0, 3, range(8), seed=2),
    ]
    packed = [pack(piece, prob_dtype="float32") for piece in pieces]
    packed.append(pack([[], [], []], prob_dtype="float32", shape=(8, 3)))
    by_views, by_rows = all_views(join_views(packed)), all_views(join_rows(packed))
    for number, piece in enumerate(pieces):
        for row, views in enumerate(piece):
            for view, wrote in enumerate(views):
                assert_same(wrote, by_views[row][8 * number + view])
                assert_same(wrote, by_rows[3 * number + row][view])


def test_an_untouched_pipeline_needs_labels_and_flags_only() -> None:
    config = AugmentConfig(size=16, crop="none", flip=0.0)
    columns = pack(rows(config, 0, 2, range(3)))
    assert set(columns) == {"classes", "probabilities", "entropy", "flags"}
    assert not columns["flags"].any()
