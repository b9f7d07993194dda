"""Images to evaluate on: encoded bytes from folders and tars, and what the model sees of them.

The model's input is the published one (spec 4): shorter side scaled bilinearly to the model's
size, centre cut out, values 0..1 without mean and deviation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from mobileclip.images import IMAGE_EXTENSIONS, ImageError, decode_image
from tenfold.shards import ShardError, TarMembers


class EncodedImages(Protocol):
    """Encoded images by index; may be sent to other processes."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what errors call the image."""
        ...

    def read(self, index: int) -> bytes:
        """Return the encoded bytes."""
        ...


class FileImages:
    """Image files below a folder, in the given order.

    Raises:
        FileNotFoundError: A file is missing.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root, self._names = root, list(names)
        for name in self._names:
            if not (root / name).is_file():
                raise FileNotFoundError(f"image {root / name} does not exist")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the path below the folder."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return (self._root / self._names[index]).read_bytes()


class TarImages:
    """The samples of webdataset tars: tars sorted by name, samples in file order.

    Raises:
        FileNotFoundError: There is no tar.
        ShardError: A tar is damaged, or a sample has no image.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("*.tar"))
        if not paths:
            raise FileNotFoundError(f"{folder} has no *.tar")
        self._tars = [TarMembers(path) for path in paths]
        self._places = [
            (number, key) for number, members in enumerate(self._tars) for key in members.keys
        ]
        self._images = [self._image_member(index) for index in range(len(self))]

    def __len__(self) -> int:
        return len(self._places)

    def name(self, index: int) -> str:
        """Return tar and key."""
        number, key = self._places[index]
        return f"{self._tars[number].path.name}: {key}"

    def read(self, index: int) -> bytes:
        """Return the image's bytes."""
        return self.member(index, self._images[index])

    def member(self, index: int, extension: str) -> bytes:
        """Return another member of the same sample.

        Raises:
            ShardError: The sample has none such.
        """
        number, key = self._places[index]
        return self._tars[number].read(key, extension)

    def has(self, index: int, extension: str) -> bool:
        """Return whether the sample has such a member."""
        number, key = self._places[index]
        return extension in self._tars[number].extensions(key)

    def _image_member(self, index: int) -> str:
        found = [name for name in IMAGE_EXTENSIONS if self.has(index, name)]
        if len(found) != 1:
            known = ", ".join(IMAGE_EXTENSIONS)
            raise ShardError(f"{self.name(index)} has {len(found)} images, expected one of {known}")
        return found[0]


class ModelInputs(Dataset[Tensor]):
    """Decoded and cropped images, uint8 `[3, size, size]`.

    Args:
        images: Where the bytes come from.
        size: Side of the model's input.
        boxes: For some images, by index, the part to look at: left, top, right, bottom in pixels.
    """

    def __init__(
        self,
        images: EncodedImages,
        size: int,
        *,
        boxes: dict[int, tuple[int, int, int, int]] | None = None,
    ) -> None:
        self._images, self._size, self._boxes = images, size, boxes or {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        image = decode(self._images.read(index), self._images.name(index))
        if (box := self._boxes.get(index)) is not None:
            image = image.crop(box)
        return model_input(image, self._size)


def decode(data: bytes, name: str) -> Image.Image:
    """Decode one image by the policy of training (`mobileclip.images`).

    Raises:
        ImageError: The bytes are no whole image; names it.
    """
    try:
        return TF.to_pil_image(decode_image(data))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def model_input(image: Image.Image, size: int) -> Tensor:
    """Return what the model sees of an image, uint8 `[3, size, size]`; divide by 255."""
    resize = v2.Resize(size, interpolation=v2.InterpolationMode.BILINEAR)
    return TF.pil_to_tensor(v2.CenterCrop(size)(resize(image)))


def as_floats(images: Tensor) -> Tensor:
    """Return uint8 pixels as the floats 0..1 that the model takes."""
    return images.to(torch.float32) / 255
