"""Scenes with exact dense labels: several glyphs over a photograph, near ones over far ones.

Scene i depends on `(seed, size, i)` and the arguments only; other seeds give held-out scenes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import features

from tenfold import keyed
from tenfold.demo_data import characters, glyph_faces, photos
from tenfold.demo_data.cache import Recipe, fetch, progress
from tenfold.demo_data.glyph_faces import FACES, Ink
from tenfold.demo_data.glyphs import SIZES, paint

# Twenty objects that a person tells apart at 20 pixels.
VOCABULARY = tuple("♚♛♜♝♞♟♠♣♥♦☀☂☃☎☠★✂✈✉⚓")

_BUILDER_VERSION = 1
_SOLID = 128
_MIN_VISIBLE = 0.5
_TRIES = 8
_DEPTHS = (0.1, 0.9)
_MAX_OBJECTS = 16


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """One scene of K objects, the nearest first.

    Attributes:
        image: uint8 `[S, S, 3]`.
        segments: uint8 `[S, S]`: 0 the photograph, k + 1 where object k is visible.
        boxes: int32 `[K, 4]`: left, top, right, bottom of the visible part, right and bottom
            exclusive.
        classes: int32 `[K]`: indices into the vocabulary.
        depths: float32 `[K]`, ascending between 0.1 (near) and 0.9; the photograph lies at 1.
        caption: The objects' Unicode names, the nearest first, with commas between.
    """

    image: NDArray[np.uint8]
    segments: NDArray[np.uint8]
    boxes: NDArray[np.int32]
    classes: NDArray[np.int32]
    depths: NDArray[np.float32]
    caption: str

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Visible masks, bool `[K, S, S]`."""
        return self.segments == np.arange(1, len(self.classes) + 1)[:, None, None]

    @property
    def class_map(self) -> NDArray[np.int32]:
        """Class of each pixel, int32 `[S, S]`, -1 on the photograph."""
        return np.concatenate([np.array([-1], np.int32), self.classes])[self.segments]

    @property
    def depth_map(self) -> NDArray[np.float32]:
        """Depth of each pixel, float32 `[S, S]`, 1 on the photograph."""
        return np.concatenate([np.array([1], np.float32), self.depths])[self.segments]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scenes:
    """Aligned arrays of N scenes, padded to K objects; `scenes[i]` is the plain `Scene`.

    Attributes:
        images: uint8 `[N, S, S, 3]`.
        segments: uint8 `[N, S, S]`.
        boxes: int32 `[N, K, 4]`, padded with 0.
        classes: int32 `[N, K]`, padded with -1.
        depths: float32 `[N, K]`, padded with NaN.
        vocabulary: The characters that the classes stand for.
        fingerprint: Hex SHA-256 of what made the scenes.
    """

    images: NDArray[np.uint8]
    segments: NDArray[np.uint8]
    boxes: NDArray[np.int32]
    classes: NDArray[np.int32]
    depths: NDArray[np.float32]
    vocabulary: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)

    def __getitem__(self, index: int) -> Scene:
        """Return one scene without the padding."""
        objects = self.classes[index] >= 0
        classes = self.classes[index][objects]
        return Scene(
            image=self.images[index],
            segments=self.segments[index],
            boxes=self.boxes[index][objects],
            classes=classes,
            depths=self.depths[index][objects],
            caption=_caption(classes, self.vocabulary),
        )

    @property
    def captions(self) -> list[str]:
        """The caption of each scene."""
        return [_caption(row[row >= 0], self.vocabulary) for row in self.classes]


def load(
    count: int,
    *,
    seed: int = 0,
    size: int = 64,
    max_objects: int = 4,
    vocabulary: Sequence[str] = VOCABULARY,
    faces: Sequence[str] | None = None,
) -> Scenes:
    """Return scenes 0 to `count - 1`, from the cache when they were composed before.

    The other arguments are those of `compose`.

    Raises:
        FileNotFoundError: A library that carries the faces or photographs is not installed.
        ValueError: An argument is out of range, or no face draws a character of the vocabulary.
    """
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    names = _face_names(faces)
    _faces_by_character(size, max_objects, tuple(vocabulary), names)

    def build(file: IO[bytes]) -> None:
        title = f"composing scenes ({size} px)"
        composed = [
            compose(
                index,
                seed=seed,
                size=size,
                max_objects=max_objects,
                vocabulary=vocabulary,
                faces=names,
            )
            for index in progress(range(count), total=count, title=title)
        ]
        np.savez(file, allow_pickle=False, **_padded(composed, max_objects))

    recipe = Recipe(
        name=f"scenes-{size}",
        file_name="scenes.npz",
        version=_BUILDER_VERSION,
        libraries=("matplotlib", *photos.LIBRARIES),
        parameters={
            "count": count,
            "seed": seed,
            "size": size,
            "max_objects": max_objects,
            "vocabulary": "".join(vocabulary),
            "faces": list(names),
            "freetype": features.version("freetype2"),
        },
    )
    arrays, fingerprint = fetch(recipe, build=build, read=_read)
    return Scenes(**arrays, vocabulary=tuple(vocabulary), fingerprint=fingerprint)


