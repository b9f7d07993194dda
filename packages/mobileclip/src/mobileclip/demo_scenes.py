"""Composed scenes and what is said of them: the pairs of `reproduce --scale gpu` (spec 7b).

A scene is a count, colour, texture, shape and place. A tenth of the compositions are held out: they
are neither drawn nor named in any part that is trained on. A web caption names the composition, or
another, or nothing; the captioner tells parts of it and never the whole. Free of torch.

Not here: pixels (`demo_scenes_drawing`) and files (`demo_scenes_shards`).
"""

import itertools
from dataclasses import astuple, dataclass
from functools import cache
from typing import Literal

import numpy as np

from mobileclip.demo_pairs import EMPTY_CAPTIONS
from tenfold import keyed

Part = Literal["web", "teaching", "test", "retrieval"]
"""Student's and teachers' pairs; held-out compositions; new drawings of any composition."""

COUNTS = ("one", "two", "three", "four")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
TEXTURES = ("plain", "striped", "dotted", "chequered")
SHAPES = ("circle", "ring", "triangle", "square", "star", "cross", "heart", "arrow")
PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
VALUES = (COUNTS, COLOURS, TEXTURES, SHAPES, PLACES)

WRONG, EMPTY = 0.15, 0.15
"""Shares of web captions that name another composition, and that are without content."""
ONE_IN = 10
"""One composition in so many is held out."""
MISSEEN = 0.03
"""Probability with which the captioner sees another value of an attribute."""
TEMPLATES = ("{}", "a picture of {}", "this shows {}")


@dataclass(frozen=True)
class Scene:
    """One composition; its values are those of `VALUES`, in their order."""

    count: str
    colour: str
    texture: str
    shape: str
    place: str

    @property
    def name(self) -> str:
        """What a full caption says."""
        return (
            f"{self.count} {self.colour} {self.texture} {_noun(self.shape, self.count)} "
            f"at the {self.place}"
        )

    @property
    def is_held_out(self) -> bool:
        """Whether no training part may show or name it."""
        return keyed.one_in(ONE_IN, "held-out scene", *astuple(self))


@cache
def scenes(*, held_out: bool) -> tuple[Scene, ...]:
    """Return the compositions that are held out, or those that are not."""
    every = itertools.starmap(Scene, itertools.product(*VALUES))
    return tuple(scene for scene in every if scene.is_held_out == held_out)


def draw_scene(part: Part, index: int, *, seed: int) -> Scene:
    """Return the composition of drawing `index` of a part; those of `test` come in turn."""
    held_out = scenes(held_out=True)
    if part == "test":
        return held_out[index % len(held_out)]
    known = scenes(held_out=False)
    choices = (*known, *held_out) if part == "retrieval" else known
    return choices[_generator("composition", part, index, seed).integers(len(choices))]


def real_caption(part: Part, index: int, scene: Scene, *, seed: int) -> str:
    """Return what the web says of a scene, and elsewhere its name.

    `teaching` has the name in one of `TEMPLATES`, the parts to measure on have it bare: captions of
    one meaning are one text there.
    """
    if part in ("test", "retrieval"):
        return scene.name
    rng = _generator("real caption", part, index, seed)
    luck = rng.random() if part == "web" else 1.0
    if WRONG <= luck < WRONG + EMPTY:
        return str(rng.choice(EMPTY_CAPTIONS))
    named = scene
    if luck < WRONG:
        known = scenes(held_out=False)
        named = known[(known.index(scene) + int(rng.integers(1, len(known)))) % len(known)]
    return str(rng.choice(TEMPLATES)).format(named.name)


def synthetic_captions(part: Part, index: int, scene: Scene, *, seed: int) -> list[str]:
    """Return what the captioner tells: two or three attributes a caption, of what it sees."""
    seen = _misseen(scene, _generator("captioner", part, index, seed))
    one, many = _noun(seen.shape, "one"), _noun(seen.shape, seen.count)
    return [
        f"a {seen.colour} {seen.texture} {one}",
        f"{seen.count} {many} in a picture",
        f"something {seen.colour} at the {seen.place}",
        f"a {seen.texture} {one} at the {seen.place}",
        f"{seen.count} {_noun('thing', seen.count)}, {seen.colour} and {seen.texture}",
    ]


def _misseen(scene: Scene, rng: np.random.Generator) -> Scene:
    values = []
    for value, others in zip(astuple(scene), VALUES, strict=True):
        step = int(rng.integers(1, len(others))) if rng.random() < MISSEEN else 0
        values.append(others[(others.index(value) + step) % len(others)])
    return Scene(*values)


def _noun(shape: str, count: str) -> str:
    if count == COUNTS[0]:
        return shape
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _generator(purpose: str, part: str, index: int, seed: int) -> np.random.Generator:
    return keyed.generator(f"scene {purpose}", seed, part, index)
