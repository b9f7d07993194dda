"""Corruptions: keyed, of the stated strength, worse with every severity."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset_reinforcement.array_images import ArrayImages
from dataset_reinforcement.corruptions import LEVELS, SEVERITIES, CorruptedImages, corrupt
from tenfold import keyed

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise")


def photo(side: int) -> Tensor:
    """A smooth picture without black or white, with some texture."""
    x = torch.linspace(0, 3, side)
    waves = torch.stack([torch.sin(k * x)[:, None] * torch.cos(5 * x)[None] for k in (1, 4, 9)])
    return (128 + 50 * waves).to(torch.uint8)


def changed(image: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    return corrupt(image, name, severity, rng=keyed.generator("test", seed))


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("side", [32, 160])
def test_every_severity_is_worse_than_the_one_before(name: str, side: int) -> None:
    image = photo(side)
    errors = [
        (changed(image, name, severity).float() - image.float()).square().mean().item()
        for severity in SEVERITIES
    ]
    assert errors[0] > 0
    assert errors == sorted(errors)


@pytest.mark.parametrize("name", LEVELS)
def test_the_key_decides_and_the_image_is_left_alone(name: str) -> None:
    image = photo(32)
    copy = image.clone()
    first, again, other = (changed(image, name, 3, seed) for seed in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name not in NOISE)
    assert torch.equal(image, copy)


def test_strengths_are_the_published_ones() -> None:
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    noise = (changed(grey, "gaussian_noise", 2).float() - 128) / 255
    assert noise.std().item() == pytest.approx(0.12, rel=0.02)
    shot = changed(grey, "shot_noise", 1).float() / 255
    assert shot.var().item() == pytest.approx(128 / 255 / 60, rel=0.03)
    speckled = changed(grey, "impulse_noise", 5)
    for extreme in (0, 255):
        assert (speckled == extreme).float().mean().item() == pytest.approx(0.135, rel=0.03)
    small = (changed(grey[:, :100, :100], "gaussian_noise", 2).float() - 128) / 255
    assert small.std().item() == pytest.approx(0.06, rel=0.03)


def test_blur_is_a_gaussian_and_keeps_flat_images() -> None:
    dot = torch.zeros(3, 33, 33, dtype=torch.uint8)
    dot[:, 16, 16] = 255
    blurred = changed(dot, "gaussian_blur", 5).float()  # sigma 1 below 128 pixels
    offsets = np.arange(-4, 5)
    weights = np.exp(-(offsets**2) / 2)
    weights /= weights.sum()
    np.testing.assert_allclose(
        blurred[0, 12:21, 12:21], 255 * np.outer(weights, weights), atol=0.51
    )
    flat = torch.full((3, 5, 7), 77, dtype=torch.uint8)
    assert torch.equal(changed(flat, "gaussian_blur", 5), flat)


def test_contrast_shrinks_distances_to_the_mean() -> None:
    image = torch.tensor([[[100, 200]]] * 3, dtype=torch.uint8)
    assert changed(image, "contrast", 2)[0, 0].tolist() == [125, 175]


def test_a_corrupted_source_is_the_same_source_with_other_pixels() -> None:
    rng = keyed.generator("images")
    pixels = rng.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    clean = ArrayImages(pixels, np.array([0, 1, 1, 0]), ["a", "b"])
    source = CorruptedImages(clean, "gaussian_noise", 5, seed=7)
    assert len(source) == 4
    assert source.classes == clean.classes
    assert source.decode == clean.decode
    for index in range(4):
        assert source.key(index) == clean.key(index)
        assert source.label(index) == clean.label(index)
        assert source.num_bytes(index) == clean.num_bytes(index)
        assert torch.equal(source.load(index), source.load(index))
    assert not torch.equal(source.load(0), clean.load(0))
    other = CorruptedImages(clean, "gaussian_noise", 5, seed=8)
    assert not torch.equal(source.load(0), other.load(0))


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("fog", 1, "corruption must be one of gaussian_noise"), ("contrast", 6, r"must be 1\.\.5")],
)
def test_unknown_corruptions_are_refused(name: str, severity: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(photo(8), name, severity)
    clean = ArrayImages(np.zeros((1, 8, 8), np.uint8), np.array([0]), ["a"])
    with pytest.raises(ValueError, match=message):
        CorruptedImages(clean, name, severity)


def test_images_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="image must be uint8"):
        changed(photo(8).float(), "contrast", 1)
