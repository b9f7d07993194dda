"""Encoded bytes to pixels, one policy for generation and training (spec 2.1).

`convert("RGBA").convert("RGB")` as the official generator does, and no EXIF transpose: teachers saw
the pixels as they are stored, and crop boxes count in them. PIL's limit against decompression bombs
stays.
"""

import io
import struct

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Members that hold an image, in the order in which they are looked for."""

# Pillow's readers raise all of these on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    IndexError,
    OverflowError,
    Image.DecompressionBombError,
)


class ImageError(ValueError):
    """Bytes that do not become an image."""


def decode_image(data: bytes) -> Tensor:
    """Decode JPEG, PNG or WebP.

    Returns:
        uint8 `[3, H, W]`, RGB; H and W as stored, whatever EXIF says about orientation.

    Raises:
        ImageError: The bytes are no whole image, it has more than 8 bits a channel, or more pixels
            than PIL allows.
    """
    try:
        pixels = _pixels(data)
    except UnidentifiedImageError as error:  # its text holds an address, which varies
        raise ImageError("image cannot be decoded: it is no JPEG, PNG or WebP") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"image cannot be decoded: {reason}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def image_size(data: bytes) -> tuple[int, int]:
    """Return height and width from the header alone.

    Raises:
        ImageError: The bytes do not begin like an image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            return image.height, image.width
    except _DAMAGE as error:
        raise ImageError("image cannot be decoded: it is no JPEG, PNG or WebP") from error


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
        if image.mode.startswith(("I", "F")):
            # PIL clips these at 255, which turns the picture white in silence.
            raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
        if image.mode == "RGB":
            return np.array(image)  # what the two conversions give, in a third of the time
        return np.array(image.convert("RGBA").convert("RGB"))
