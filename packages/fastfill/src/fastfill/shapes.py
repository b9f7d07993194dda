"""Procedural images for `reproduce --scale gpu`: shapes x textures x colours (spec 7b).

They are drawn where they are used, a batch at a time and from keys alone: there is nothing to
store, and the same row is the same image on any device but for rounding.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold import keyed

SHAPES = ("disc", "ring", "square", "triangle", "cross")
TEXTURES = ("plain", "striped", "dotted", "checked", "shaded")
COLOURS = {
    "red": (205, 50, 50),
    "green": (50, 150, 65),
    "blue": (55, 85, 200),
    "yellow": (220, 205, 60),
    "purple": (145, 50, 175),
    "orange": (225, 130, 45),
    "white": (230, 230, 230),
    "black": (25, 25, 25),
}
NUM_CLASSES = len(SHAPES) * len(TEXTURES) * len(COLOURS)
"""A class is `(shape * 5 + texture) * 8 + colour`: the first 100 lack two of the shapes."""

INK_JITTER = 35
NOISE = 60
"""Largest deviation of ink and of a pixel, in grey levels of 255."""

SHIFT, TURN, LIGHT = 0.08, 0.2, 25
"""Largest changes of a view: share of the side, radians, grey levels."""

_DRAWS, _VIEW_DRAWS = 14, 4
_MASK = 0xFFFFFFFF
_Pixels = tuple[Tensor, Tensor]


class ShapeImages:
    """Images of one split; a row's class is `labels[row]`.

    Args:
        split: Key of all draws, e.g. `train`.
        count: Number of images; classes take turns.
        size: Side in pixels.
        device: Where they are drawn.
    """

    def __init__(self, split: str, *, count: int, size: int = 64, device: str = "cpu") -> None:
        if count < 1 or size < 8:
            raise ValueError(f"count must be >= 1 and size >= 8, got {count} and {size}")
        self.split, self.size, self.device = split, size, device
        random = keyed.generator("shapes", split)
        self._draws = random.random((count, _DRAWS), dtype=np.float32)
        self._seeds = random.integers(_MASK, size=count)
        self.labels: NDArray[np.int64] = np.arange(count) % NUM_CLASSES

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def ids(self) -> list[str]:
        """Names of the images."""
        return [f"{self.split}-{row}" for row in range(len(self))]

    def images(self, rows: NDArray[np.int64], *view: str | int) -> Tensor:
        """Return images, or one more view of each, uint8 `[n, 3, size, size]`.

        Args:
            rows: `[n]`.
            *view: Key of the view; none for the images themselves. Views are drawn for the rows
                together, so that other rows with the same key are other views.
        """
        draws, seeds = self._draws[rows], self._seeds[rows]
        change = np.zeros((len(rows), _VIEW_DRAWS), dtype=np.float32)
        if view:
            random = keyed.generator("shapes view", self.split, *view)
            change = 2 * random.random(change.shape, dtype=np.float32) - 1
            seeds = random.integers(_MASK, size=len(rows))
        return self._drawn(self.labels[rows], draws, change, seeds)

    def _drawn(
        self,
        labels: NDArray[np.int64],
        draws: NDArray[np.float32],
        change: NDArray[np.float32],
        seeds: NDArray[np.int64],
    ) -> Tensor:
        d, c = (self._columns(values) for values in (draws, change))
        x, y = self._local(d[0] + SHIFT * c[0], d[1] + SHIFT * c[1], d[2], d[3] + TURN / 6 * c[2])
        cover = _cover(x, y, _chosen(labels // 40, self.device), sharpness=self.size / 4)
        ink = cover * _texture(x, y, d, _chosen(labels // 8 % 5, self.device))
        ground = 90 + 70 * d[4] + 40 * (d[5] - 0.5) * x
        inks = torch.tensor([*COLOURS.values()], dtype=torch.float32, device=self.device)
        colour = inks[torch.from_numpy(labels % 8).to(self.device)]
        channels = []
        for channel in range(3):
            paint = colour[:, channel, None, None] + 2 * INK_JITTER * (d[6 + channel] - 0.5)
            under = ground + 40 * (d[9 + channel] - 0.5)
            body = under + 0.4 * cover * (255 - 2 * under)  # what shows between the ink
            channels.append(body + ink * (paint - body))
        image = torch.stack(channels, dim=1) + LIGHT * c[3][:, None]
        image += NOISE * (2 * self._noise(seeds) - 1)
        return image.round_().clamp_(0, 255).to(torch.uint8)

    def _columns(self, values: NDArray[np.float32]) -> list[Tensor]:
        return list(torch.from_numpy(values.T.copy()).to(self.device)[..., None, None])

    def _local(self, across: Tensor, down: Tensor, scale: Tensor, turn: Tensor) -> _Pixels:
        """Return each pixel's place as the shape sees it: centred, scaled and turned."""
        line = (torch.arange(self.size, device=self.device) + 0.5) * (2 / self.size) - 1
        radius = 0.35 + 0.35 * scale
        x = (line - 0.7 * (across - 0.5)) / radius
        y = (line[:, None] - 0.7 * (down - 0.5)) / radius
        angle = 6 * (turn - 0.5) / 4  # up to a bit more than 40 degrees either way
        cos, sin = angle.cos(), angle.sin()
        return cos * x + sin * y, cos * y - sin * x

    def _noise(self, seeds: NDArray[np.int64]) -> Tensor:
        """Return uniform noise of each channel's pixels, a hash of place and seed."""
        shape = (3, self.size, self.size)
        place = torch.arange(3 * self.size**2, device=self.device).view(shape)
        key = torch.from_numpy(seeds).to(self.device)[:, None, None, None]
        key = (place * 0x9E3779B1 + key) & _MASK
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            key = ((key ^ (key >> shift)) * factor) & _MASK
        return (key ^ (key >> 16)).float() / 2**32


