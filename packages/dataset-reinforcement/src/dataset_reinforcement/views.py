"""Views of images: drawn from keys, made from what was drawn (spec 2.3, 2.4).

Generation, replay and a teacher that runs beside the student all get their pixels here, so that a
student sees exactly what the teacher saw.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.mixing import draw_mix, mix
from tenfold.augment.params import MixParams, ViewParams
from tenfold.augment.pipeline import Augment

Load = Callable[[int], Tensor]
"""Index of an image to its pixels, uint8 `[3, H, W]`."""


class Sizes(Protocol):
    """Height and width by image, such as an int array `[n, 2]`; 0, 0 for unusable images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def draw_reinforcement(
    augment: Augment,
    seed: int,
    index: int,
    view: int,
    sizes: Sizes,
    *,
    partner_group: int | None = None,
    partner_pool: int | None = None,
) -> tuple[ViewParams, MixParams | None]:
    """Draw the augmentation of one view; it depends on seed, index, view and sizes alone.

    A partner is a uniformly drawn usable image, possibly the image itself, with a view of its own.

    Args:
        augment: The pipeline.
        seed: Seed of the data set.
        index: The image.
        view: Number of the view.
        sizes: Sizes of all images in pixels.
        partner_group: Partners come from the same group of so many consecutive images; None for
            the whole data set.
        partner_pool: So many consecutive images share as many partners, which are drawn from the
            whole data set: few images to read, of any class even where the order is by class.

    Raises:
        ValueError: The image is unusable.
    """
    height, width = (int(side) for side in sizes[index])
    if height == 0:
        raise ValueError(f"image {index} cannot be decoded, so it has no views")
    rng = keyed.generator("view", seed, index, view)
    own = augment.draw(rng, height, width)
    if not augment.config.mixes:
        return own, None
    mixup, cutmix = draw_mix(rng, augment.config)
    if mixup is None and cutmix is None:
        return own, None
    if partner_pool is not None:
        slot = int(rng.integers(partner_pool))
        own_partner = keyed.generator("partner", seed, index // partner_pool, slot)
        partner = _draw_usable(own_partner, sizes, 0, len(sizes))
    else:
        first, stop = _group(index, len(sizes), partner_group)
        partner = _draw_usable(rng, sizes, first, stop)
    height, width = (int(side) for side in sizes[partner])
    partner_view = augment.draw(rng, height, width)
    return own, MixParams(partner, partner_view, mixup, cutmix)


def make_view(
    augment: Augment,
    load: Load,
    own: ViewParams,
    mixing: MixParams | None,
    index: int,
    *,
    size: int | None = None,
) -> Tensor:
    """Make the pixels of a view; no random number is drawn.

    Args:
        augment: The pipeline that the view was drawn for.
        load: Reads images.
        own: What was drawn for the image.
        mixing: Its partner, if it has one.
        index: The image.
        size: Side of the view; the pipeline's by default.

    Returns:
        uint8 `[3, S, S]`, or float32 in 0..1 where two images are mixed.

    Raises:
        ValueError: An image does not fit what was drawn, or the partner cannot be loaded; names it.
    """
    image = _apply(augment, load(index), own, index, size)
    if mixing is None:
        return image
    try:
        pixels = load(mixing.partner)
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(
            f"image {index} needs image {mixing.partner} as its partner, which cannot be loaded: "
            f"{error}"
        ) from error
    partner = _apply(augment, pixels, mixing.view, mixing.partner, size)
    return mix(
        image,
        partner,
        mixup=mixing.mixup,
        cutmix=mixing.cutmix,
        drawn_size=augment.config.size,
    )


def check_partners(
    augment: AugmentConfig, *, partner_group: int | None, partner_pool: int | None
) -> None:
    """Refuse partners that are too few, of no use, or chosen in two ways.

    Raises:
        ValueError: They are.
    """
    for name, value in (("partner_group", partner_group), ("partner_pool", partner_pool)):
        if value is None:
            continue
        if value < 1:
            raise ValueError(f"{name} must be >= 1 or null, got {value}")
        if not augment.mixes:
            raise ValueError(
                f"{name} is {value}, but the augmentation mixes no images: leave it out"
            )
    if partner_group is not None and partner_pool is not None:
        raise ValueError(
            f"partner_group is {partner_group} and partner_pool {partner_pool}: give one of them"
        )


def _group(index: int, num_images: int, size: int | None) -> tuple[int, int]:
    if size is None:
        return 0, num_images
    first = index // size * size
    return first, min(first + size, num_images)


def _draw_usable(rng: np.random.Generator, sizes: Sizes, first: int, stop: int) -> int:
    while True:  # ends: the image that looks for a partner is usable itself
        partner = int(rng.integers(first, stop))
        if sizes[partner][0]:
            return partner


def _apply(
    augment: Augment, image: Tensor, params: ViewParams, index: int, size: int | None
) -> Tensor:
    try:
        return augment.apply(image, params, size=size)
    except ValueError as error:
        raise ValueError(f"image {index}: {error}") from error
