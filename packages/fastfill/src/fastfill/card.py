"""Cards: which models made some vectors and what h was trained on, so that nothing is mixed.

What cards say is compared by `check_same`, what the vectors say by `check_vectors`. Not here: files
(`weights.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

from fastfill.card_json import entries, require_count, require_flag, require_text
from fastfill.config import Metric
from fastfill.vector_checks import (
    PROBE_ITEMS,
    Probe,
    VectorStats,
    check_probe,
    check_vectors,
    probe_of,
    vector_stats,
)

__all__ = [
    "KINDS",
    "PROBE_ITEMS",
    "ModelCard",
    "Probe",
    "TransformCard",
    "VectorStats",
    "check_probe",
    "check_same",
    "check_vectors",
    "probe_of",
    "vector_stats",
]

KINDS = ("fastfill", "linear", "ridge", "procrustes")
"""How a map came about."""


@dataclass(frozen=True)
class ModelCard:
    """An embedding model, as far as its vectors must not be mixed with those of another.

    Args:
        name: For messages; two names may stand for the same weights.
        dim: Width of an embedding.
        metric: What is near among its embeddings.
        weights_sha256: Digest of all weights; for a model without a file any text that changes
            with the weights, as a provider's version.
        num_classes: Rows of its classifier, 0 without one.
        normalized: Whether its embeddings have length 1.
    """

    name: str
    dim: int
    metric: Metric
    weights_sha256: str
    num_classes: int = 0
    normalized: bool = False

    def __post_init__(self) -> None:
        require_text(self.name, "name")
        require_count(self.dim, "dim", least=1)
        require_text(self.weights_sha256, "weights_sha256")
        require_count(self.num_classes, "num_classes", least=0)
        require_flag(self.normalized, "normalized")
        if self.metric not in get_args(Metric):
            known = ", ".join(get_args(Metric))
            raise ValueError(f"a card's metric must be one of {known}, got {self.metric!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | str) -> Self:
        """Return the card that `to_json` gave, or its JSON text.

        Raises:
            ValueError: Something is missing, unknown or of another type.
        """
        return cls(**entries(cls, value, optional=("num_classes", "normalized")))


@dataclass(frozen=True, kw_only=True)
class TransformCard:
    """A map between the spaces of two models.

    Args:
        old: Model of the vectors that go in.
        new: Model in whose space they come out.
        side: Model of the side information; without one the old vector is passed twice.
        inner: Width of the mixer, 0 for a closed form.
        per_dimension: Whether there is a variance for each dimension.
        kind: `fastfill`, `linear`, `ridge` or `procrustes`.
        old_stats: Of the old vectors it was trained on.
        probe: Of the first training items.
        training_data: Where the pairs came from, for people.
    """

    old: ModelCard
    new: ModelCard
    side: ModelCard | None = None
    inner: int = 2048
    per_dimension: bool = False
    kind: str = "fastfill"
    old_stats: VectorStats
    probe: Probe | None = None
    training_data: str = ""

    def __post_init__(self) -> None:
        require_count(self.inner, "inner", least=0)
        require_flag(self.per_dimension, "per_dimension")
        if self.kind not in KINDS:
            raise ValueError(f"a card's kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not isinstance(self.training_data, str):
            raise ValueError(f"a card's training_data must be text, got {self.training_data!r:.40}")
        widths = {"old_stats": len(self.old_stats.mean)}
        if self.probe is not None:
            widths["probe"] = len(self.probe.old[0])
        for name, width in widths.items():
            if width != self.old.dim:
                raise ValueError(
                    f"a card's {name} is {width} wide, but {self.old.name} has {self.old.dim}"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return json.loads(json.dumps(asdict(self)))  # tuples become lists

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | str) -> Self:
        """Return the card that `to_json` gave, or its JSON text.

        Raises:
            ValueError: Something is missing, unknown or of another type.
        """
        given = entries(cls, value)
        given["old"] = ModelCard.from_json(given["old"])
        given["new"] = ModelCard.from_json(given["new"])
        given["old_stats"] = VectorStats.from_json(given["old_stats"])
        if given["side"] is not None:
            given["side"] = ModelCard.from_json(given["side"])
        if given["probe"] is not None:
            given["probe"] = Probe.from_json(given["probe"])
        return cls(**given)


def check_same(expected: ModelCard, found: ModelCard, *, what: str = "model") -> None:
    """Refuse a model that is not the expected one; its name may be another.

    Raises:
        ValueError: Weights, width, metric or normalisation differ.
    """
    if expected.weights_sha256 != found.weights_sha256:
        raise ValueError(
            f"{what}: expected {expected.name} ({expected.weights_sha256:.16}), got {found.name} "
            f"({found.weights_sha256:.16}): their weights differ, so do their spaces; give the "
            "expected model"
        )
    for name in ("dim", "metric", "normalized"):
        one, other = getattr(expected, name), getattr(found, name)
        if one != other:
            raise ValueError(
                f"{what}: {name} of {expected.name} ({expected.weights_sha256:.16}) is {one}, of "
                f"{found.name} ({found.weights_sha256:.16}) it is {other}; use the same {name}"
            )