def compose(
    index: int,
    *,
    seed: int = 0,
    size: int = 64,
    max_objects: int = 4,
    vocabulary: Sequence[str] = VOCABULARY,
    faces: Sequence[str] | None = None,
) -> Scene:
    """Compose one scene.

    Each object shows at least half of its ink; nearer ones are larger (within 10 %).

    Args:
        index: Number of the scene.
        seed: Seed of all scenes.
        size: Side of the image in pixels, 16 to 128.
        max_objects: At most so many objects, at least one.
        vocabulary: The characters to draw from, one class each.
        faces: Names of the faces to draw with; all but the held-out ones when left out.

    Raises:
        FileNotFoundError: A library that carries the faces or photographs is not installed.
        ValueError: An argument is out of range, or no face draws a character of the vocabulary.
    """
    vocabulary = tuple(vocabulary)
    choices = _faces_by_character(size, max_objects, vocabulary, _face_names(faces))
    rng = keyed.generator("scene", seed, size, index)
    image = photos.crop(rng, size).copy()
    placed, segments = _place(rng, size, max_objects, vocabulary, choices)
    for item in reversed(placed):
        paint(rng, image, item.ink, top=item.top, left=item.left)
    classes = np.array([item.class_id for item in placed], dtype=np.int32)
    return Scene(
        image=image,
        segments=segments,
        boxes=_boxes(segments, len(placed)),
        classes=classes,
        depths=np.array([item.depth for item in placed], dtype=np.float32),
        caption=_caption(classes, vocabulary),
    )


class _Placed(NamedTuple):
    class_id: int
    depth: float
    ink: Ink
    top: int
    left: int


def _place(
    rng: np.random.Generator,
    size: int,
    max_objects: int,
    vocabulary: tuple[str, ...],
    choices: Mapping[str, Sequence[str]],
) -> tuple[list[_Placed], NDArray[np.uint8]]:
    # From near to far: what is visible is then known at once.
    segments = np.zeros((size, size), dtype=np.uint8)
    placed: list[_Placed] = []
    for depth in sorted(rng.uniform(*_DEPTHS, size=rng.integers(1, max_objects + 1))):
        for _ in range(_TRIES):
            class_id = int(rng.integers(len(vocabulary)))
            faces = choices[vocabulary[class_id]]
            em = (0.3 + 0.6 * (1 - depth)) * size * rng.uniform(0.9, 1.1)
            face = faces[int(rng.integers(len(faces)))]
            ink = glyph_faces.fit(face, vocabulary[class_id], round(em), size)
            height, width = ink.coverage.shape
            top, left = (int(rng.integers(size - side + 1)) for side in (height, width))
            solid = ink.coverage >= _SOLID
            window = segments[top : top + height, left : left + width]
            visible = solid & (window == 0)
            if solid.any() and visible.sum() >= _MIN_VISIBLE * solid.sum():
                placed.append(_Placed(class_id, depth, ink, top, left))
                window[visible] = len(placed)
                break
    return placed, segments


def _boxes(segments: NDArray[np.uint8], count: int) -> NDArray[np.int32]:
    boxes = np.zeros((count, 4), dtype=np.int32)
    for index in range(count):
        rows, columns = np.nonzero(segments == index + 1)
        boxes[index] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return boxes


def _caption(classes: NDArray[np.int32], vocabulary: Sequence[str]) -> str:
    # No Unicode name has a comma; "skull and crossbones" has an "and".
    return ", ".join(characters.describe(vocabulary[int(index)]).caption for index in classes)


def _padded(composed: list[Scene], max_objects: int) -> dict[str, NDArray[Any]]:
    count = len(composed)
    boxes = np.zeros((count, max_objects, 4), dtype=np.int32)
    classes = np.full((count, max_objects), -1, dtype=np.int32)
    depths = np.full((count, max_objects), np.nan, dtype=np.float32)
    for row, item in enumerate(composed):
        objects = len(item.classes)
        boxes[row, :objects] = item.boxes
        classes[row, :objects] = item.classes
        depths[row, :objects] = item.depths
    return {
        "images": np.stack([item.image for item in composed]),
        "segments": np.stack([item.segments for item in composed]),
        "boxes": boxes,
        "classes": classes,
        "depths": depths,
    }


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _face_names(faces: Sequence[str] | None) -> tuple[str, ...]:
    if faces is None:
        return tuple(face.name for face in FACES if not face.held_out)
    return tuple(faces)


@cache
def _faces_by_character(
    size: int, max_objects: int, vocabulary: tuple[str, ...], faces: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    if size not in SIZES:
        raise ValueError(f"size must be {SIZES.start} to {SIZES.stop - 1} pixels, got {size}")
    if not 1 <= max_objects <= _MAX_OBJECTS:
        raise ValueError(f"max_objects must be 1 to {_MAX_OBJECTS}, got {max_objects}")
    if not vocabulary or len(set(vocabulary)) != len(vocabulary):
        raise ValueError(f"vocabulary must be distinct characters, got {vocabulary!r}")
    drawable = {face: set(glyph_faces.drawable(face)) for face in faces}
    choices = {text: tuple(face for face in faces if text in drawable[face]) for text in vocabulary}
    for text, able in choices.items():
        if not able:
            raise ValueError(f"none of the faces {', '.join(faces)} draws {text!r}: leave it out")
    return choices
