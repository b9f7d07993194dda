"""The named augmentations against the official configurations, step by step."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dataset_reinforcement.variants import VARIANTS, variant
from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.mixing import draw_mix
from tenfold.augment.pipeline import Augment
from tenfold.augment.positional import entries

# Names of the official `image_augmentation` keys that have parameters, in the order of the code.
OFFICIAL = {
    "rrc": ("crop", "flip"),
    "randaug": ("crop", "flip", "rand_augment", "erase"),
    "mixing": ("partner", "crop", "flip", "mixup", "cutmix"),
    "randaug_mixing": (
        *("partner", "crop", "flip", "rand_augment", "erase"),
        *("mixup", "cutmix"),
    ),
    "cifar100": ("resize", "crop", "flip", "rand_augment", "erase"),
    "food101": ("crop", "flip", "rand_augment", "erase"),
    "flowers102": ("crop", "flip", "rand_augment", "erase"),
}


def test_variants_have_the_official_steps():
    assert {name: entries(config) for name, config in VARIANTS.items()} == OFFICIAL


def test_variants_have_the_published_probabilities():
    for name, config in VARIANTS.items():
        steps = OFFICIAL[name]
        assert config.size == 224
        assert config.flip == 0.5
        assert config.rand_augment == ("rand_augment" in steps) * 1.0
        assert config.erase == ("erase" in steps) * 0.25
        assert config.mixup == config.cutmix == ("mixup" in steps) * 0.5
        assert (config.num_ops, config.magnitude, config.bins) == (2, 9, 31)
        assert (config.scale, config.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
        assert (config.erase_scale, config.erase_ratio) == ((0.02, 0.33), (0.3, 3.3))
        assert (config.interpolation, config.antialias) == ("bilinear", True)
        assert (config.mixup_alpha, config.cutmix_alpha) == (1.0, 1.0)


def test_cifar_is_resized_and_cropped_with_padding():
    config = VARIANTS["cifar100"]
    assert (config.crop, config.resize, config.padding) == ("random", 224, 16)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_at_the_published_size_is_as_published(name: str):
    assert variant(name) == VARIANTS[name]


def test_resize_and_padding_follow_the_size():
    small = variant("cifar100", size=56)
    assert (small.size, small.resize, small.padding) == (56, 56, 4)
    assert variant("randaug", size=32) == replace(VARIANTS["randaug"], size=32)


@pytest.mark.parametrize("name", VARIANTS)
def test_apples_data_is_read_with_its_quirks(name: str):
    apple = variant(name, size=160, compat="apple")
    assert (apple.mixup_owner, apple.translate_pixels) == ("apple", 224)
    ours = variant(name, size=160)
    assert (ours.mixup_owner, ours.translate_pixels) == ("most", None)
    assert replace(apple, mixup_owner="most", translate_pixels=None) == ours


def test_the_partner_has_the_larger_weight_only_in_apples_data():
    for compat, larger in (("apple", False), (None, True)):
        config = variant("mixing", compat=compat)
        draws = [draw_mix(keyed.generator("w", i), config)[0] for i in range(200)]
        weights = [weight for weight in draws if weight is not None]
        assert all((weight >= 0.5) == larger for weight in weights)
        assert len(weights) > 50


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_draws_and_makes_views(name: str):
    augment = Augment(variant(name, size=32))
    pixels = keyed.generator("pixels").integers(0, 256, (3, 40, 50), dtype="uint8")
    image = torch.from_numpy(pixels)
    for key in range(10):
        params = augment.draw(keyed.generator("view", key), 40, 50)
        view = augment.apply(image, params)
        assert view.shape == (3, 32, 32)
        assert torch.equal(view, augment.apply(image, params))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "randaugment"}, "variant must be one of rrc, .*did you mean randaug?"),
        ({"name": "x"}, "flowers102, got x$"),
        ({"name": "rrc", "size": 0}, "augment.size must be > 0, got 0"),
        ({"name": "rrc", "compat": "google"}, "compat must be apple or null, got google"),
    ],
)
def test_a_wrong_name_is_refused(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        variant(**arguments)


def test_variants_need_no_torch():
    program = "import sys, dataset_reinforcement.variants; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


def test_variants_are_plain_configs():
    assert all(type(config) is AugmentConfig for config in VARIANTS.values())
