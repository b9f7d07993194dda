"""Views of an image for training: random crops and flips that depend on seed, id and view alone."""

import math

import numpy as np
from PIL import Image

from tenfold import keyed

AREA = (0.08, 1.0)
"""Share of the image's area in a crop (RandomResizedCrop, spec 2.4)."""

RATIO = (3 / 4, 4 / 3)
"""Width by height of a crop."""

_TRIES = 10


def draw_view(image: Image.Image, *, size: int, seed: int, id: str, view: int) -> Image.Image:
    """Return a random crop, mirrored half of the time, scaled to `size` x `size`."""
    rng = keyed.generator("view", seed, id, view)
    box = crop_box(rng, *image.size)
    cropped = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cropped


def crop_box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """Draw left, top, right and bottom as RandomResizedCrop does.

    Where no crop fits in ten tries it is the largest in the middle whose ratio is allowed.
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(rng.integers(width - wide + 1))
            top = int(rng.integers(height - tall + 1))
            return left, top, left + wide, top + tall
    wide = min(width, max(1, round(height * RATIO[1])))
    tall = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall
