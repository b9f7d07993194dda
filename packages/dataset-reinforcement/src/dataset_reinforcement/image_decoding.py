"""Encoded bytes to pixels: one policy for generation, replay and training.

Everything becomes RGB through Pillow's own conversion (grayscale, palettes, CMYK, transparency).
The EXIF orientation is not applied, as in the official code; the policy is part of a store, since
boxes are in the pixels that it gives.
"""

import io
import struct

import numpy as np
import PIL
import torch
from PIL import Image, UnidentifiedImageError, features
from torch import Tensor

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image, as in torchvision's `ImageFolder`."""

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


class ImageDecodeError(ValueError):
    """An image file is there but cannot be decoded; the message names it."""


def decode_policy() -> dict[str, str]:
    """Return what pixels depend on besides the file: library versions, mode, EXIF."""
    return {
        "exif": "ignored",
        "jpeg": features.version("libjpeg_turbo") or features.version("jpg") or "absent",
        "library": f"pillow {PIL.__version__}",
        "mode": "RGB",
    }


def decode_image(data: bytes, name: str) -> Tensor:
    """Decode one image to uint8 `[3, H, W]`; `name` stands in errors.

    Raises:
        ImageDecodeError: The bytes are no whole image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.array(_to_rgb(image))
    except UnidentifiedImageError as error:  # its text holds an address, which varies
        raise ImageDecodeError(f"{name} cannot be decoded: it is in no known format") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageDecodeError(f"{name} cannot be decoded: {reason}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit grey at 255, which turns most of a picture white.
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.rint(grey.clip(0, 255)).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # what Pillow asks for, with a warning, on the direct way
    return image.convert("RGB")
