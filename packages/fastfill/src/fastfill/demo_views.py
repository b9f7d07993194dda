"""Further views of demo images: noise for digits, noise and shifts for characters."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastfill.sources import Source
from tenfold import keyed

NOISE = 12
"""Standard deviation of a view's noise, in grey levels of 255."""

SHIFT = 2
"""Largest shift of a character in a view, pixels."""


def images_of(source: Source, channels: int) -> Tensor:
    """Return all images of a source, uint8 `[n, channels, H, W]`."""
    images = np.stack([np.array(source.load(id)) for id in source.ids()])
    return torch.from_numpy(images).permute(0, 3, 1, 2)[:, :channels].contiguous()


def view_of(images: Tensor, *key: str | int, shift: bool) -> Tensor:
    """Return one more view of each image, uint8 as they are.

    Args:
        images: uint8 `[n, C, H, W]`.
        *key: What the view is for.
        shift: Whether to shift each image by up to `SHIFT` pixels, edges repeated.
    """
    random = keyed.generator("view", *key)
    pixels = images.numpy()
    if shift:
        pixels = _shifted(pixels, random)
    noise = random.normal(scale=NOISE, size=pixels.shape)
    return torch.from_numpy(np.rint(np.clip(pixels + noise, 0, 255)).astype(np.uint8))


def _shifted(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    height, width = pixels.shape[-2:]
    down, right = random.integers(-SHIFT, SHIFT + 1, size=(2, len(pixels), 1))
    rows = np.clip(np.arange(height) + down, 0, height - 1)[:, None, :, None]
    columns = np.clip(np.arange(width) + right, 0, width - 1)[:, None, None, :]
    items, channels = np.ogrid[: len(pixels), : pixels.shape[1]]
    return pixels[items[..., None, None], channels[..., None, None], rows, columns]
