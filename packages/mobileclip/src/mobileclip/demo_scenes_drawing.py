"""Pixels of composed scenes: shapes with a texture on a noisy grey ground. Free of torch.

Objects are drawn at four times the resolution and averaged. Lengths are shares of the image's side.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mobileclip.demo_scenes import COUNTS, Scene

Floats = NDArray[np.floating]

FINE = 4
PITCH = 0.22
RADIUS = (0.08, 0.1)
JITTER = 0.02
TILT = 0.2
"""Largest rotation, radians: a square stays one, and an arrow points up."""
CENTRES = {
    "top left": (0.29, 0.29),
    "top right": (0.29, 0.71),
    "bottom left": (0.71, 0.29),
    "bottom right": (0.71, 0.71),
    "centre": (0.5, 0.5),
}
INKS = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 215),
    "yellow": (235, 215, 50),
    "purple": (150, 35, 190),
    "orange": (240, 135, 30),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
HOLE = 0.55
"""Inner radius of a ring."""


class _Tile(NamedTuple):
    """An object on `[T, T]` pixels: how much of a pixel it covers, and how much of that is ink."""

    cover: Floats
    ink: Floats


def draw(scene: Scene, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Return uint8 `[size, size, 3]`; everything but the composition is drawn from `rng`."""
    image = _ground(rng, size)
    ink = np.array(INKS[scene.colour], np.float32) + rng.uniform(-12, 12, 3)
    gap = ink + 0.7 * ((0 if ink.mean() > 128 else 255) - ink)
    radius = rng.uniform(*RADIUS) * size
    for row, column in _centres(scene, rng):
        tile = _tile(scene, rng, radius)
        top, left = (round(place * size - len(tile.cover) / 2) for place in (row, column))
        _paint(image, tile, ink, gap, top=top, left=left)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _ground(rng: np.random.Generator, size: int) -> Floats:
    """Return a grey that rises along a random direction, with noise."""
    grey, tint, slope = rng.uniform(90, 150), rng.normal(0, 6, 3), rng.uniform(-20, 20, 2)
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    plane = slope[0] * line[:, None] + slope[1] * line[None]
    noise = rng.normal(0, 6, (size, size))
    return (grey + (plane + noise)[..., None] + tint).astype(np.float32)


def _centres(scene: Scene, rng: np.random.Generator) -> Floats:
    """Return row and column of each object: cells of a square of four about the place."""
    cells = PITCH * (np.array([(0, 0), (0, 1), (1, 0), (1, 1)]) - 0.5)
    chosen = cells[rng.permutation(len(cells))[: COUNTS.index(scene.count) + 1]]
    middle = np.array(CENTRES[scene.place]) + rng.uniform(-JITTER, JITTER, 2)
    return chosen - (chosen.min(axis=0) + chosen.max(axis=0)) / 2 + middle


def _tile(scene: Scene, rng: np.random.Generator, radius: float) -> _Tile:
    side = 2 * int(np.ceil(radius))
    inside = _mask(scene.shape, side, radius, turn=rng.uniform(-TILT, TILT))
    inked = inside * _texture(scene.texture, rng, side, radius)
    cover = _average(inside)
    return _Tile(cover, _average(inked) / np.maximum(cover, 1e-6))


def _mask(shape: str, side: int, radius: float, *, turn: float) -> Floats:
    canvas = Image.new("L", (side * FINE, side * FINE))
    pen = ImageDraw.Draw(canvas)
    cos, sin = np.cos(turn), np.sin(turn)
    outline = outlines()[shape] @ np.array([[cos, sin], [-sin, cos]])
    middle = side * FINE / 2

    def fill(scale: float, value: int) -> None:
        pen.polygon([(x, y) for x, y in (middle + scale * FINE * outline).tolist()], fill=value)

    fill(radius, 1)
    if shape == "ring":
        fill(radius * HOLE, 0)
    return np.asarray(canvas, dtype=np.float32)


@cache
def outlines() -> dict[str, Floats]:
    """Return the outline of each shape, `[n, 2]` of x and y within the unit circle, y downwards."""
    circle = _around(np.ones(48))
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    heart = np.stack(
        [
            16 * np.sin(t) ** 3,
            -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2.5,
        ],
        axis=1,
    )
    a, b = 0.33, 0.94
    cross = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    cross += [(a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    arrow = [(0, -1), (0.8, 0), (0.3, 0), (0.3, 0.95), (-0.3, 0.95), (-0.3, 0), (-0.8, 0)]
    return {
        "circle": circle,
        "ring": circle,
        "triangle": _around(np.ones(3)),
        "square": _around(np.ones(4), first=np.pi / 4),
        "star": _around(np.tile([1.0, 0.42], 5)),
        "cross": np.array(cross),
        "heart": heart / 18.5,
        "arrow": np.array(arrow),
    }


def _around(radii: Floats, *, first: float = 0.0) -> Floats:
    """Return points at equal angles, the first one upwards and then turned by `first`."""
    angle = first + 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.sin(angle), -radii * np.cos(angle)], axis=1)


def _texture(name: str, rng: np.random.Generator, side: int, radius: float) -> Floats:
    """Return 1 where there is ink and 0 in the gaps, at the fine resolution."""
    turn, shift = rng.uniform(0, np.pi), rng.random(2)
    if name == "plain":
        return np.ones((side * FINE, side * FINE), np.float32)
    line = (np.arange(side * FINE, dtype=np.float32) + 0.5) / FINE / (0.5 * radius)
    x, y = line[None], line[:, None]
    u = np.cos(turn) * x + np.sin(turn) * y + shift[0]
    v = np.cos(turn) * y - np.sin(turn) * x + shift[1]
    if name == "striped":
        inked = u % 1 < 0.5
    elif name == "dotted":
        inked = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 > 0.3**2
    else:
        inked = (np.floor(u) + np.floor(v)) % 2 == 0
    return inked.astype(np.float32)


def _average(fine: Floats) -> Floats:
    side = len(fine) // FINE
    return fine.reshape(side, FINE, side, FINE).mean(axis=(1, 3))


def _paint(
    image: Floats,
    tile: _Tile,
    ink: Floats,
    gap: Floats,
    *,
    top: int,
    left: int,
) -> None:
    side = len(tile.cover)
    assert min(top, left) >= 0
    assert max(top, left) + side <= len(image), "an object leaves the image"
    below = image[top : top + side, left : left + side]
    cover, inked = tile.cover[..., None], tile.ink[..., None]
    below += cover * (inked * ink + (1 - inked) * gap - below)
