"""Image-caption pairs: 52,572 drawings of 7,144 characters in 16 faces, with their Unicode names.

Pair (face, character) depends on `(seed, size, face, character)` only, so a subset has the same
pixels as the whole. Held out are two faces, and 5 % of the characters in all faces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import features

from tenfold import keyed
from tenfold.demo_data import characters, glyph_faces, photos, timeline
from tenfold.demo_data.cache import Recipe, fetch, progress
from tenfold.demo_data.characters import Character
from tenfold.demo_data.glyph_faces import FACES, Face, Ink

Background = Literal["plain", "photo"]
Split = Literal["train", "heldout_faces", "heldout_characters", "all"]
Label = Literal[
    "character",
    "face",
    "family",
    "weight",
    "slant",
    "script",
    "block",
    "category",
    "base",
    "diacritic",
    "case",
    "step",
]

SIZES = range(16, 129)

_BUILDER_VERSION = 1
# Parts of the image's side: tall enough for small letters, low enough for stacked accents.
_PLAIN_EM = 0.7
_PLAIN_BASELINE = 0.74
_PHOTO_EM = (0.45, 0.85)
# The most conspicuous of so many colours is taken.
_COLOUR_DRAWS = 8


class Labels(NamedTuple):
    """Class labels of the pairs.

    Attributes:
        ids: int64 `[N]`, -1 where the label does not apply.
        names: The classes, sorted; the same for every split and subset.
    """

    ids: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Glyphs:
    """Aligned arrays of pairs, ordered by face and code point.

    Attributes:
        images: uint8 `[N, S, S]`, ink 255 on 0 (`plain`), or `[N, S, S, 3]` (`photo`).
        character_ids: int32 `[N]`, indices into `characters.alphabet()`.
        face_ids: int32 `[N]`, indices into `glyph_faces.FACES`.
        fingerprint: Hex SHA-256 of what made the images.
    """

    images: NDArray[np.uint8]
    character_ids: NDArray[np.int32]
    face_ids: NDArray[np.int32]
    fingerprint: str

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.images)

    @property
    def captions(self) -> list[str]:
        """The lower-case Unicode name of each pair's character."""
        alphabet = characters.alphabet()
        return [alphabet[index].caption for index in self.character_ids]

    def labels(self, label: Label) -> Labels:
        """Return one class label of every pair.

        Raises:
            ValueError: `label` is unknown.
        """
        if label not in get_args(Label):
            known = ", ".join(get_args(Label))
            raise ValueError(f"unknown label {label!r}: choose one of {known}")
        values, of_face = _label_values(label)
        names = tuple(sorted(set(values) - {""}))
        table = np.array([names.index(value) if value else -1 for value in values])
        return Labels(table[self.face_ids if of_face else self.character_ids], names)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> "Glyphs":
        """Return the pairs that a mask or an index array names."""
        return Glyphs(
            images=self.images[rows],
            character_ids=self.character_ids[rows],
            face_ids=self.face_ids[rows],
            fingerprint=self.fingerprint,
        )


def load(
    split: Split = "train",
    *,
    size: int = 32,
    background: Background = "plain",
    seed: int = 0,
    faces: Sequence[str] | None = None,
    limit: int | None = None,
) -> Glyphs:
    """Return drawn pairs, from the cache when they were drawn before.

    The splits `train`, `heldout_faces` (training characters in held-out faces) and
    `heldout_characters` (in any face) are disjoint and together are `all`.

    Args:
        split: Which pairs.
        size: Side of the images in pixels, 16 to 128.
        background: `plain`: grey, one size, standing on a common baseline; `photo`: seeded colour,
            scale and place over a crop of a photograph.
        seed: Seed of the `photo` drawings; `plain` has nothing random.
        faces: Names of faces to draw instead of all 16.
        limit: Draw only so many pairs, evenly spread over all of them (before the split).

    Raises:
        FileNotFoundError: A library that carries the faces or photographs is not installed.
        ValueError: An argument is out of range.
    """
    _check(split, size=size, background=background, limit=limit)
    names = tuple(face.name for face in FACES) if faces is None else tuple(faces)
    pairs = _pairs(names, limit)
    recipe = _recipe(size, background, seed, names, limit)
    images, fingerprint = fetch(
        recipe, build=lambda file: _draw_all(file, pairs, size, background, seed), read=_read
    )
    drawn = Glyphs(
        images=images,
        character_ids=np.array([pair.character_id for pair in pairs], dtype=np.int32),
        face_ids=np.array([pair.face_id for pair in pairs], dtype=np.int32),
        fingerprint=fingerprint,
    )
    if split == "all":
        return drawn
    chosen = [split_of(FACES[pair.face_id], pair.character) == split for pair in pairs]
    return drawn.select(np.array(chosen, dtype=bool))


