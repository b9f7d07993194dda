"""The official list of a view's parameters: lists written by hand, and round trips."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.drawing import draw_mix, draw_view
from tenfold.augment.magnitudes import OPS
from tenfold.augment.params import Box, MixParams, Op, ViewParams
from tenfold.augment.positional import decode, encode, entries

RANDAUG = AugmentConfig(rand_augment=1.0, erase=0.25)
MIXED = replace(RANDAUG, mixup=0.5, cutmix=0.5)
COLOUR, SHIFT = 0.26999998092651367, 30.45317268371582
BRIGHT, RIGHT, EQUAL = (OPS.index(name) for name in ("Brightness", "TranslateX", "Equalize"))

CROP = [30, 0, 200, 224]
OPERATIONS = [(BRIGHT, -COLOUR), (RIGHT, SHIFT)]
VIEW = ViewParams(
    crop=Box(30, 0, 200, 224), flip=True, ops=(Op(BRIGHT, -9), Op(RIGHT, 9)), erase=Box(1, 2, 3, 4)
)
OTHER = ViewParams(crop=Box(5, 6, 70, 80), ops=(Op(EQUAL, 0), Op(0, 0)))


def listed(value: Any) -> Any:
    """Return the value with tuples as lists."""
    return json.loads(json.dumps(value))


# Written as the official `Compose.compress` writes them, tuples and all.
OFFICIAL = {
    "crop and flip": (
        AugmentConfig(),
        [(30, 0, 200, 224), True],
        (ViewParams(crop=Box(*CROP), flip=True), None),
    ),
    "everything": (RANDAUG, [tuple(CROP), True, OPERATIONS, (1, 2, 3, 4)], (VIEW, None)),
    "steps skipped": (
        RANDAUG,
        [tuple(CROP), False, None, None],
        (ViewParams(crop=Box(*CROP)), None),
    ),
    "not mixed": (
        MIXED,
        [None, tuple(CROP), True, OPERATIONS, (1, 2, 3, 4), None, None],
        (VIEW, None),
    ),
    "both mixed": (
        MIXED,
        [
            77,
            [tuple(CROP), (5, 6, 70, 80)],
            [True, False],
            [OPERATIONS, [(EQUAL, 0.0), (0, 0.0)]],
            [(1, 2, 3, 4), None],
            0.25,
            [1 - 40 * 20 / 224**2, 10, 20, 50, 40],
        ],
        (VIEW, MixParams(77, OTHER, mixup=0.25, cutmix=Box(10, 20, 40, 20))),
    ),
    "only mixup": (
        MIXED,
        [3, [CROP, CROP], [True, True], [None, None], [None, None], 0.5, None],
        (
            ViewParams(crop=Box(*CROP), flip=True),
            MixParams(3, ViewParams(crop=Box(*CROP), flip=True), mixup=0.5),
        ),
    ),
    "cifar": (
        AugmentConfig(resize=224, crop="random", padding=16, erase=0.25),
        [224, (0, 32), False, None],
        (ViewParams(crop=Box(-16, 16, 224, 224)), None),
    ),
    "mobileclip": (
        AugmentConfig(flip=0.0, rand_augment=1.0, interpolation="bicubic"),
        [CROP, [[BRIGHT, COLOUR], [0, 0.0]]],
        (ViewParams(crop=Box(*CROP), ops=(Op(BRIGHT, 9), Op(0, 0))), None),
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_lists_are_read_and_written(name: str):
    config, values, params = OFFICIAL[name]
    assert decode(values, config, mixing=config.mixes) == params
    assert encode(*params, config) == listed(values)
    assert len(entries(config)) == len(values)


def test_numpy_numbers_are_read():
    values = [
        np.int64(4),
        [np.array(CROP), np.array(CROP)],
        [np.bool_(True), np.bool_(False)],
        np.float64(0.25),
        [np.float64(0.3), *np.array([1, 2, 3, 4])],
    ]
    config = AugmentConfig(mixup=0.5, cutmix=0.5)
    own, mix = decode(values, config, mixing=True)
    assert own == ViewParams(crop=Box(*CROP), flip=True)
    assert mix == MixParams(4, ViewParams(crop=Box(*CROP)), 0.25, Box(1, 2, 2, 2))
    assert all(type(value) is int for value in (*own.crop, *mix.cutmix, mix.partner))
    assert type(own.flip) is bool


def test_the_weight_of_mixup_becomes_a_float32_value():
    values = [1, [CROP, CROP], [True, True], 0.1]
    mix = decode(values, AugmentConfig(mixup=1.0), mixing=True)[1]
    assert mix is not None
    assert mix.mixup == float(np.float32(0.1)) != 0.1


@pytest.mark.parametrize("region", [(-1, -1, -1, -1), None])
def test_a_region_that_was_not_drawn_is_none(region: tuple[int, ...] | None):
    own, _ = decode([CROP, True, None, region], RANDAUG, mixing=False)
    assert own.erase is None


def test_a_partner_of_which_nothing_shows_is_left_out():
    config = AugmentConfig(cutmix=1.0)
    values = [9, [CROP, CROP], [True, False], [0.999, 50, 60, 50, 70]]
    expected = ViewParams(crop=Box(*CROP), flip=True)
    assert decode(values, config, mixing=True) == (expected, None)


PIPELINES = {
    "rrc": AugmentConfig(),
    "randaug": RANDAUG,
    "skipping": replace(RANDAUG, rand_augment=0.5, erase=0.5),
    "mixing": AugmentConfig(mixup=0.5, cutmix=0.5),
    "randaug_mixing": MIXED,
    "mixup alone": replace(RANDAUG, mixup=0.5, mixup_owner="apple"),
    "cutmix alone": replace(RANDAUG, cutmix=0.5, rand_augment=0.5),
    "cifar": replace(RANDAUG, resize=224, crop="random", padding=16, mixup=0.5),
    "pinned translations": replace(MIXED, size=160, translate_pixels=224),
    "other levels": replace(RANDAUG, size=97, bins=10, magnitude=4, num_ops=3),
    "no crop": AugmentConfig(crop="none", flip=0.0, rand_augment=1.0, mixup=0.5),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_whatever_is_drawn_comes_back(name: str):
    config = PIPELINES[name]
    for key in range(150):
        rng = keyed.generator(name, key)
        own, other = (draw_view(rng, config, height=250, width=300) for _ in range(2))
        weight, box = draw_mix(rng, config)
        mix = None if weight is None and box is None else MixParams(key, other, weight, box)
        values = encode(own, mix, config)
        assert decode(values, config, mixing=config.mixes) == (own, mix)
        assert decode(listed(values), config, mixing=config.mixes) == (own, mix)
        assert len(values) == len(entries(config))


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (RANDAUG, [CROP, True, None], r"are 4 entries \(crop, flip, rand_augment, erase\), got 3"),
        (MIXED, [CROP, True, None, None], r"7 entries \(partner, crop.* got 4 with a partner"),
        (AugmentConfig(), [CROP[:3], True], "crop must be 4 whole numbers, got"),
        (AugmentConfig(), [[0.5, 0, 9, 9], True], r"crop must be 4 whole numbers, got \[0.5"),
        (AugmentConfig(), [7, True], "have not the official form"),
        (RANDAUG, [CROP, True, [[6]], None], "have not the official form|not enough values"),
        (RANDAUG, [CROP, True, [[6, 0.31]], None], "magnitude 0.31 of Brightness is no level"),
        (RANDAUG, [CROP, True, [[14, 0.0]], None], r"must lie in 0\.\.13, got 14"),
        (RANDAUG, [CROP, True, None, (1, 2, 3)], "erase must be 4 whole numbers"),
        (
            AugmentConfig(mixup=0.5),
            [3, CROP, [True, True], 0.5],
            r"crop of a mixed view must be a pair, got \[30, 0, 200, 224\]",
        ),
        (
            AugmentConfig(resize=224, crop="random"),
            [256, (0, 0), True],
            "resize of the parameters is 256, augment.resize is 224",
        ),
    ],
)
def test_a_list_of_another_form_is_refused(config: AugmentConfig, values: list[Any], message: str):
    with pytest.raises(ValueError, match=message):
        decode(values, config, mixing=config.mixes)


def test_a_list_is_not_read_with_a_partner_that_it_has_not():
    with pytest.raises(ValueError, match="got 2 with a partner"):
        decode([CROP, True], AugmentConfig(), mixing=True)


def test_a_mixed_view_needs_a_pipeline_that_mixes():
    with pytest.raises(ValueError, match=r"augment.mixup and augment.cutmix are 0"):
        encode(VIEW, MixParams(1, OTHER, mixup=0.5), RANDAUG)


def test_translations_of_another_size_are_refused_unless_pinned():
    values = [CROP, True, [[RIGHT, SHIFT]], None]
    small = replace(RANDAUG, size=160)
    with pytest.raises(ValueError, match="no level of the table with bins 31 at size 160"):
        decode(values, small, mixing=False)
    own, _ = decode(values, replace(small, translate_pixels=224), mixing=False)
    assert own.ops == (Op(RIGHT, 9),)
