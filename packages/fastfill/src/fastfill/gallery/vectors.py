"""Vectors on their way into a gallery: checked, normalised, rounded to its type."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfill.config import Metric


class Checked(NamedTuple):
    """Vectors as a gallery stores them, and which of them it takes.

    Attributes:
        vectors: `[n, d]`, of the gallery's type.
        problems: For each bad vector its position and what is wrong with it.
    """

    vectors: NDArray[Any]
    problems: dict[int, str]


def check_entering(
    vectors: NDArray[Any], *, dim: int, metric: Metric, dtype: str, what: str = "vectors"
) -> Checked:
    """Return vectors as they are stored; with `cosine` of length 1.

    Raises:
        ValueError: They are not `[n, dim]` of floating numbers.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype.kind != "f":
        raise ValueError(
            f"{what} must be floating [n, {dim}], got {vectors.dtype} {list(vectors.shape)}"
        )
    found = vectors.astype(np.float32)
    # Sums in float64: squares of large float32 values overflow.
    lengths = np.sqrt(np.einsum("nd,nd->n", found, found, dtype=np.float64))
    if metric == "cosine":
        found = (found / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(found, dtype=dtype)
    finite = np.isfinite(stored).all(axis=1) & np.isfinite(lengths)
    problems = {int(i): "NaN, infinite or too large a number" for i in np.flatnonzero(~finite)}
    zero = finite & ~stored.any(axis=1)
    return Checked(stored, problems | {int(i): "zero vector" for i in np.flatnonzero(zero)})


def require_good(checked: Checked, *, what: str) -> NDArray[Any]:
    """Return the vectors when all are good.

    Raises:
        ValueError: Some are not; says how many, and the first.
    """
    if checked.problems:
        first = min(checked.problems)
        raise ValueError(
            f"{len(checked.problems)} of {len(checked.vectors)} {what} are bad, the first is "
            f"number {first}: {checked.problems[first]}; embed those again or leave them out"
        )
    return checked.vectors
