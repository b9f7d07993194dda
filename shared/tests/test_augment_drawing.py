"""Draws against torchvision's own, by their distributions; and the official mixing."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.drawing import (
    draw_crop,
    draw_erase,
    draw_mix,
    draw_ops,
    draw_view,
    resized,
)
from tenfold.augment.magnitudes import OPS, PLAIN, SIGNED
from tenfold.augment.params import Box, Op, ViewParams

DRAWS = 2000
LEVEL = 1e-3  # of the tests; seeds are fixed, so a test passes always or never


def assert_alike(ours: Sequence[float], theirs: Sequence[float]) -> None:
    assert stats.ks_2samp(ours, theirs).pvalue > LEVEL


def torchvision_boxes(
    transform: v2.Transform, image: torch.Tensor, names: str, *, draws: int = DRAWS
) -> list[Box]:
    torch.manual_seed(0)
    drawn = (transform.make_params([image]) for _ in range(draws))
    return [Box(*(int(params[name]) for name in names.split())) for params in drawn]


@pytest.mark.parametrize(
    ("height", "width"),
    [(300, 400), (32, 32), (40, 400), (400, 40), (7, 9)],
    ids=["photo", "tiny", "wide", "tall", "few pixels"],
)
def test_random_resized_crops_are_torchvisions(height: int, width: int):
    config, rng = AugmentConfig(), keyed.generator("rrc", height, width)
    ours = [draw_crop(rng, config, height=height, width=width) for _ in range(DRAWS)]
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    theirs = torchvision_boxes(v2.RandomResizedCrop(224), image, "top left height width")
    for column in range(4):
        assert_alike([box[column] for box in ours], [box[column] for box in theirs])
    assert_alike([b.height * b.width for b in ours], [b.height * b.width for b in theirs])
    assert_alike([b.height / b.width for b in ours], [b.height / b.width for b in theirs])


@pytest.mark.parametrize(("height", "width"), [(10, 500), (500, 10), (1, 1), (3, 1000)])
def test_the_fallback_is_the_central_crop_of_torchvision(height: int, width: int):
    # A whole image of another shape than allowed: no attempt can fit.
    config = AugmentConfig(scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    rng = keyed.generator("fallback", height, width)
    transform = v2.RandomResizedCrop(224, scale=(1.0, 1.0))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    theirs = set(torchvision_boxes(transform, image, "top left height width", draws=30))
    assert {draw_crop(rng, config, height=height, width=width) for _ in range(50)} == theirs


def test_the_fallback_is_the_whole_image_where_its_shape_is_allowed():
    # Attempts fit by chance only, so that most of the draws fall back.
    config = AugmentConfig(scale=(1.0, 1.0), ratio=(0.01, 100.0))
    draws = {draw_crop(keyed.generator(i), config, height=300, width=400) for i in range(50)}
    assert draws == {Box(0, 0, 300, 400)}


@pytest.mark.parametrize(("height", "width", "padding"), [(32, 32, 4), (40, 33, 0), (29, 50, 2)])
def test_random_crops_are_torchvisions(height: int, width: int, padding: int):
    config = AugmentConfig(size=32, crop="random", padding=padding)
    rng = keyed.generator("crop", height, width)
    ours = [draw_crop(rng, config, height=height, width=width) for _ in range(DRAWS)]
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    theirs = torchvision_boxes(
        v2.RandomCrop(32, padding=padding or None), image, "top left height width"
    )
    for column in (0, 1):
        found = Counter(box[column] + padding for box in ours)
        assert set(found) == {box[column] for box in theirs}
        assert stats.chisquare(list(found.values())).pvalue > LEVEL
    assert {box[2:] for box in ours} == {(32, 32)}


@pytest.mark.parametrize("scale", [(0.02, 0.33), (0.3, 1.0)])
def test_erased_regions_are_torchvisions(scale: tuple[float, float]):
    config, rng = AugmentConfig(size=64, erase=1.0, erase_scale=scale), keyed.generator("erase")
    ours = [draw_erase(rng, config) for _ in range(DRAWS)]
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    torch.manual_seed(0)
    transform = v2.RandomErasing(scale=scale)
    drawn = [transform.make_params([image]) for _ in range(DRAWS)]
    theirs = [tuple(params[name] for name in "ijhw") for params in drawn if params["v"] is not None]
    boxes = [box for box in ours if box is not None]
    for column in range(4):
        assert_alike([box[column] for box in boxes], [box[column] for box in theirs])
    missing = len(ours) - len(boxes), len(drawn) - len(theirs)
    assert stats.fisher_exact([[n, DRAWS - n] for n in missing]).pvalue > LEVEL


def test_an_erased_region_that_never_fits_is_none():
    config = AugmentConfig(size=8, erase=1.0, erase_scale=(1.0, 1.0))
    assert {draw_erase(keyed.generator(seed), config) for seed in range(20)} == {None}


def test_operations_are_uniform_with_fair_signs_and_one_magnitude():
    config, rng = AugmentConfig(num_ops=3, magnitude=7, bins=10), keyed.generator("ops")
    drawn = [op for _ in range(DRAWS) for op in draw_ops(rng, config)]
    assert len(drawn) == 3 * DRAWS
    counts = Counter(op.kind for op in drawn)
    assert sorted(counts) == list(range(14))
    assert stats.chisquare(list(counts.values())).pvalue > LEVEL
    for index, name in enumerate(OPS):
        levels = Counter(op.level for op in drawn if op.kind == index)
        if name in SIGNED:
            assert set(levels) == {7, -7}
            assert stats.binomtest(levels[7], counts[index]).pvalue > LEVEL
        else:
            assert set(levels) == {0 if name in PLAIN else 7}


def test_the_parts_of_a_view_are_drawn_with_their_probabilities():
    config = AugmentConfig(flip=0.3, rand_augment=0.6, erase=0.25, size=64)
    rng = keyed.generator("parts")
    views = [draw_view(rng, config, height=50, width=60) for _ in range(DRAWS)]
    flips = sum(view.flip for view in views)
    blocks = sum(view.ops is not None for view in views)
    erased = sum(view.erase is not None for view in views)
    for found, share in ((flips, 0.3), (blocks, 0.6), (erased, 0.25)):
        assert stats.binomtest(found, DRAWS, share).pvalue > LEVEL
    together = sum(view.flip and view.ops is not None for view in views)
    assert stats.binomtest(together, DRAWS, 0.3 * 0.6).pvalue > LEVEL


def test_nothing_is_drawn_where_everything_is_off():
    config = AugmentConfig(crop="none", flip=0.0)
    rng = keyed.generator("off")
    assert draw_view(rng, config, height=5, width=6) == ViewParams()
    assert draw_mix(rng, config) == (None, None)


def test_draws_depend_on_the_key_alone():
    config = AugmentConfig(rand_augment=1.0, erase=1.0)
    views = [draw_view(keyed.generator("v", 0, i), config, height=50, width=60) for i in (3, 4, 3)]
    assert views[0] == views[2] != views[1]


def test_a_known_draw_stays_as_it_is():
    config = AugmentConfig(rand_augment=1.0, erase=1.0, mixup=1.0, cutmix=1.0)
    rng = keyed.generator("view", 0, 1, 2)
    view = draw_view(rng, config, height=375, width=500)
    assert view == KNOWN_VIEW
    assert draw_mix(rng, config) == KNOWN_MIX


KNOWN_VIEW = ViewParams(
    crop=Box(top=4, left=159, height=227, width=227),
    flip=True,
    ops=(Op(kind=1, level=9), Op(kind=10, level=9)),
    erase=Box(top=33, left=131, height=142, width=53),
)
KNOWN_MIX = (0.9665777683258057, Box(top=0, left=0, height=137, width=184))


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_the_owners_weight_is_a_halved_beta_draw_or_its_complement(alpha: float):
    beta = stats.beta(alpha, alpha)
    for owner in ("apple", "most"):
        config = AugmentConfig(mixup=1.0, mixup_alpha=alpha, mixup_owner=owner)
        rng = keyed.generator("mixup", owner)
        weights = np.array([draw_mix(rng, config)[0] for _ in range(DRAWS)])
        assert (weights == weights.astype(np.float32)).all()
        low, high = (0, 0.5) if owner == "apple" else (0.5, 1)
        assert low <= weights.min() <= weights.max() <= high
        halved = weights if owner == "apple" else 1 - weights
        assert stats.kstest(2 * halved, beta.cdf).pvalue > LEVEL


def official_cutmix(rng: np.random.Generator, side: int) -> tuple[int, int, int, int]:
    """Rows and columns as the official `rand_bbox` draws them."""
    cut = int(side * np.sqrt(1.0 - rng.beta(1.0, 1.0)))
    cx, cy = rng.integers(side), rng.integers(side)
    clip = (cx - cut // 2, cy - cut // 2, cx + cut // 2, cy + cut // 2)
    x1, y1, x2, y2 = (int(np.clip(edge, 0, side)) for edge in clip)
    return x1, y1, x2, y2


def test_cutmix_boxes_are_the_official_ones():
    config, rng = AugmentConfig(size=48, cutmix=1.0), keyed.generator("cutmix")
    ours = [draw_mix(rng, config)[1] for _ in range(DRAWS)]
    peer = np.random.Generator(np.random.Philox(key=3))
    theirs = [official_cutmix(peer, 48) for _ in range(DRAWS)]
    boxes = [Box(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in theirs]
    shown = [box for box in boxes if box.height and box.width]
    kept = [box for box in ours if box is not None]
    empty = DRAWS - len(kept), DRAWS - len(shown)
    assert stats.fisher_exact([[n, DRAWS - n] for n in empty]).pvalue > LEVEL
    assert empty[0] > 0
    assert min(min(box.height, box.width) for box in kept) > 0
    for column in range(4):
        assert_alike([box[column] for box in kept], [box[column] for box in shown])


def test_mixup_and_cutmix_are_drawn_independently():
    config, rng = AugmentConfig(mixup=0.5, cutmix=0.5), keyed.generator("both")
    drawn = [draw_mix(rng, config) for _ in range(DRAWS)]
    counts = Counter((mixup is not None, cutmix is not None) for mixup, cutmix in drawn)
    # Some boxes are empty at 224, hence a share slightly below one half.
    assert (
        stats.chi2_contingency(
            [[counts[a, b] for a in (True, False)] for b in (True, False)]
        ).pvalue
        > LEVEL
    )
    assert min(counts.values()) > 0.2 * DRAWS


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 50), (50, 33), (375, 500), (3, 200)])
def test_resizing_is_computed_as_torchvision_does(height: int, width: int):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for shorter in (24, 32, 33, 57, 224):
        assert resized(height, width, shorter) == functional.resize(image, [shorter]).shape[1:]
    assert resized(height, width, None) == (height, width)


def test_a_crop_is_drawn_in_the_resized_image():
    config = AugmentConfig(size=48, resize=64, crop="random")
    boxes = [draw_crop(keyed.generator(i), config, height=10, width=20) for i in range(300)]
    assert max(box.top for box in boxes) == 64 - 48
    assert max(box.left for box in boxes) > 64 - 48
    assert max(box.left for box in boxes) <= 128 - 48


def test_an_image_smaller_than_the_random_crop_is_refused():
    config = AugmentConfig(size=32, crop="random", padding=2)
    with pytest.raises(
        ValueError, match=r"image of 27 x 40 pixels with padding 2 is smaller .* 32"
    ):
        draw_crop(keyed.generator(0), config, height=27, width=40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": 4}, "augment.padding must be 0 unless crop is random, got 4"),
        ({"crop": "none", "resize": 8}, "augment.resize must be null where crop is none"),
        ({"magnitude": 31}, r"augment.magnitude must lie in 0\.\.30, got 31"),
        ({"flip": 1.5}, "augment.flip must be a probability, got 1.5"),
        ({"scale": (0.5, 0.1)}, "augment.scale must be two rising numbers > 0"),
        ({"erase_scale": (0.5, 1.1)}, "augment.erase_scale must not exceed 1"),
        ({"size": 0}, "augment.size must be > 0, got 0"),
        ({"bins": 1}, r"augment.bins must lie in 2\.\.128, got 1"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**options)


def test_drawing_and_the_official_form_need_no_torch():
    modules = "config, params, magnitudes, drawing, positional"
    program = f"import sys; from tenfold.augment import {modules}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr
