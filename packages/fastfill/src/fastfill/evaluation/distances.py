"""Distances of queries to galleries, a part at a time, that do not depend on the parts.

They are computed in float64 and rounded to float32. A float32 product would come out an ulp higher
or lower with the shape of the part and the number of threads, and which of two equal items is
nearer would be decided by that.
"""

from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastfill.config import Metric

Vectors = NDArray[np.floating]

# Squared distance, as a share of the squared norm, below which float32 vectors are the same: the
# product form of the squared distance has nothing but cancellation there.
SAME = 2e-12
# Inner product, as a share of the product of the norms, below which it is the noise of an exact 0:
# its sign and size would depend on the parts.
ORTHOGONAL = 1e-12


@dataclass(frozen=True)
class Space:
    """Queries and gallery of one model, and how near is measured between them.

    Args:
        queries: `[Q, d]`.
        gallery: `[N, d]`.
        metric: `l2`, `cosine` or `ip`.
        slope: What distances are multiplied by, > 0, where they are compared with another space's.
        intercept: What is added to them then.
    """

    queries: Vectors
    gallery: Vectors
    metric: Metric = "l2"
    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            known = ", ".join(get_args(Metric))
            raise ValueError(f"metric must be one of {known}, got {self.metric!r}")
        check_vectors(self.queries, "queries")
        check_vectors(self.gallery, "gallery")
        if self.queries.shape[1] != self.gallery.shape[1]:
            raise ValueError(
                f"queries have {self.queries.shape[1]} dimensions and the gallery "
                f"{self.gallery.shape[1]}: both must come from one space"
            )
        self._check_range()
        if not self.slope > 0:
            raise ValueError(f"slope must be > 0, got {self.slope}: the nearest must stay nearest")

    def items(self, rows: slice | NDArray[np.int64], device: torch.device) -> Tensor:
        """Return items of the gallery as `distances` takes them, float64 `[N, d .. d + 2]`."""
        item_ND = self._prepared(self.gallery[rows], device)
        if self.metric == "cosine":
            return item_ND
        square_N = item_ND.square().sum(1, keepdim=True)
        if self.metric == "ip":
            return torch.cat([item_ND, square_N.sqrt()], 1)
        return torch.cat([item_ND, torch.ones_like(square_N), square_N], 1)

    def distances(self, queries: NDArray[np.int64], items: Tensor) -> Tensor:
        """Return `[len(queries), len(items)]` float32, smaller nearer for every metric.

        Squared distance for `l2`, minus the inner product for `cosine` and `ip`.
        """
        query_QD = self._prepared(self.queries[queries], items.device)
        if self.metric == "l2":
            square_Q = query_QD.square().sum(1, keepdim=True)
            query_QD = torch.cat([-2 * query_QD, square_Q, torch.ones_like(square_Q)], 1)
            distance_QN = (query_QD @ items.T).float()
            distance_QN = torch.maximum(distance_QN, (SAME * square_Q).float())
        elif self.metric == "ip":
            item_ND, norm_N = items[:, :-1], items[:, -1]
            distance_QN = -query_QD @ item_ND.T
            noise_QN = ORTHOGONAL * torch.linalg.vector_norm(query_QD, dim=1)[:, None] * norm_N
            distance_QN = distance_QN.masked_fill_(distance_QN.abs() <= noise_QN, 0.0).float()
        else:
            distance_QN = torch.nn.functional.hardshrink(-query_QD @ items.T, ORTHOGONAL).float()
        if (self.slope, self.intercept) != (1.0, 0.0):
            distance_QN = (distance_QN.double() * self.slope + self.intercept).float()
        return distance_QN

    def _check_range(self) -> None:
        """Refuse vectors so long that distances would be infinite, and all of them equal."""
        if self.metric == "cosine":
            return
        query, item = largest_norm(self.queries), largest_norm(self.gallery)
        largest = (query + item) ** 2 if self.metric == "l2" else query * item
        if largest > float(np.finfo(np.float32).max):
            raise ValueError(
                f"vectors of length {max(query, item):.3g} are too long: {self.metric} distances "
                "would be beyond float32; scale all vectors down or use cosine"
            )

    def _prepared(self, vectors: Vectors, device: torch.device) -> Tensor:
        plain = torch.from_numpy(np.asarray(vectors, dtype=np.float64)).to(device)
        return torch.nn.functional.normalize(plain, dim=1) if self.metric == "cosine" else plain


def check_vectors(vectors: Vectors, what: str, *, rows: int = 65_536) -> None:
    """Refuse what is no matrix of finite numbers.

    Raises:
        ValueError: Says what it is.
    """
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.size:
        raise ValueError(
            f"{what} must be vectors of floating point numbers, [n, d], got {vectors.dtype} of "
            f"shape {vectors.shape}"
        )
    starts = range(0, len(vectors), rows)
    bad = sum(int((~np.isfinite(vectors[i : i + rows]).all(1)).sum()) for i in starts)
    if bad:
        raise ValueError(f"{what} has {bad} vectors with NaN or infinity; leave these items out")


def largest_norm(vectors: Vectors, *, rows: int = 65_536) -> float:
    """Return the length of the longest vector, computed in float64."""
    parts = (vectors[first : first + rows] for first in range(0, len(vectors), rows))
    return max(float(np.linalg.norm(part.astype(np.float64), axis=1).max()) for part in parts)


def as_metric(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in get_args(Metric):
        raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, got {name!r}")
    return cast("Metric", name)
