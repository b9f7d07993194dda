"""The network h from stored old embeddings to the new space, with an uncertainty (spec 2.3).

Shapes: B items, N items of a gallery, D the width of an old embedding; z is `[B, new_dim]`.

Not here: closed forms (`closed_form.py`), the loss (`objective.py`), files (`weights.py`).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Combine = Literal["sum", "max"]


class Transformed(NamedTuple):
    """Vectors in the new space and their log-variances.

    Attributes:
        z: `[B, new_dim]`.
        s: Logarithm of the variance, `[B]`, or `[B, new_dim]` with one for each dimension.
    """

    z: Tensor
    s: Tensor


class EmbeddingMap(nn.Module, ABC):
    """A map from old (and side) embeddings to the new space.

    Attributes:
        old_dim: Width of what goes in.
        new_dim: Width of what comes out.
        side_dim: Width of the side information, 0 where the map takes none.
    """

    old_dim: int
    new_dim: int
    side_dim: int

    @abstractmethod
    def forward(self, old_BD: Tensor, side_BD: Tensor | None = None) -> Transformed:
        """Return the transformed embeddings and their log-variances."""

    def check_inputs(self, old_shape: Sequence[int], side_shape: Sequence[int] | None) -> None:
        """Refuse embeddings of another width, and side information that is missing or too much.

        Raises:
            ValueError: As said.
        """
        if len(old_shape) != 2 or old_shape[1] != self.old_dim:
            raise ValueError(
                f"the map takes old embeddings [n, {self.old_dim}], got {list(old_shape)}"
            )
        if side_shape is None:
            if self.side_dim:
                raise ValueError(f"the map needs side information [n, {self.side_dim}], got none")
        elif list(side_shape) != [old_shape[0], self.side_dim]:
            takes = f"[{old_shape[0]}, {self.side_dim}]" if self.side_dim else "none"
            raise ValueError(f"the map takes side information: {takes}, got {list(side_shape)}")


class Transformation(EmbeddingMap):
    """h and its uncertainty head: two projections, a mixer, log-variance read off z (spec 2.3).

    Args:
        old_dim: Width of an old embedding.
        new_dim: Width of a new one.
        side_dim: Width of the side information; 0 passes the old embedding a second time.
        inner: Width of the mixer's hidden layers.
        per_dimension: Predict a log-variance for each dimension.
    """

    def __init__(
        self,
        old_dim: int,
        new_dim: int,
        *,
        side_dim: int = 0,
        inner: int = 2048,
        per_dimension: bool = False,
    ) -> None:
        super().__init__()
        self.old_dim, self.new_dim, self.side_dim = old_dim, new_dim, side_dim
        self.inner, self.per_dimension = inner, per_dimension
        self.old_projection = _projection(old_dim, new_dim)
        self.side_projection = _projection(side_dim or old_dim, new_dim)
        self.mixer = nn.Sequential(
            *_block(4 * new_dim, inner), *_block(inner, inner), nn.Linear(inner, new_dim)
        )
        self.log_variance = nn.Linear(new_dim, new_dim if per_dimension else 1)

    def forward(self, old_BD: Tensor, side_BD: Tensor | None = None) -> Transformed:
        """Return z `[B, new_dim]` and s `[B]`, or `[B, new_dim]` with `per_dimension`.

        Raises:
            ValueError: Embeddings of another width; side information is missing or too much.
        """
        self.check_inputs(old_BD.shape, None if side_BD is None else side_BD.shape)
        side = old_BD if side_BD is None else side_BD
        mixed = torch.cat([self.old_projection(old_BD), self.side_projection(side)], dim=1)
        z = self.mixer(mixed)
        s = self.log_variance(z)
        return Transformed(z, s if self.per_dimension else s[:, 0])


class Chain(EmbeddingMap):
    """Maps one after the other, for items that are several models behind (spec 2.7).

    Every map that takes side information gets the item's; it is the same at every step.

    Args:
        maps: From the oldest space to the newest.
        combine: `sum` adds the variances, as of independent errors; `max` takes the largest.
        normalized: For each map but the last, whether the model between gives unit vectors: then
            the next map was trained on such, and gets such. None are if absent.

    Raises:
        ValueError: There are none, or their widths do not fit.
    """

    def __init__(
        self,
        maps: Sequence[EmbeddingMap],
        *,
        combine: Combine = "sum",
        normalized: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        if not maps:
            raise ValueError("a chain needs one map or more, got none")
        if combine not in ("sum", "max"):
            raise ValueError(f"combine must be sum or max, got {combine!r}")
        for number, (one, following) in enumerate(pairwise(maps)):
            if one.new_dim != following.old_dim:
                raise ValueError(
                    f"map {number} gives vectors {one.new_dim} wide, but map {number + 1} takes "
                    f"{following.old_dim}; name the maps from the oldest model to the newest"
                )
        widths = {each.side_dim for each in maps if each.side_dim}
        if len(widths) > 1:
            raise ValueError(f"the maps take side information of several widths: {sorted(widths)}")
        between = [False] * (len(maps) - 1) if normalized is None else list(normalized)
        if len(between) != len(maps) - 1:
            raise ValueError(
                f"normalized must say it of the {len(maps) - 1} models between, got {len(between)}"
            )
        self.maps = nn.ModuleList(maps)
        self.normalized = (*between, False)
        self.combine: Combine = combine
        self.old_dim, self.new_dim = maps[0].old_dim, maps[-1].new_dim
        self.side_dim = widths.pop() if widths else 0

    def forward(self, old_BD: Tensor, side_BD: Tensor | None = None) -> Transformed:
        """Return z of the last map and the combined log-variance `[B]`."""
        self.check_inputs(old_BD.shape, None if side_BD is None else side_BD.shape)
        z, log_variances = old_BD, []
        for each, unit in zip(self.maps, self.normalized, strict=True):
            z, s = each(z, side_BD if each.side_dim else None)
            z = nn.functional.normalize(z, dim=1) if unit else z
            log_variances.append(of_item(s))
        stacked = torch.stack(log_variances)
        s = stacked.amax(dim=0) if self.combine == "max" else stacked.logsumexp(dim=0)
        return Transformed(z, s)


def of_item(s: Tensor) -> Tensor:
    """Return one log-variance for an item, `[B]`: the mean over its dimensions."""
    return s.mean(dim=1) if s.ndim == 2 else s


def transform_all(
    h: EmbeddingMap,
    old: NDArray[np.floating],
    side: NDArray[np.floating] | None = None,
    *,
    batch: int = 65536,
    device: str | torch.device | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return z `[N, new_dim]` and s `[N]` of a gallery, batch statistics frozen.

    Args:
        h: Left as it is, mode and device included.
        old: `[N, old_dim]` of any floating type; a memory map is read batch by batch.
        side: `[N, side_dim]`.
        batch: Items at a time.
        device: Where to compute; where h is if absent.

    Raises:
        ValueError: Widths do not fit, or a result is NaN or infinite.
    """
    h.check_inputs(old.shape, None if side is None else side.shape)
    if batch < 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    z = np.empty((len(old), h.new_dim), dtype=np.float32)
    s = np.empty(len(old), dtype=np.float32)
    with torch.inference_mode(), _evaluated(h, device) as (network, place):
        for start in range(0, len(old), batch):
            rows = slice(start, start + batch)
            out = network(
                _rows(old, rows, place), None if side is None else _rows(side, rows, place)
            )
            z[rows] = out.z.float().cpu().numpy()
            s[rows] = of_item(out.s).float().cpu().numpy()
    finite = np.isfinite(s) & np.isfinite(z).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the map gives NaN or infinity for {int((~finite).sum())} of {len(old)} items, the "
            f"first is row {int((~finite).argmax())}; look at their old embeddings"
        )
    return z, s


@contextmanager
def _evaluated(
    h: EmbeddingMap, device: str | torch.device | None
) -> Generator[tuple[EmbeddingMap, torch.device]]:
    """Give h in eval mode on a device, a copy where h is elsewhere; modes are restored after."""
    tensor = next(iter(h.state_dict().values()))
    place = tensor.device if device is None else torch.device(device)
    network = h if place == tensor.device else copy.deepcopy(h).to(place)
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield network.eval(), place
    finally:
        for module, training in modes:
            module.training = training


def _rows(array: NDArray[np.floating], rows: slice, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array[rows], dtype=np.float32)).to(device)


def _projection(width: int, new_dim: int) -> nn.Sequential:
    return nn.Sequential(*_block(width, 2 * width), *_block(2 * width, 2 * new_dim))


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()
