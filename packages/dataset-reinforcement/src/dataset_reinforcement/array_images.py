"""Images that lie in memory as one array."""

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DECODE = {"library": "array", "mode": "RGB"}


class ArrayImages:
    """Images of one size from an array.

    The keys end with a hash of the pixels, since all images have the same number of bytes: another
    order or other pixels are noticed.

    Args:
        images: uint8 `[n, H, W]` or `[n, H, W, 3]`.
        labels: `[n]`, whole numbers below the number of classes.
        classes: Class names.
        names: What the keys begin with, `n` names; the position by default.

    Attributes:
        classes: Class names.
        decode: Decode policy.

    Raises:
        ValueError: The arrays have another type or shape, or a label has no class.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.integer],
        classes: Sequence[str],
        *,
        names: Sequence[str] | None = None,
    ) -> None:
        _check(images, labels, classes)
        self.classes = tuple(classes)
        self.decode = dict(DECODE)
        self._images = images
        self._labels = labels
        self._names = names

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        """Return the name and a hash of the pixels."""
        name = f"{index:07d}" if self._names is None else self._names[index]
        pixels = np.ascontiguousarray(self._images[index])
        return f"{name}-{hashlib.blake2b(pixels.tobytes(), digest_size=6).hexdigest()}"

    def num_bytes(self, index: int) -> int:
        """Return the number of bytes of the pixels."""
        return self._images[index].nbytes

    def checksum(self, index: int) -> int:
        """Return the CRC-32 of the pixels."""
        return zlib.crc32(np.ascontiguousarray(self._images[index]).tobytes())

    def label(self, index: int) -> int:
        """Return the label."""
        return int(self._labels[index])

    def load(self, index: int) -> Tensor:
        """Return the pixels, uint8 `[3, H, W]`."""
        pixels = self._images[index]
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)).copy())


def read_npz(path: Path) -> ArrayImages:
    """Read a file of the arrays `images`, `labels` and `classes` (names).

    Raises:
        ValueError: An array is missing or malformed.
    """
    with np.load(path, allow_pickle=False) as arrays:
        missing = [name for name in ("images", "labels", "classes") if name not in arrays]
        if missing:
            raise ValueError(f"{path} lacks {missing}: expected images, labels and classes")
        try:
            classes = [str(name) for name in arrays["classes"]]
            return ArrayImages(arrays["images"], arrays["labels"], classes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _check(images: NDArray[np.uint8], labels: NDArray[np.integer], classes: Sequence[str]) -> None:
    grey, colour = images.ndim == 3, images.ndim == 4 and images.shape[3] == 3
    if images.dtype != np.uint8 or not (grey or colour):
        raise ValueError(
            f"images are {images.dtype} {images.shape}, expected uint8 [n, H, W] or [n, H, W, 3]"
        )
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, expected int [{len(images)}]")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"labels lie in {labels.min()}..{labels.max()}, but there are {len(classes)} classes"
        )
