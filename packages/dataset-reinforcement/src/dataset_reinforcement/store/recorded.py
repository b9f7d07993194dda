"""What a store records of its images, and the check that an image read later is still the same.

Labels are kept by position and boxes in pixels, so an image that was replaced by another one of the
same name and size must stop a run rather than get the other one's labels. Torch-free.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dataset_reinforcement.store.samples import read_checksums, read_samples, read_sizes

if TYPE_CHECKING:
    from torch import Tensor

    from dataset_reinforcement.images import ImageSource


@dataclass(frozen=True, eq=False)
class RecordedImages:
    """Sizes and checksums of the images of a store.

    Attributes:
        store: Its folder.
        sizes: Height and width, int32 `[n, 2]`; 0 and 0 where they are not known.
        checksums: CRC-32 of the encoded bytes, int64 `[n]`; -1 where they are not known.
    """

    store: Path
    sizes: NDArray[np.int32]
    checksums: NDArray[np.int64]

    @classmethod
    def read(cls, store: Path) -> "RecordedImages":
        """Read them.

        Raises:
            FileNotFoundError: There is no `samples.parquet`.
            ValueError: It is damaged.
        """
        return cls(store, read_sizes(store), read_checksums(store))

    def load(self, source: "ImageSource", image: int) -> "Tensor":
        """Return the pixels of an image of a data set, uint8 `[3, H, W]`.

        Raises:
            ValueError: Its bytes or its size are not those recorded; names index and key.
        """
        self.check_content(source, image)
        pixels = source.load(image)
        self.check_size(image, pixels.shape[1], pixels.shape[2])
        return pixels

    def check_content(self, source: "ImageSource", image: int) -> None:
        """Read an image and compare its bytes' checksum.

        Raises:
            ValueError: It is another than is recorded; names index and key.
        """
        stored = int(self.checksums[image])
        if stored >= 0 and source.checksum(image) != stored:
            raise ValueError(
                f"{self._name(image)} has other bytes of the same size than when {self.store} was "
                "made: it changed; use the data set that the store was made from, or generate anew"
            )

    def check_size(self, image: int, height: int, width: int) -> None:
        """Compare the size of a decoded image.

        Raises:
            ValueError: It is another than is recorded; names index and key.
        """
        stored = tuple(self.sizes[image].tolist())
        if stored not in ((height, width), (0, 0)):
            raise ValueError(
                f"{self._name(image)} is {height} x {width} pixels, {stored[0]} x {stored[1]} in "
                f"{self.store}: it changed, or is decoded otherwise; use the data set that the "
                "store was made from, or generate anew"
            )

    def _name(self, image: int) -> str:
        return f"image {image} (key {read_samples(self.store)[image].key!r})"
