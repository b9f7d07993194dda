"""The type faces in matplotlib's wheel: what each can draw, and its drawing.

Left out: `LastResort` (boxes only) and the faces of size variants and of one formula font.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tenfold.demo_data.libraries import shipped_file

# Large enough for the thinnest outline to leave ink.
_PROBE_PX = 24


@dataclass(frozen=True)
class Face:
    """One type face; `name` is its file name without ending."""

    name: str
    family: Literal["sans", "mono", "serif", "stix"]
    bold: bool
    italic: bool

    @property
    def held_out(self) -> bool:
        """Whether no training split shows this face."""
        return self.name in HELD_OUT


HELD_OUT = ("DejaVuSerif-BoldItalic", "STIXGeneralItalic")

FACES = (
    Face("DejaVuSans", "sans", False, False),
    Face("DejaVuSans-Bold", "sans", True, False),
    Face("DejaVuSans-Oblique", "sans", False, True),
    Face("DejaVuSans-BoldOblique", "sans", True, True),
    Face("DejaVuSansMono", "mono", False, False),
    Face("DejaVuSansMono-Bold", "mono", True, False),
    Face("DejaVuSansMono-Oblique", "mono", False, True),
    Face("DejaVuSansMono-BoldOblique", "mono", True, True),
    Face("DejaVuSerif", "serif", False, False),
    Face("DejaVuSerif-Bold", "serif", True, False),
    Face("DejaVuSerif-Italic", "serif", False, True),
    Face("DejaVuSerif-BoldItalic", "serif", True, True),
    Face("STIXGeneral", "stix", False, False),
    Face("STIXGeneralBol", "stix", True, False),
    Face("STIXGeneralItalic", "stix", False, True),
    Face("STIXGeneralBolIta", "stix", True, True),
)


class Ink(NamedTuple):
    """A drawn character, cropped to its ink box.

    Attributes:
        coverage: uint8 `[height, width]`, 255 where ink covers the pixel fully.
        top: Row of the box's first line relative to the baseline (negative: above it).
    """

    coverage: NDArray[np.uint8]
    top: int


def face(name: str) -> Face:
    """Return the face of that name.

    Raises:
        ValueError: `name` is unknown.
    """
    for candidate in FACES:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in FACES)
    raise ValueError(f"unknown face {name!r}: choose from {known}")


@cache
def drawable(name: str) -> tuple[str, ...]:
    """Return the named characters that a face draws with ink, by code point.

    Marks, controls, spaces and unassigned code points are left out, and so are glyphs without ink.

    Raises:
        FileNotFoundError: matplotlib is not installed or lacks the face.
    """
    from matplotlib.ft2font import FT2Font

    code_points = FT2Font(str(_path(name))).get_charmap()
    named = (chr(code_point) for code_point in sorted(code_points))
    return tuple(
        character
        for character in named
        if unicodedata.category(character)[0] not in "MCZ"
        and unicodedata.name(character, "")
        and _has_ink(name, character)
    )


@cache
def drawable_in_all_faces() -> tuple[str, ...]:
    """Return the 727 or so characters that every face draws, by code point."""
    return tuple(sorted(set.intersection(*(set(drawable(face.name)) for face in FACES))))


def draw(name: str, character: str, pixels: int) -> Ink:
    """Draw one character with an em of `pixels` pixels."""
    font = _font(name, pixels)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character, anchor="ls"))
    canvas = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(canvas).text((-left, -top), character, fill=255, font=font, anchor="ls")
    return Ink(np.asarray(canvas), top)


def fit(name: str, character: str, pixels: int, side: int) -> Ink:
    """Draw one character at `pixels` or the largest smaller em at which it fits `side` x `side`."""
    ink = draw(name, character, pixels)
    while max(ink.coverage.shape) > side and pixels > 1:
        pixels = max(1, min(pixels - 1, pixels * side // max(ink.coverage.shape)))
        ink = draw(name, character, pixels)
    return ink


def _has_ink(name: str, character: str) -> bool:
    left, top, right, bottom = _font(name, _PROBE_PX).getbbox(character)
    return right > left and bottom > top


@cache
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    # The default layout engine (raqm) fails on some of these characters.
    return ImageFont.truetype(_path(name), pixels, layout_engine=ImageFont.Layout.BASIC)


def _path(name: str) -> str:
    return str(shipped_file("matplotlib", f"mpl-data/fonts/ttf/{face(name).name}.ttf"))
