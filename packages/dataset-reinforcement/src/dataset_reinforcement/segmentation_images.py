"""Images with a class for every pixel, in folders as ADE20K's.

`<path>/images/<split>/<name>.jpg` and `<path>/annotations/<split>/<name>.png`. A mask's grey level
is the class; in ADE20K 0 means none of the 150 and the classes count from 1.
"""

import io
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from dataset_reinforcement.image_decoding import EXTENSIONS, decode_image
from dataset_reinforcement.image_order import Draw
from tenfold import keyed

IGNORED = 255
"""Class of the pixels that count neither in the loss nor in the measure."""


class Labelled(TypedDict):
    """An image uint8 `[3, S, S]`, classes int64 of its pixels, and its name.

    The classes are `[S, S]` in training, `[H, W]` of the original image in evaluation.
    """

    image: Tensor
    mask: Tensor
    key: str


class SegmentationImages(Dataset[Labelled]):
    """The images of a split, sorted by name.

    A `Draw` gives a training view: scaled at random, cut out at random, mirrored at random; an
    index gives the whole image scaled to the square, with its mask as it is.

    Args:
        path: Folder of the data set.
        split: Name of the split.
        classes: Kinds of pixels.
        size: Side of the images that are returned.
        zero_is_ignored: Whether grey level 0 is no class and classes count from 1.
        scale: Smallest and largest random scale; 1 brings the shorter side to `size`.
        seed: Key of the random views.

    Raises:
        FileNotFoundError: A folder or a mask is missing.
    """

    def __init__(
        self,
        path: Path,
        split: str,
        *,
        classes: int,
        size: int,
        zero_is_ignored: bool = True,
        scale: tuple[float, float] = (0.5, 2.0),
        seed: int = 0,
    ) -> None:
        self.folder = path / "images" / split
        self.masks = path / "annotations" / split
        self.classes = classes
        self.size = size
        self.zero_is_ignored = zero_is_ignored
        self.scale = scale
        self.seed = seed
        self.names = _image_names(self.folder)
        masks = {found.name for found in self.masks.glob("*.png")}
        for name in self.names:
            if _mask_name(name) not in masks:
                raise FileNotFoundError(f"{self.folder / name} has no {self._mask(name)}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int | Draw) -> Labelled:
        index = place.index if isinstance(place, Draw) else place
        name = self.names[index]
        image = decode_image((self.folder / name).read_bytes(), str(self.folder / name))
        mask = self._read_mask(name)
        if mask.shape != image.shape[1:]:
            raise ValueError(
                f"{self._mask(name)} has {list(mask.shape)} pixels, its image "
                f"{list(image.shape[1:])}"
            )
        if isinstance(place, Draw):
            rng = keyed.generator("segmentation view", self.seed, place.epoch, place.index)
            image, mask = random_view(image, mask, size=self.size, scale=self.scale, rng=rng)
        else:
            image = TF.resize(image, [self.size, self.size], antialias=True)
        return {"image": image, "mask": mask.long(), "key": name}

    def _mask(self, name: str) -> Path:
        return self.masks / _mask_name(name)

    def _read_mask(self, name: str) -> Tensor:
        with Image.open(io.BytesIO(self._mask(name).read_bytes())) as picture:
            if picture.mode not in ("L", "P"):
                raise ValueError(
                    f"{self._mask(name)} must be a grey or palette image, its mode is "
                    f"{picture.mode}"
                )
            mask = torch.from_numpy(np.array(picture, dtype=np.uint8))
        if self.zero_is_ignored:
            mask = mask - 1  # uint8: 0 becomes 255, which is ignored
        wrong = mask[(mask >= self.classes) & (mask != IGNORED)]
        if len(wrong):
            raise ValueError(
                f"{self._mask(name)} has class {int(wrong[0])} of {self.classes}, from 0; is "
                f"zero_is_ignored={str(self.zero_is_ignored).lower()} right?"
            )
        return mask


def random_view(
    image: Tensor,
    mask: Tensor,
    *,
    size: int,
    scale: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Return a scaled, cut and perhaps mirrored image uint8 `[3, S, S]` and its mask `[S, S]`.

    Where the scaled image is smaller than the square, the rest is black and ignored.
    """
    factor = float(rng.uniform(*scale)) * size / min(mask.shape)
    sides = [max(1, round(side * factor)) for side in mask.shape]
    image = TF.resize(image, sides, antialias=True)
    mask = TF.resize(mask[None], sides, interpolation=InterpolationMode.NEAREST)[0]
    right, bottom = (max(0, size - side) for side in (sides[1], sides[0]))
    image = TF.pad(image, [0, 0, right, bottom], fill=[0.0])
    mask = TF.pad(mask[None], [0, 0, right, bottom], fill=[float(IGNORED)])[0]
    top, left = (int(rng.integers(0, side - size + 1)) for side in mask.shape)
    image = image[:, top : top + size, left : left + size]
    mask = mask[top : top + size, left : left + size]
    if rng.random() < 0.5:
        image, mask = image.flip(2), mask.flip(1)
    return image.contiguous(), mask.contiguous()


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: expected <path>/images/<split> and "
            "<path>/annotations/<split>"
        )
    names = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(EXTENSIONS))
    if not names:
        raise FileNotFoundError(f"{folder} has no image")
    return names


def _mask_name(name: str) -> str:
    return f"{Path(name).stem}.png"
