"""Small contact sheets of the demo data, for the documentation and for a first look."""

import io
import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tenfold import atomic
from tenfold.demo_data import glyphs, photos, scenes
from tenfold.demo_data.libraries import shipped_file

_MARGIN = 8
_LINE = 12
_LINES = 3
_PALETTE = np.array(
    [[235, 235, 235], [31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40]], dtype=np.uint8
)


def glyph_sheet() -> Image.Image:
    """Return 24 pairs: each drawn plainly and over a photograph, with its caption."""
    limit = 24
    plain = glyphs.load("all", size=64, limit=limit)
    photo = glyphs.load("all", size=64, background="photo", limit=limit)
    cells = [
        np.concatenate([np.repeat(grey[..., None], 3, axis=2), colour], axis=1)
        for grey, colour in zip(plain.images, photo.images, strict=True)
    ]
    return _sheet(cells, plain.captions, columns=6)


def scene_sheet() -> Image.Image:
    """Return 8 scenes: picture, segments with boxes, depth (near is dark), and caption."""
    composed = [scenes.compose(index, size=96) for index in range(8)]
    cells = [np.concatenate([s.image, _segments(s), _depth(s)], axis=1) for s in composed]
    return _sheet(cells, [scene.caption for scene in composed], columns=2)


def photo_sheet() -> Image.Image:
    """Return every photograph as a thumbnail, and the disparity of the stereo pair."""
    side = (120, 90)
    pictures = {name: photos.load(name) for name in photos.names()}
    disparity = photos.stereo().disparity
    known = np.nan_to_num(disparity / np.nanmax(disparity))
    pictures["motorcycle disparity"] = np.repeat((known * 255).astype(np.uint8)[..., None], 3, 2)
    cells = []
    for pixels in pictures.values():
        thumbnail = Image.new("RGB", side, "white")
        image = Image.fromarray(pixels)
        image.thumbnail(side)
        thumbnail.paste(image, ((side[0] - image.width) // 2, (side[1] - image.height) // 2))
        cells.append(np.asarray(thumbnail))
    return _sheet(cells, list(pictures), columns=5, lines=1)


SHEETS = {"glyphs": glyph_sheet, "scenes": scene_sheet, "photos": photo_sheet}


def write(name: str, path: Path | str) -> int:
    """Write the sheet `glyphs`, `scenes` or `photos` atomically as PNG; return its bytes.

    Raises:
        ValueError: `name` is unknown.
    """
    if name not in SHEETS:
        raise ValueError(f"unknown figure {name!r}: choose one of {', '.join(SHEETS)}")
    buffer = io.BytesIO()
    # A palette keeps the file small; photographs stay recognisable.
    SHEETS[name]().quantize(256).save(buffer, "PNG", optimize=True)
    atomic.write_bytes(path, buffer.getvalue())
    return len(buffer.getvalue())


def _segments(scene: scenes.Scene) -> NDArray[np.uint8]:
    image = Image.fromarray(_PALETTE[scene.segments])
    draw = ImageDraw.Draw(image)
    for (left, top, right, bottom), colour in zip(scene.boxes, _PALETTE[1:], strict=False):
        draw.rectangle((left, top, right - 1, bottom - 1), outline=tuple(colour.tolist()))
    return np.asarray(image)


def _depth(scene: scenes.Scene) -> NDArray[np.uint8]:
    grey = (scene.depth_map * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _sheet(
    cells: list[NDArray[np.uint8]], captions: list[str], *, columns: int, lines: int = _LINES
) -> Image.Image:
    height, width = cells[0].shape[:2]
    step_y, step_x = height + lines * _LINE + _MARGIN, width + _MARGIN
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * step_x + _MARGIN, rows * step_y + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(
        str(shipped_file("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf")), 9
    )
    for index, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
        left, top = _MARGIN + index % columns * step_x, _MARGIN + index // columns * step_y
        sheet.paste(Image.fromarray(cell), (left, top))
        wrapped = textwrap.wrap(caption, max(width // 6, 1))[:lines]
        for number, line in enumerate(wrapped):
            draw.text((left, top + height + 1 + number * _LINE), line, fill="black", font=font)
    return sheet
