"""Linear maps between embedding spaces in closed form: cheap baselines of h (spec 2.7).

Shapes: N pairs, D the width of an old embedding, E of a new one. All maps are affine: both sides
are centred first. They know no uncertainty; s is 0 for every item.
"""

from collections.abc import Generator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastfill.transform import EmbeddingMap, Transformed

Kind = Literal["linear", "ridge", "procrustes"]

_CHUNK = 65536


class LinearMap(EmbeddingMap):
    """`z = old @ weight + bias`, without uncertainty.

    Args:
        old_dim: Width of an old embedding.
        new_dim: Width of a new one.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, old_dim: int, new_dim: int) -> None:
        super().__init__()
        self.old_dim, self.new_dim, self.side_dim = old_dim, new_dim, 0
        self.register_buffer("weight", torch.zeros(old_dim, new_dim))
        self.register_buffer("bias", torch.zeros(new_dim))

    def forward(self, old_BD: Tensor, side_BD: Tensor | None = None) -> Transformed:
        """Return z `[B, new_dim]` and zeros `[B]`."""
        self.check_inputs(old_BD.shape, None if side_BD is None else side_BD.shape)
        z = torch.addmm(self.bias, old_BD, self.weight)
        return Transformed(z, z.new_zeros(len(z)))


def fit_linear(
    old: NDArray[np.floating],
    new: NDArray[np.floating],
    *,
    kind: Kind = "linear",
    ridge: float = 1.0,
) -> LinearMap:
    """Return the linear map that brings old embeddings closest to new ones, in squared distance.

    Sums are kept in float64 and over chunks: memory does not grow with N, and the arrays may be
    memory maps of half precision.

    Args:
        old: `[N, D]`.
        new: `[N, E]`, of the same items.
        kind: `linear` is least squares (the smallest map where old embeddings span less than
            D dimensions); `ridge` adds `ridge * |weight|^2` to the sum over pairs; `procrustes`
            allows rotations and reflections only, between unequal widths parts of them.
        ridge: Of `ridge`, > 0.

    Raises:
        ValueError: Shapes do not fit, there is no pair, values are NaN or infinite, or an option
            is out of its range.
    """
    if kind not in ("linear", "ridge", "procrustes"):
        raise ValueError(f"kind must be linear, ridge or procrustes, got {kind!r}")
    if not 0 < ridge < np.inf:
        raise ValueError(f"ridge must be > 0, got {ridge}")
    moments = _moments(old, new)
    if kind == "procrustes":
        # The orthogonal factor of the cross-covariance (Schoenemann, 1966).
        u, _, vt = np.linalg.svd(moments.old_new_DE, full_matrices=False)
        weight = u @ vt
    elif kind == "ridge":
        regularised = moments.old_old_DD + ridge * np.eye(old.shape[1])
        weight = np.linalg.solve(regularised, moments.old_new_DE)
    else:
        inverse = np.linalg.pinv(moments.old_old_DD, hermitian=True, rcond=1e-10)
        weight = inverse @ moments.old_new_DE
    weight = np.asarray(weight, dtype=np.float64)
    return _linear_map(weight, moments.new_mean_E - moments.old_mean_D @ weight)


class _Moments(NamedTuple):
    """Means, and sums over pairs of products of what is left without them."""

    old_mean_D: NDArray[np.float64]
    new_mean_E: NDArray[np.float64]
    old_old_DD: NDArray[np.float64]
    old_new_DE: NDArray[np.float64]


def _moments(old: NDArray[np.floating], new: NDArray[np.floating]) -> _Moments:
    if old.ndim != 2 or new.ndim != 2 or len(old) != len(new) or not len(old):
        raise ValueError(
            f"old and new embeddings must be [N, D] and [N, E] of the same items, got {old.shape} "
            f"and {new.shape}"
        )
    old_mean, new_mean = np.zeros(old.shape[1]), np.zeros(new.shape[1])
    for old_chunk, new_chunk in _chunks(old, new):
        old_mean += old_chunk.sum(axis=0) / len(old)
        new_mean += new_chunk.sum(axis=0) / len(new)
    if not (np.isfinite(old_mean).all() and np.isfinite(new_mean).all()):
        raise ValueError("old or new embeddings hold NaN or infinity; embed those items again")
    old_old = np.zeros((old.shape[1], old.shape[1]))
    old_new = np.zeros((old.shape[1], new.shape[1]))
    for old_chunk, new_chunk in _chunks(old, new):
        centred = old_chunk - old_mean
        old_old += centred.T @ centred
        old_new += centred.T @ (new_chunk - new_mean)
    return _Moments(old_mean, new_mean, old_old, old_new)


def _chunks(
    old: NDArray[np.floating], new: NDArray[np.floating]
) -> Generator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    for start in range(0, len(old), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield np.asarray(old[rows], dtype=np.float64), np.asarray(new[rows], dtype=np.float64)


def _linear_map(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> LinearMap:
    result = LinearMap(*weight.shape)
    result.weight.copy_(torch.from_numpy(weight))
    result.bias.copy_(torch.from_numpy(bias))
    return result.eval()
