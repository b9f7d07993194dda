"""Originals that are always there: scikit-learn's digits and characters of many faces. No torch.

`digits:train`, `digits:test` are 60 % and 40 % of the 1,797 handwritten digits, with noise, as in
the pilot of the paper's small experiment (spec 7a); `digits:train:0-4` has the first five classes.
`glyphs:train`, `glyphs:test` are characters that all of matplotlib's faces draw, in eleven faces
and in five others; `glyphs:train:300` has the first 300 characters, `glyphs:train:300:0-149` the
first half of these. Labels do not depend on which classes are taken.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastfill.originals import Kind, OriginalError, Source, digest
from tenfold import keyed

NOISE = 0.15
"""Standard deviation of the digits' noise, in units of full ink."""

DIGITS_RANGE = (-0.5, 1.5)
"""Ink that pixels 0 and 255 stand for: noise about 0 and 1 is kept, not cut off."""

TRAIN_SHARE = 0.6
GLYPH_SIZE = 32
TEST_FACES = (
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralItalic",
)
_SPLITS = ("train", "test")


class _Drawings(NamedTuple):
    """Images uint8 `[n, H, W]` with ids, labels int64 `[n]` and the names of all classes."""

    images: NDArray[np.uint8]
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def of_classes(self, first: int, last: int) -> "_Drawings":
        rows = np.flatnonzero((self.labels >= first) & (self.labels <= last))
        ids = tuple(self.ids[row] for row in rows)
        return _Drawings(self.images[rows], ids, self.labels[rows], self.names)


@dataclass(frozen=True)
class _Demo:
    """How a demo is drawn, and how many numbers may follow its split."""

    draw: Callable[..., _Drawings]
    has_count: bool


class DemoImages(Source):
    """Small grey images as RGB; ids tell class-free facts, such as the face and the code point."""

    kind: Kind = "image"

    def __init__(self, drawings: _Drawings, *, name: str) -> None:
        super().__init__(name)
        self._drawings = drawings
        self._row_of = {id: row for row, id in enumerate(drawings.ids)}

    def ids(self) -> Sequence[str]:
        """Return the ids in the order of the split."""
        return self._drawings.ids

    def load(self, id: str) -> Image.Image:
        """Return an image.

        Raises:
            OriginalError: There is no such id.
        """
        if id not in self._row_of:
            raise OriginalError(id, f"is missing from {self.name}")
        return Image.fromarray(self._drawings.images[self._row_of[id]]).convert("RGB")

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image."""
        return self._drawings.labels

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, those that are left out as well."""
        return self._drawings.names

    def fingerprint(self) -> str:
        """Return the digest of ids and pixels."""
        pixels = self._drawings.images.tobytes().hex()
        return digest([*self._drawings.ids, pixels])


def open_demo(spec: str) -> DemoImages:
    """Open demo data by its name.

    Raises:
        ValueError: The name is malformed, or asks for more than there is.
    """
    name, *parts = spec.split(":")
    demo = DEMOS[name]
    if not parts or parts[0] not in _SPLITS or len(parts) > 2 + demo.has_count:
        count = "[:<characters>]" if demo.has_count else ""
        raise ValueError(
            f"{spec} is no demo data, expected {name}:<{' or '.join(_SPLITS)}>{count}[:<a>-<b>]"
        )
    split, *numbers = parts
    counts = [_count(numbers.pop(0), spec)] if demo.has_count and numbers else []
    drawings = demo.draw(split, *counts)
    if numbers:
        drawings = drawings.of_classes(*_classes(numbers[0], spec, len(drawings.names)))
    return DemoImages(drawings, name=spec)


@cache
def _digits(split: str) -> _Drawings:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = keyed.generator("digits split").permutation(len(digits.target))
    cut = round(TRAIN_SHARE * len(order))
    rows = np.sort(order[:cut] if split == "train" else order[cut:])
    low, high = DIGITS_RANGE
    noisy = np.stack([digits.images[row] / 16 + _noise(int(row)) for row in rows])
    pixels = np.rint(np.clip((noisy - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    ids = tuple(f"digit-{row:04d}" for row in rows)
    return _Drawings(pixels, ids, digits.target[rows].astype(np.int64), tuple("0123456789"))


def _noise(row: int) -> NDArray[np.float64]:
    return keyed.generator("digits noise", row).normal(scale=NOISE, size=(8, 8))


@cache
def _glyphs(split: str, count: int | None = None) -> _Drawings:
    from tenfold.demo_data import characters, glyphs
    from tenfold.demo_data.glyph_faces import FACES, drawable_in_all_faces

    texts = drawable_in_all_faces()
    count = len(texts) if count is None else count
    if not 2 <= count <= len(texts):
        raise ValueError(f"glyphs have 2..{len(texts)} characters, got {count}")
    faces = [face.name for face in FACES if (face.name in TEST_FACES) == (split == "test")]
    ids = np.array([characters.character_ids()[text] for text in texts[:count]])
    drawn = glyphs.load("all", size=GLYPH_SIZE, faces=faces)
    drawn = drawn.select(np.isin(drawn.character_ids, ids))
    alphabet = characters.alphabet()
    names = tuple(
        f"{FACES[face].name}-{ord(alphabet[character].text):04x}"
        for face, character in zip(drawn.face_ids, drawn.character_ids, strict=True)
    )
    labels = np.searchsorted(ids, drawn.character_ids).astype(np.int64)
    return _Drawings(drawn.images, names, labels, tuple(alphabet[id].caption for id in ids))


def _count(text: str, spec: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{spec}: {text!r} must be a number of characters")
    return int(text)


def _classes(text: str, spec: str, num_classes: int) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    first, last = map(int, found.groups()) if found else (1, 0)
    if not first <= last < num_classes:
        raise ValueError(
            f"{spec}: {text!r} must be two classes <a>-<b> of 0..{num_classes - 1}, both included"
        )
    return first, last


DEMOS = {"digits": _Demo(_digits, has_count=False), "glyphs": _Demo(_glyphs, has_count=True)}
"""Demo data by name."""
