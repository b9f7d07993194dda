"""What may enter an index: shapes, finite numbers, row numbers; normalisation for cosine."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfill.config import Metric


def checked_vectors(
    vectors: ArrayLike, *, dim: int, metric: Metric, what: str
) -> NDArray[np.float32]:
    """Return vectors as contiguous float32 `[n, dim]`, of length 1 where the metric is cosine.

    Raises:
        ValueError: If the shape is another, a number is not finite, or a vector that must be
            normalised is zero.
    """
    array = np.asarray(vectors)
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"{what} must have the shape [n, {dim}], got {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{what} must be floating-point numbers, got {array.dtype}")
    with np.errstate(over="ignore"):  # becomes inf, which is refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if broken.size:
        raise ValueError(f"{what} have NaN or inf in {broken.size} rows, first at {broken[0]}")
    return _normalised(array, what) if metric == "cosine" else array


def checked_rows(rows: ArrayLike) -> NDArray[np.int64]:
    """Return row numbers as int64 `[n]`.

    Raises:
        ValueError: If they are not a list of integers >= 0, or one comes twice.
    """
    array = np.asarray(rows)
    if array.ndim == 1 and not array.size:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"rows must be a list of integers, got {array.dtype} of shape {list(array.shape)}"
        )
    if array.min() < 0:
        raise ValueError(f"rows must be >= 0, got {array.min()}")
    if np.unique(array).size != array.size:
        raise ValueError("rows must be different in one call; keep the last vector of each")
    return array.astype(np.int64)


def checked_upsert(
    rows: ArrayLike, vectors: ArrayLike, *, dim: int, metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return rows and vectors of an upsert in their stored form.

    Raises:
        ValueError: As of `checked_rows` and `checked_vectors`, or if their numbers differ.
    """
    checked = checked_rows(rows)
    array = checked_vectors(vectors, dim=dim, metric=metric, what="vectors")
    if len(checked) != len(array):
        raise ValueError(f"there must be a vector a row, got {len(checked)} and {len(array)}")
    return checked, array


def check_k(k: int) -> None:
    """Raise unless k is a usable length of a list.

    Raises:
        ValueError: If k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")


def check_space(dim: int, metric: str) -> None:
    """Raise unless dim and metric make a space.

    Raises:
        ValueError: If dim < 1 or the metric is unknown.
    """
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    if metric not in ("l2", "cosine", "ip"):
        raise ValueError(f"metric must be one of l2, cosine, ip, got {metric}")


def _normalised(vectors: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    zero = np.flatnonzero(norms == 0)
    if zero.size:
        raise ValueError(
            f"{what} have {zero.size} zero rows, first at {zero[0]}; cosine is undefined there"
        )
    return (vectors / norms[:, None]).astype(np.float32)
