"""Common corruptions made on the fly, for images that have no published corrupted set.

Noise, blur and contrast as ImageNet-C makes them, in its five severities (Hendrycks and Dietterich
2019, arXiv 1903.12261): the levels of ImageNet-C, or of CIFAR-10-C for small images. The random
numbers of an image depend on seed, corruption, severity and index alone.

Not here: ImageNet-C itself, whose published JPEG files are what other papers measured on
(`robustness`), and its weather and digital corruptions other than contrast.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset_reinforcement.images import ImageSource
from tenfold import keyed

SEVERITIES = (1, 2, 3, 4, 5)
SMALL_SIDE = 128  # images whose shorter side is below this get the levels of CIFAR-10-C


class Levels(NamedTuple):
    """The parameter of each severity; images are in 0..1, blurs in pixels.

    Attributes:
        large: As published for ImageNet-C.
        small: As published for CIFAR-10-C.
    """

    large: tuple[float, ...]
    small: tuple[float, ...]


LEVELS: Mapping[str, Levels] = {
    "gaussian_noise": Levels((0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Levels((60, 25, 12, 5, 3), (500, 250, 100, 75, 50)),
    "impulse_noise": Levels((0.03, 0.06, 0.09, 0.17, 0.27), (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": Levels((1, 2, 3, 4, 6), (0.4, 0.6, 0.7, 0.8, 1)),
    "contrast": Levels((0.4, 0.3, 0.2, 0.1, 0.05), (0.75, 0.5, 0.4, 0.3, 0.15)),
}


def corrupt(image: Tensor, name: str, severity: int, *, rng: np.random.Generator) -> Tensor:
    """Return a corrupted copy of an image.

    Args:
        image: uint8 `[3, H, W]`.
        name: One of `LEVELS`.
        severity: 1 to 5.
        rng: Source of the noise; blur and contrast draw nothing.

    Returns:
        uint8 `[3, H, W]`.

    Raises:
        ValueError: An unknown corruption or severity, or an image of another type.
    """
    check_corruption(name, severity)
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise ValueError(
            f"image must be uint8 [channels, height, width], got {image.dtype} {list(image.shape)}"
        )
    values = image.to(torch.float32) / 255
    levels = LEVELS[name].small if min(image.shape[1:]) < SMALL_SIDE else LEVELS[name].large
    changed = _CORRUPTIONS[name](values, levels[severity - 1], rng)
    return (changed.clamp(0, 1) * 255).round().to(torch.uint8)


def check_corruption(name: str, severity: int) -> None:
    """Check that there is such a corruption.

    Raises:
        ValueError: There is not.
    """
    if name not in LEVELS:
        raise ValueError(f"corruption must be one of {', '.join(LEVELS)}, got {name!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1..{SEVERITIES[-1]}, got {severity}")


class CorruptedImages:
    """An image source whose images are corrupted as they are read.

    Args:
        source: The clean images.
        corruption: One of `LEVELS`.
        severity: 1 to 5.
        seed: Key of the noise.

    Raises:
        ValueError: An unknown corruption or severity.
    """

    def __init__(
        self, source: ImageSource, corruption: str, severity: int, *, seed: int = 0
    ) -> None:
        check_corruption(corruption, severity)
        self.source = source
        self.corruption = corruption
        self.severity = severity
        self.seed = seed
        self.classes = source.classes
        self.decode = source.decode

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        """Return the clean image's key."""
        return self.source.key(index)

    def num_bytes(self, index: int) -> int:
        """Return the clean image's encoded size."""
        return self.source.num_bytes(index)

    def checksum(self, index: int) -> int:
        """Return the clean image's checksum."""
        return self.source.checksum(index)

    def label(self, index: int) -> int:
        """Return the clean image's label."""
        return self.source.label(index)

    def load(self, index: int) -> Tensor:
        """Return the corrupted image, uint8 `[3, H, W]`."""
        rng = keyed.generator("corruption", self.seed, self.corruption, self.severity, index)
        return corrupt(self.source.load(index), self.corruption, self.severity, rng=rng)


def _gaussian_noise(image: Tensor, scale: float, rng: np.random.Generator) -> Tensor:
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
    return image + scale * torch.from_numpy(noise)


def _shot_noise(image: Tensor, photons: float, rng: np.random.Generator) -> Tensor:
    counts = rng.poisson(image.numpy() * photons) / photons
    return torch.from_numpy(counts.astype(np.float32))


def _impulse_noise(image: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Set a share of all values to black or white, each half of it."""
    draw = torch.from_numpy(rng.random(tuple(image.shape), dtype=np.float32))
    salted = torch.where(draw < share / 2, 1.0, image)
    return torch.where(draw > 1 - share / 2, 0.0, salted)


def _gaussian_blur(image: Tensor, sigma: float, rng: np.random.Generator) -> Tensor:
    reach = math.ceil(4 * sigma)
    weights = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * sigma**2))
    weights /= weights.sum()
    # Replicated rims need no minimum size, mirrored ones do.
    padded = F.pad(image[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]


def _contrast(image: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Shrink the distance of every value to its channel's mean."""
    mean = image.mean(dim=(1, 2), keepdim=True)
    return (image - mean) * share + mean


_CORRUPTIONS: Mapping[str, Callable[[Tensor, float, np.random.Generator], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "contrast": _contrast,
}