def split_of(face: Face, character: Character) -> Split:
    """Return the split of a pair: `train`, `heldout_faces` or `heldout_characters`."""
    if character.held_out:
        return "heldout_characters"
    return "heldout_faces" if face.held_out else "train"


class _Pair(NamedTuple):
    face_id: int
    character_id: int

    @property
    def character(self) -> Character:
        return characters.alphabet()[self.character_id]


def _pairs(names: Sequence[str], limit: int | None) -> list[_Pair]:
    face_ids = sorted({FACES.index(glyph_faces.face(name)) for name in names})
    ids = characters.character_ids()
    pairs = [
        _Pair(face_id, ids[text])
        for face_id in face_ids
        for text in glyph_faces.drawable(FACES[face_id].name)
    ]
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[i * len(pairs) // limit] for i in range(limit)]


def _recipe(
    size: int, background: Background, seed: int, names: Sequence[str], limit: int | None
) -> Recipe:
    random = {"seed": seed} if background == "photo" else {}
    return Recipe(
        name=f"glyphs-{background}-{size}",
        file_name="glyphs.npz",
        version=_BUILDER_VERSION,
        libraries=("matplotlib", *photos.LIBRARIES),
        parameters={
            "size": size,
            "faces": sorted(set(names)),
            "limit": limit,
            "freetype": features.version("freetype2"),
            **random,
        },
    )


def _draw_all(
    file: IO[bytes], pairs: Sequence[_Pair], size: int, background: Background, seed: int
) -> None:
    shape = (len(pairs), size, size) if background == "plain" else (len(pairs), size, size, 3)
    images = np.zeros(shape, dtype=np.uint8)
    title = f"drawing glyphs ({background}, {size} px)"
    for row, pair in enumerate(progress(pairs, total=len(pairs), title=title)):
        face, text = FACES[pair.face_id].name, pair.character.text
        if background == "plain":
            _draw_plain(images[row], face, text)
        else:
            images[row] = _draw_photo(face, text, size, seed)
    # Photographs do not deflate.
    save = np.savez_compressed if background == "plain" else np.savez
    save(file, images=images)


def _draw_plain(image: NDArray[np.uint8], face: str, text: str) -> None:
    size = len(image)
    ink = glyph_faces.fit(face, text, round(_PLAIN_EM * size), size - 2)
    height, width = ink.coverage.shape
    # Above or below the line tells a comma from an apostrophe; only outliers are moved inside.
    top = min(max(round(_PLAIN_BASELINE * size) + ink.top, 1), size - 1 - height)
    left = (size - width) // 2
    image[top : top + height, left : left + width] = ink.coverage


def _draw_photo(face: str, text: str, size: int, seed: int) -> NDArray[np.uint8]:
    rng = keyed.generator("glyph", seed, size, face, ord(text))
    image = photos.crop(rng, size).copy()
    ink = glyph_faces.fit(face, text, round(rng.uniform(*_PHOTO_EM) * size), size - 2)
    height, width = ink.coverage.shape
    top = int(rng.integers(size - height + 1))
    left = int(rng.integers(size - width + 1))
    paint(rng, image, ink, top=top, left=left)
    return image


def paint(
    rng: np.random.Generator, image: NDArray[np.uint8], ink: Ink, *, top: int, left: int
) -> None:
    """Blend ink into an image `[H, W, 3]` in place, in a random colour that stands out there."""
    height, width = ink.coverage.shape
    window = image[top : top + height, left : left + width]
    colours = rng.integers(0, 256, size=(_COLOUR_DRAWS, 3))
    distances = np.abs(colours - window.mean(axis=(0, 1))).sum(axis=1)
    alpha = ink.coverage[..., None].astype(np.float32) / 255
    window[:] = np.rint(window * (1 - alpha) + colours[distances.argmax()] * alpha)


def _read(path: Path) -> NDArray[np.uint8]:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["images"]


@cache
def _label_values(label: Label) -> tuple[list[str], bool]:
    if label == "face":
        return [face.name for face in FACES], True
    if label == "family":
        return [face.family for face in FACES], True
    if label == "weight":
        return ["bold" if face.bold else "regular" for face in FACES], True
    if label == "slant":
        return ["italic" if face.italic else "upright" for face in FACES], True
    alphabet = characters.alphabet()
    if label == "character":
        return [character.text for character in alphabet], False
    if label == "step":
        return [str(timeline.STEPS[timeline.step(item.text)]) for item in alphabet], False
    return [getattr(character, label) for character in alphabet], False


def _check(split: str, *, size: int, background: str, limit: int | None) -> None:
    for name, value, choices in (
        ("split", split, get_args(Split)),
        ("background", background, get_args(Background)),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if size not in SIZES:
        raise ValueError(f"size must be {SIZES.start} to {SIZES.stop - 1} pixels, got {size}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}; leave it out to draw all pairs")
