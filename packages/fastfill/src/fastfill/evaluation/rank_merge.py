"""Two indexes searched together, the lists merged by calibrated distance: a baseline (spec 2.7).

As in Metric-Compatible Training (WACV 2025) the old index stays as it is and is searched with the
old model's query; new embeddings go to a second index. Distances of two models are not comparable:
here each is calibrated to the log-odds that query and item are of one class, fitted on pairs of
training items (an own, closed-form stand-in for that paper's trained distances).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastfill.config import Metric
from fastfill.evaluation.curve import Curve, Order, mixed_curves
from fastfill.evaluation.distances import Space, Vectors
from fastfill.evaluation.metrics import MAX_BYTES, Scores
from fastfill.evaluation.relevance import Labels, relevance
from tenfold.keyed import generator

_RIDGE = 1e-3  # keeps the slope finite where classes do not overlap


class Calibration(NamedTuple):
    """`slope * distance + intercept` is minus the log-odds that two items are of one class."""

    slope: float
    intercept: float


class Merged(NamedTuple):
    """The k nearest of both lists: rows and calibrated distances `[Q, k]`."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]


def fit_calibration(
    vectors: Vectors, labels: Labels, *, metric: Metric = "l2", pairs: int = 20_000, seed: int = 0
) -> Calibration:
    """Fit the calibration on as many pairs of one class as of two.

    Args:
        vectors: Of training items `[n, d]`.
        labels: Theirs.
        metric: What is near.
        pairs: Of each kind.
        seed: Of the choice of pairs; the same for both models.

    Raises:
        ValueError: No two items share a label, all do, or near pairs are not more often of one
            class than far ones.
    """
    codes = relevance(labels, labels).gallery_codes
    same, other = _pairs(codes, pairs, seed)
    first, second = np.concatenate([same, other]).T
    distances = _paired(vectors, first, second, metric)
    is_same = np.repeat([1.0, 0.0], [len(same), len(other)])
    slope, intercept = _logistic(distances, is_same)
    if slope <= 0:
        raise ValueError(
            f"distances cannot be calibrated: nearer pairs are not of one class (slope {slope:g})"
        )
    return Calibration(slope, intercept)


def merge(
    old_rows: NDArray[np.int64],
    old_distances: NDArray[np.floating],
    new_rows: NDArray[np.int64],
    new_distances: NDArray[np.floating],
    k: int,
    *,
    old: Calibration,
    new: Calibration,
) -> Merged:
    """Merge the result lists of two indexes that share no item.

    Args:
        old_rows: `[Q, k1]`, -1 where there are fewer.
        old_distances: `[Q, k1]`.
        new_rows: `[Q, k2]`.
        new_distances: `[Q, k2]`.
        k: Length of the merged list.
        old: Calibration of the old index.
        new: Calibration of the new index.
    """
    rows = np.concatenate([old_rows, new_rows], axis=1)
    scaled = [
        distances.astype(np.float64) * each.slope + each.intercept
        for distances, each in ((old_distances, old), (new_distances, new))
    ]
    distances = np.concatenate(scaled, axis=1)
    distances[rows < 0] = np.inf
    nearest = np.lexsort((rows, distances), axis=1)[:, :k]
    return Merged(np.take_along_axis(rows, nearest, 1), np.take_along_axis(distances, nearest, 1))


def merge_curves(
    old: Space,
    new: Space,
    labels: Labels,
    orders: Mapping[str, Order],
    *,
    calibrations: tuple[Calibration, Calibration],
    query_labels: Labels,
    self_rows: NDArray[np.int64] | None = None,
    steps: int = 20,
    ks: Sequence[int] = (1, 5),
    before: Scores | None = None,
    max_bytes: int = MAX_BYTES,
    device: str = "cpu",
) -> dict[str, Curve]:
    """Return curves of two merged indexes while items move from the old one to the new one.

    Args:
        old: Old queries and old gallery.
        new: New queries and new gallery, the same items.
        labels: Of the gallery.
        orders: By name, rows of the gallery, what moves first at the front.
        calibrations: Of old and new distances.
        query_labels: Of the queries.
        self_rows: Row of the gallery that is the query itself; -1 none.
        steps: Points between none and all.
        ks: Sizes of result lists.
        before: Of the old model on the old gallery, for negative flips.
        max_bytes: About what working arrays may take.
        device: Where distances are computed.

    Raises:
        ValueError: Shapes or labels do not fit, or an order is no permutation.
    """
    spaces = [
        Space(space.queries, space.gallery, space.metric, each.slope, each.intercept)
        for space, each in zip((old, new), calibrations, strict=True)
    ]
    return mixed_curves(
        *spaces,
        wanted=relevance(query_labels, labels, self_rows=self_rows),
        orders=orders,
        steps=steps,
        ks=ks,
        old=before,
        max_bytes=max_bytes,
        device=device,
    )


def _pairs(
    codes: NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw pairs of one class and of two, `[count, 2]` each."""
    random = generator("calibration-pairs", seed)
    labelled = np.flatnonzero(codes >= 0)
    by_code = labelled[np.argsort(codes[labelled], kind="stable")]
    sizes = np.bincount(codes[labelled])
    starts = np.cumsum(sizes) - sizes
    shared = labelled[sizes[codes[labelled]] > 1]
    if not len(shared) or len(shared) == len(labelled) == sizes.max():
        raise ValueError("calibration needs items of one class and of two; check the labels")
    first = random.choice(shared, count)
    place = np.empty(len(codes), dtype=np.int64)
    place[by_code] = np.arange(len(by_code)) - starts[codes[by_code]]
    ahead = random.integers(1, sizes[codes[first]])
    mate = starts[codes[first]] + (place[first] + ahead) % sizes[codes[first]]
    two = random.choice(labelled, (count, 2))
    return np.stack([first, by_code[mate]], 1), two[codes[two[:, 0]] != codes[two[:, 1]]]


def _paired(
    vectors: Vectors, first: NDArray[np.int64], second: NDArray[np.int64], metric: Metric
) -> NDArray[np.float64]:
    one, other = (
        torch.from_numpy(np.asarray(vectors[rows], dtype=np.float64)) for rows in (first, second)
    )
    if metric == "l2":
        return (one - other).square().sum(1).numpy()
    if metric == "cosine":
        return -torch.nn.functional.cosine_similarity(one, other).numpy()
    return -(one * other).sum(1).numpy()


def _logistic(distances: NDArray[np.float64], same: NDArray[np.float64]) -> tuple[float, float]:
    """Fit `log-odds = -(slope * distance + intercept)` by Newton's method."""
    mean, std = distances.mean(), max(distances.std(), 1e-12)
    design = np.stack([(distances - mean) / std, np.ones_like(distances)], 1)
    weights, ridge = np.zeros(2), _RIDGE * np.eye(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(np.clip(design @ weights, -500, 500)))
        gradient = design.T @ (same - p) / len(p) + ridge @ weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design / len(p) + ridge
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0] / std), float(weights[1] - weights[0] * mean / std)
