"""What chance decides about a view, drawn from a given generator with torchvision's distributions.

Free of torch. Sources: torchvision's `RandomResizedCrop`, `RandomCrop`, `RandAugment` and
`RandomErasing`; the official `MixUp` and `CutMix` (`transforms.py` of Dataset Reinforcement), which
differ from torchvision's in that MixUp's weight is halved and each is applied with its own
probability.
"""

import math

import numpy as np

from tenfold.augment.config import AugmentConfig
from tenfold.augment.magnitudes import OPS, PLAIN, SIGNED
from tenfold.augment.params import Box, Op, ViewParams

_ATTEMPTS = 10


def draw_view(
    rng: np.random.Generator, config: AugmentConfig, *, height: int, width: int
) -> ViewParams:
    """Draw crop, flip, RandAugment and erasing for one view.

    Args:
        rng: Is advanced.
        config: The pipeline.
        height: Of the source image, pixels.
        width: Likewise.

    Raises:
        ValueError: The image is too small for a `random` crop.
    """
    crop = draw_crop(rng, config, height=height, width=width)
    flip = bool(rng.random() < config.flip)
    ops = draw_ops(rng, config) if rng.random() < config.rand_augment else None
    erase = draw_erase(rng, config) if rng.random() < config.erase else None
    return ViewParams(crop=crop, flip=flip, ops=ops, erase=erase)


def draw_crop(
    rng: np.random.Generator, config: AugmentConfig, *, height: int, width: int
) -> Box | None:
    """Draw the region of the (resized) image that becomes the view; None where none is drawn."""
    height, width = resized(height, width, config.resize)
    if config.crop == "random_resized":
        return _random_resized(rng, config, height, width)
    if config.crop == "random":
        return _random(rng, config, height, width)
    return None


def draw_ops(rng: np.random.Generator, config: AugmentConfig) -> tuple[Op, ...]:
    """Draw RandAugment's operations, uniformly and with repetition, all at one magnitude."""
    return tuple(_op(rng, config.magnitude) for _ in range(config.num_ops))


def draw_erase(rng: np.random.Generator, config: AugmentConfig) -> Box | None:
    """Draw the region of the output that is erased; None where no drawn region fits inside.

    The official code then erases the whole view, against torchvision.
    """
    side = config.size
    for _ in range(_ATTEMPTS):
        area, ratio = _area_and_ratio(rng, side * side, config.erase_scale, config.erase_ratio)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < side and width < side:
            return _place(rng, height, width, side, side)
    return None


def draw_mix(rng: np.random.Generator, config: AugmentConfig) -> tuple[float | None, Box | None]:
    """Draw MixUp and CutMix, independently of each other.

    Returns:
        The owner image's weight, a float32 value, or None without MixUp; the region of the output,
        drawn for `config.size`, that shows the partner, or None without CutMix and where it is
        empty.
    """
    weight = _mixup_weight(rng, config) if rng.random() < config.mixup else None
    box = _cutmix_box(rng, config) if rng.random() < config.cutmix else None
    return weight, box


def resized(height: int, width: int, shorter: int | None) -> tuple[int, int]:
    """Return the size after the shorter edge is scaled to `shorter`; the longer is cut off."""
    if shorter is None:
        return height, width
    longer = int(shorter * max(height, width) / min(height, width))
    return (shorter, longer) if height <= width else (longer, shorter)


def _random_resized(
    rng: np.random.Generator, config: AugmentConfig, height: int, width: int
) -> Box:
    for _ in range(_ATTEMPTS):
        area, ratio = _area_and_ratio(rng, height * width, config.scale, config.ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return _place(rng, h, w, height, width)
    return _central(config.ratio, height, width)


def _central(ratio: tuple[float, float], height: int, width: int) -> Box:
    # torchvision's fallback: the largest central region of an allowed shape.
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return Box((height - h) // 2, (width - w) // 2, h, w)


def _random(rng: np.random.Generator, config: AugmentConfig, height: int, width: int) -> Box:
    side, padding = config.size, config.padding
    if min(height, width) + 2 * padding < side:
        raise ValueError(
            f"image of {height} x {width} pixels with padding {padding} is smaller than the crop "
            f"of {side}; set augment.resize"
        )
    padded = _place(rng, side, side, height + 2 * padding, width + 2 * padding)
    return padded._replace(top=padded.top - padding, left=padded.left - padding)


def _op(rng: np.random.Generator, level: int) -> Op:
    index = int(rng.integers(len(OPS)))
    if OPS[index] in PLAIN:
        return Op(index, 0)
    negative = OPS[index] in SIGNED and rng.random() < 0.5
    return Op(index, -level if negative else level)


def _area_and_ratio(
    rng: np.random.Generator, pixels: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[float, float]:
    area = pixels * rng.uniform(*scale)
    return area, math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))


def _place(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> Box:
    top = int(rng.integers(rows - height + 1))
    left = int(rng.integers(columns - width + 1))
    return Box(top, left, height, width)


def _mixup_weight(rng: np.random.Generator, config: AugmentConfig) -> float:
    weight = rng.beta(config.mixup_alpha, config.mixup_alpha) / 2
    return float(np.float32(weight if config.mixup_owner == "apple" else 1 - weight))


def _cutmix_box(rng: np.random.Generator, config: AugmentConfig) -> Box | None:
    side = config.size
    half = int(side * math.sqrt(1 - rng.beta(config.cutmix_alpha, config.cutmix_alpha))) // 2
    row, column = int(rng.integers(side)), int(rng.integers(side))
    top, left = max(row - half, 0), max(column - half, 0)
    height, width = min(row + half, side) - top, min(column + half, side) - left
    return Box(top, left, height, width) if height and width else None
