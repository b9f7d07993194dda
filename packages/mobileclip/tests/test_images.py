"""One policy of decoding: stored pixels, RGB, PIL's limit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from mobileclip.images import ImageError, decode_image, image_size


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
RGBA = Image.fromarray(PIXELS)


@pytest.mark.parametrize(
    "image",
    [RGBA, RGBA.convert("RGB"), RGBA.convert("L"), RGBA.convert("LA"), RGBA.quantize(16)],
    ids=["RGBA", "RGB", "L", "LA", "P"],
)
def test_pixels_are_those_of_the_official_conversions(image: Image.Image) -> None:
    expected = np.array(image.convert("RGBA").convert("RGB"))
    read = decode_image(encoded(image))
    assert read.dtype == torch.uint8
    assert np.array_equal(read.permute(1, 2, 0).numpy(), expected)


def test_cmyk() -> None:
    data = encoded(RGBA.convert("RGB").convert("CMYK"), "JPEG")
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGBA").convert("RGB"))
    assert np.array_equal(decode_image(data).permute(1, 2, 0).numpy(), expected)


def test_exif_does_not_turn_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RGBA.convert("RGB"), "JPEG", exif=exif)
    assert decode_image(data).shape == (3, 6, 9)
    assert image_size(data) == (6, 9)


def test_limits_of_pil_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    # Defect 6: the official patch removes the limit and loads truncated images, everywhere.
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ImageError, match="decompression bomb"):
        decode_image(encoded(RGBA))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no JPEG, PNG or WebP"),
        (b"text", "no JPEG, PNG or WebP"),
        (encoded(RGBA)[:-30], "cannot be decoded"),
        (encoded(RGBA.convert("RGB").resize((90, 90)), "JPEG")[:-100], "truncated"),
        (encoded(Image.fromarray(np.full((4, 4), 40000, np.uint16))), "more than 8 bits"),
        (encoded(RGBA.convert("RGB"), "BMP"), "no JPEG, PNG or WebP"),
    ],
)
def test_bytes_that_are_no_image(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(data)
