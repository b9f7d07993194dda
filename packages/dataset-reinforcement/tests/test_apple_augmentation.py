"""`image_augmentation` of the official code to a pipeline and back."""

from dataclasses import replace
from typing import Any

import pytest

from dataset_reinforcement.apple.augmentation import from_apple, to_apple
from tenfold.augment.config import AugmentConfig


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(),
        AugmentConfig(rand_augment=1.0, erase=0.25, mixup=0.5, cutmix=0.5),
        AugmentConfig(interpolation="bicubic", scale=(0.5, 0.9), flip=0.0, bins=11, magnitude=3),
        AugmentConfig(resize=224, crop="random", padding=16, rand_augment=1.0, erase=0.25),
        AugmentConfig(size=32, resize=40, crop="center"),
    ],
)
def test_pipelines_survive_the_official_form(config: AugmentConfig) -> None:
    default = AugmentConfig()
    unused = {} if config.rand_augment else {"magnitude": default.magnitude, "bins": default.bins}
    expected = replace(config, mixup_owner="apple", translate_pixels=config.size, **unused)
    assert from_apple(to_apple(config)) == expected


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"flip": {}}, "unknown step 'flip'"),
        ({"random_crop": {"size": 8, "pading": 1}}, "'pading'; did it mean 'padding'"),
        ({"random_crop": {"size": 8}, "center_crop": {"size": 8}}, "random_crop and center_crop"),
        ({"random_crop": {"size": [8, 9]}}, "expected one side"),
        ({"random_horizontal_flip": {}}, "has no crop, expected one of"),
        ({"center_crop": {"size": 8}, "mixup": {}}, r"mixup\.div_by is 1\.0"),
        (
            {"random_resized_crop": {"size": 8, "interpolation": "box"}},
            "expected bilinear or bicubic",
        ),
    ],
)
def test_steps_that_cannot_be_replayed_are_named(
    steps: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_apple(steps)


def test_disabled_steps_and_defaults() -> None:
    """Defaults are torchvision's and the official code's (section 2.2)."""
    steps = {
        "random_resized_crop": {"size": [224, 224]},
        "random_horizontal_flip": {},
        "rand_augment": {},
        "random_erase": {},
        "mixup": {"enable": False, "div_by": 1.0},
        "cutmix": {"enable": False},
    }
    expected = AugmentConfig(rand_augment=1.0, erase=0.5, mixup_owner="apple", translate_pixels=224)
    assert from_apple(steps) == expected
