"""Images that strangers send, and thumbnails of originals."""

import io
import struct

from PIL import Image

from fastfill.image_sources import decode_image
from fastfill.originals import OriginalError
from fastfill.serve.errors import RequestError

MAX_PIXELS = 50_000_000
"""Most pixels of an upload: a small file can unfold to gigabytes."""
THUMBNAIL = 192
"""Longest side of a thumbnail."""


def decode_upload(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an uploaded JPEG, PNG or WebP to RGB; its size is checked before its pixels.

    Raises:
        RequestError: It is none or damaged, 400, or has too many pixels, 413.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        width = height = max_pixels
    except (OSError, SyntaxError, ValueError, struct.error, OverflowError) as error:
        raise RequestError(400, "the upload is no readable JPEG, PNG or WebP") from error
    if width * height > max_pixels:
        raise RequestError(413, f"the image has more than {max_pixels} pixels; send a smaller one")
    try:
        return decode_image(data, "upload")
    except OriginalError as error:
        raise RequestError(400, f"the upload {error.reason}") from error


def thumbnail(image: Image.Image) -> bytes:
    """Return a small JPEG."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()
