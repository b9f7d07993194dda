"""What vectors look like, and whether they can be what a map was trained on."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfill.card_json import entries, require_numbers

logger = logging.getLogger(__name__)

PROBE_ITEMS = 16
"""Training items whose old embeddings a card keeps as a fingerprint of the old model."""

UNIT_TOLERANCE = 0.01
"""How far from 1 the mean length of normalised vectors may be, and how far lengths may spread."""

SAME_MEAN = 0.5
"""Cosine of two mean vectors below which a warning says that the models may differ."""

PROBE_TOLERANCE = 1e-2
"""Relative distance of re-embedded probe items: half precision and other kernels stay below it."""

_CHUNK = 65536


@dataclass(frozen=True)
class VectorStats:
    """What vectors look like: mean and standard deviation of their lengths, mean `[d]`."""

    mean_norm: float
    std_norm: float
    mean: Sequence[float]

    def __post_init__(self) -> None:
        require_numbers((self.mean_norm, self.std_norm), "mean_norm and std_norm")
        object.__setattr__(self, "mean", require_numbers(self.mean, "mean"))
        if not self.mean or self.mean_norm < 0 or self.std_norm < 0:
            raise ValueError(
                "a card's vector statistics must have lengths >= 0 and a mean of one entry or more"
            )

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | str) -> Self:
        """Return the statistics of a card's JSON."""
        return cls(**entries(cls, value))


@dataclass(frozen=True)
class Probe:
    """Old embeddings `[<= 16, d_o]` of the first training items, a fingerprint of the old model."""

    old: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        if not isinstance(self.old, Sequence) or isinstance(self.old, str):
            raise ValueError(f"a card's probe must be a list of vectors, got {self.old!r:.40}")
        rows = tuple(require_numbers(row, "probe") for row in self.old)
        if not 1 <= len(rows) <= PROBE_ITEMS or len({len(row) for row in rows}) != 1:
            raise ValueError(
                f"a card's probe must be 1..{PROBE_ITEMS} vectors of one width, got {len(rows)}"
            )
        object.__setattr__(self, "old", rows)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | str) -> Self:
        """Return the probe of a card's JSON."""
        return cls(**entries(cls, value))


def vector_stats(vectors: NDArray[np.floating]) -> VectorStats:
    """Return the statistics of vectors `[n, d]`, in chunks, so that a memory map stays one.

    Raises:
        ValueError: There are none, or some are zero, NaN or infinite.
    """
    _check_shape(vectors, what="vectors")
    total, norms = np.zeros(vectors.shape[1]), np.empty(len(vectors))
    for start in range(0, len(vectors), _CHUNK):
        chunk = np.asarray(vectors[start : start + _CHUNK], dtype=np.float64)
        norms[start : start + len(chunk)] = np.linalg.norm(chunk, axis=1)
        total += chunk.sum(axis=0)
    _check_lengths(norms, what="vectors")
    mean = (total / len(vectors)).tolist()
    return VectorStats(float(norms.mean()), float(norms.std()), mean)


def probe_of(vectors: NDArray[np.floating]) -> Probe:
    """Return the probe of training items, given their old embeddings `[n, d_o]` in order."""
    _check_shape(vectors, what="vectors")
    return Probe(np.asarray(vectors[:PROBE_ITEMS], dtype=np.float64).tolist())


def check_vectors(stats: VectorStats, vectors: NDArray[np.floating], *, what: str) -> None:
    """Refuse vectors `[n, d]` that cannot be what `stats` were taken from.

    A mean that points elsewhere is only warned of: a gallery may hold other things than the
    training set did.

    Raises:
        ValueError: Another width; zero, NaN or infinite vectors; normalised where the map was
            trained on raw ones, or the other way round.
    """
    _check_shape(vectors, what=what)
    if vectors.shape[1] != len(stats.mean):
        raise ValueError(
            f"{what} are {vectors.shape[1]} wide, but the map takes {len(stats.mean)}; give the "
            "embeddings of its old model"
        )
    try:
        found = vector_stats(vectors)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if _unit(stats) != _unit(found):
        ours, theirs = ("raw", "normalised")[_unit(found)], ("raw", "normalised")[_unit(stats)]
        raise ValueError(
            f"{what} are {ours} (mean length {found.mean_norm:.4g}), but the map was trained on "
            f"{theirs} ones ({stats.mean_norm:.4g}): a metric mismatch; give {theirs} vectors"
        )
    if (cosine := _cosine_of_means(stats, found)) < SAME_MEAN:
        logger.warning(
            "%s point elsewhere than what the map was trained on (cosine of the means %.2f): make "
            "sure that they come from its old model",
            what,
            cosine,
        )


def check_probe(probe: Probe, vectors: ArrayLike, *, what: str) -> None:
    """Refuse an old model that embeds the probe's items otherwise than it did for the training.

    Raises:
        ValueError: Shape or values differ.
    """
    expected, found = np.asarray(probe.old), np.asarray(vectors, dtype=np.float64)
    if expected.shape != found.shape:
        raise ValueError(f"{what}: the probe is {expected.shape}, its new embedding {found.shape}")
    scale = np.linalg.norm(expected, axis=1)
    error = np.linalg.norm(expected - found, axis=1)
    wrong = int((~(error <= PROBE_TOLERANCE * scale)).sum())
    if wrong:
        raise ValueError(
            f"{what} embeds {wrong} of {len(found)} probe items otherwise than the old model that "
            "the map was trained on; give that model or train a map for this one"
        )


def _check_shape(vectors: NDArray[np.floating], *, what: str) -> None:
    if vectors.ndim != 2 or not len(vectors) or not vectors.shape[1]:
        raise ValueError(f"{what} must be an array [n, d] that is not empty, got {vectors.shape}")


def _check_lengths(norms: NDArray[np.float64], *, what: str) -> None:
    for problem, bad in (("NaN or infinity", ~np.isfinite(norms)), ("length zero", norms == 0)):
        if count := int(bad.sum()):
            first = int(bad.argmax())
            raise ValueError(
                f"{count} of {len(norms)} {what} have {problem}, the first is row {first}; "
                "embed those again or leave them out"
            )


def _unit(stats: VectorStats) -> bool:
    return abs(stats.mean_norm - 1) < UNIT_TOLERANCE and stats.std_norm < UNIT_TOLERANCE


def _cosine_of_means(one: VectorStats, other: VectorStats) -> float:
    """Return the cosine of two means; 1 where vectors are centred, so that it would be noise."""
    a, b = np.asarray(one.mean), np.asarray(other.mean)
    lengths = math.hypot(*a), math.hypot(*b)
    if lengths[0] < 0.1 * one.mean_norm or lengths[1] < 0.1 * other.mean_norm:
        return 1.0
    return float(a @ b / (lengths[0] * lengths[1]))