def class_name(label: int) -> str:
    """Return the name of a class, e.g. `red striped disc`."""
    colour = list(COLOURS)[label % 8]
    return f"{colour} {TEXTURES[label // 8 % 5]} {SHAPES[label // 40]}"


def _chosen(numbers: NDArray[np.int64], device: str) -> Tensor:
    return torch.from_numpy(numbers).to(device)[:, None, None]


def _cover(x: Tensor, y: Tensor, shape: Tensor, *, sharpness: float) -> Tensor:
    """Return how much of each pixel the shape covers, from a distance to its edge."""
    radius = (x.square() + y.square()).sqrt()
    ax, ay = x.abs(), y.abs()
    inside = (
        0.85 - radius,
        torch.minimum(0.9 - radius, radius - 0.5),
        0.75 - torch.maximum(ax, ay),
        0.5 - torch.maximum(y, 0.866 * ax - 0.5 * y),
        torch.minimum(0.3 - torch.minimum(ax, ay), 0.9 - torch.maximum(ax, ay)),
    )
    assert len(inside) == len(SHAPES)
    chosen = sum(edge * (shape == number) for number, edge in enumerate(inside))
    return (sharpness * torch.as_tensor(chosen) + 0.5).clamp(0, 1)


def _texture(x: Tensor, y: Tensor, draws: list[Tensor], texture: Tensor) -> Tensor:
    """Return the share of ink at each pixel, 0..1, along a direction of the image's own."""
    angle = np.pi * draws[12]
    u = 2.2 * (angle.cos() * x + angle.sin() * y) + draws[13]
    v = 2.2 * (angle.cos() * y - angle.sin() * x)
    u_in, v_in = u - u.floor(), v - v.floor()
    ones: Any = torch.ones_like(u)
    inks = (
        ones,
        (u_in < 0.5).float(),
        ((u_in - 0.5).square() + (v_in - 0.5).square() > 0.09).float(),
        ((u.floor() + v.floor()) % 2 == 0).float(),
        (0.5 + 0.25 * u).clamp(0.1, 1),
    )
    assert len(inks) == len(TEXTURES)
    return torch.as_tensor(sum(ink * (texture == number) for number, ink in enumerate(inks)))
