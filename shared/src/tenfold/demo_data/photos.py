"""The photographs that lie in scikit-image's and scikit-learn's wheels, and crops of them.

Left out: drawings, scans of text, and what scikit-image would download.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tenfold import keyed
from tenfold.demo_data.libraries import shipped_file

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """One photograph.

    Attributes:
        name: Its name here.
        library: The distribution whose wheel carries it.
        file: Its path below the library's package folder.
        licence: As its library states it.
        everyday: A natural scene or surface, fit for backgrounds (not a microscope's or telescope's
            view, nor the second view of a stereo pair).
    """

    name: str
    library: str
    file: str
    licence: str
    everyday: bool


_PUBLIC = "public domain"
_CC0 = "CC0"
_FREE = "no known restrictions"
_CC_BY = "CC BY 2.0"
_MIDDLEBURY = "Middlebury Stereo 2014, cite the paper"


def _skimage(name: str, file: str, licence: str, *, everyday: bool = True) -> Photo:
    return Photo(name, "scikit-image", f"data/{file}", licence, everyday)


PHOTOS: dict[str, Photo] = {
    photo.name: photo
    for photo in (
        _skimage("astronaut", "astronaut.png", _PUBLIC),
        _skimage("brick", "brick.png", _CC0),
        _skimage("camera", "camera.png", _CC0),
        _skimage("cat", "chelsea.png", _CC0),
        _skimage("cell", "cell.png", _CC0, everyday=False),
        Photo("china", "scikit-learn", "datasets/images/china.jpg", _CC_BY, True),
        _skimage("clock", "clock_motion.png", _PUBLIC),
        _skimage("coffee", "coffee.png", _CC0),
        _skimage("coins", "coins.png", _FREE),
        Photo("flower", "scikit-learn", "datasets/images/flower.jpg", _CC_BY, True),
        _skimage("grass", "grass.png", _CC0),
        _skimage("gravel", "gravel.png", _CC0),
        _skimage("hubble", "hubble_deep_field.jpg", _PUBLIC, everyday=False),
        _skimage("moon", "moon.png", "not stated", everyday=False),
        _skimage("motorcycle_left", "motorcycle_left.png", _MIDDLEBURY),
        _skimage("motorcycle_right", "motorcycle_right.png", _MIDDLEBURY, everyday=False),
        _skimage("retina", "retina.jpg", _CC0, everyday=False),
        _skimage("rocket", "rocket.jpg", _PUBLIC),
        _skimage("tissue", "ihc.png", _FREE, everyday=False),
    )
}

LIBRARIES = ("pillow", "scikit-image", "scikit-learn")

_BACKGROUNDS = tuple(photo.name for photo in PHOTOS.values() if photo.everyday)


class Stereo(NamedTuple):
    """A rectified stereo pair with measured disparity.

    Attributes:
        left: uint8 `[500, 741, 3]`.
        right: uint8 `[500, 741, 3]`.
        disparity: float32 `[500, 741]` in pixels, NaN where unknown: what the left view shows at
            `[y, x]` stands in the right view at `[y, x - disparity[y, x]]`.
        focal_px: Focal length in pixels.
        offset_px: Difference of the two principal points in pixels.
        baseline_m: Distance of the two cameras in metres.
    """

    left: Pixels
    right: Pixels
    disparity: NDArray[np.float32]
    focal_px: float
    offset_px: float
    baseline_m: float

    def depth_m(self) -> NDArray[np.float32]:
        """Return the depth of the left view, float32 `[500, 741]` in metres, NaN where unknown."""
        depth = self.baseline_m * self.focal_px / (self.disparity + self.offset_px)
        return depth.astype(np.float32)


def names() -> list[str]:
    """Return the names that `load` knows, sorted."""
    return sorted(PHOTOS)


@cache
def load(name: str) -> Pixels:
    """Return a photograph as a read-only uint8 `[H, W, 3]`; grey ones repeat their channel.

    Raises:
        ValueError: `name` is unknown.
        FileNotFoundError: Its library is not installed or lacks the file.
    """
    if name not in PHOTOS:
        raise ValueError(f"unknown photo {name!r}: choose one of {', '.join(names())}")
    photo = PHOTOS[name]
    with Image.open(shipped_file(photo.library, photo.file)) as image:
        pixels = np.array(image.convert("RGB"))
    pixels.flags.writeable = False
    return pixels


def stereo() -> Stereo:
    """Return the `motorcycle` pair of Middlebury Stereo 2014 at a quarter of its resolution.

    The camera's constants are those in the documentation of `skimage.data.stereo_motorcycle`.

    Raises:
        FileNotFoundError: scikit-image is not installed or lacks the files.
    """
    path = shipped_file("scikit-image", "data/motorcycle_disp.npz")
    with np.load(path, allow_pickle=False) as arrays:
        disparity = arrays["arr_0"].astype(np.float32)
    disparity[~np.isfinite(disparity)] = np.nan
    return Stereo(
        left=load("motorcycle_left"),
        right=load("motorcycle_right"),
        disparity=disparity,
        focal_px=994.978,
        offset_px=31.086,
        baseline_m=0.193001,
    )


def crops(n: int, size: int, *, seed: int = 0) -> Pixels:
    """Return `n` square crops of the everyday photographs, uint8 `[n, size, size, 3]`.

    Crop i depends on `(seed, size, i)` only.

    Raises:
        ValueError: `n` is negative or `size` is below 1.
    """
    if n < 0 or size < 1:
        raise ValueError(f"n must be >= 0 and size >= 1, got n={n}, size={size}")
    pixels = np.empty((n, size, size, 3), dtype=np.uint8)
    for i in range(n):
        pixels[i] = crop(keyed.generator("photo crop", seed, size, i), size)
    return pixels


def crop(rng: np.random.Generator, size: int) -> Pixels:
    """Draw one square crop of a random everyday photograph, uint8 `[size, size, 3]`.

    Its side before resizing is 20-100 % of the photograph's shorter side; half of them are
    mirrored.
    """
    image = _image(_BACKGROUNDS[rng.integers(len(_BACKGROUNDS))])
    side = rng.uniform(0.2, 1.0) * min(image.size)
    left, top = (rng.uniform(0.0, extent - side) for extent in image.size)
    box = (left, top, left + side, top + side)
    small = image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    pixels = np.asarray(small)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


@cache
def _image(name: str) -> Image.Image:
    return Image.fromarray(load(name))
