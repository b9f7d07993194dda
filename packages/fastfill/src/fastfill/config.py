"""Options of backbones, transformation and objectives; standard library only."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Metric = Literal["l2", "cosine", "ip"]
"""What is near: squared distance, cosine, inner product."""

Similarity = Literal["mse", "l1", "cosine"]
Method = Literal["plain", "bct", "lwf", "ract", "bct_ract", "triplet", "l2"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """An embedding network with a linear classifier without bias (spec 2.3).

    Args:
        arch: `resnet18`, `resnet50`, `resnet101`, `wide_resnet50_2`, `wide_resnet101_2` (last block
            reduced to `dim` channels), `tiny_conv` for 32 pixels, `tiny_mlp` for 8x8 digits,
            or `timm:<model>` for any of timm's with a projection to `dim`.
        dim: Width of an embedding.
        num_classes: Rows of the classifier; an old model that saw fewer classes keeps all rows.
        init_from: Weights a new run starts from.
    """

    arch: str = "resnet50"
    dim: int = 128
    num_classes: int = 1000
    init_from: Path | None = None

    def __post_init__(self) -> None:
        _require(self.dim >= 1, "model.dim", "must be >= 1", self.dim)
        _require(self.num_classes >= 2, "model.num_classes", "must be >= 2", self.num_classes)


@dataclass(frozen=True, kw_only=True)
class CompatConfig:
    """Training that keeps a new backbone comparable with an old one (spec 2.7).

    Args:
        method: `plain` ignores the old model; `bct` adds cross-entropy through the old head, `lwf`
            against the old model's probabilities, `ract` contrasts new and old embeddings;
            `bct_ract`, `triplet` and `l2` as in RACT's authors' code.
        old: Folder, checkpoint or weights of the old backbone; needed by all but `plain`.
        old_classes: Classes the old model was trained on, the first of its head; 0 for all.
        weight: Of the compatibility term.
        temperature: Of `ract`.
        hardest: Negatives of each kind that `ract` keeps.
        margin: Of `triplet`.
        label_smoothing: Of the cross-entropy over the classes.
    """

    method: Method = "plain"
    old: Path | None = None
    old_classes: int = 0
    weight: float = 1.0
    temperature: float = 0.01
    hardest: int = 10
    margin: float = 0.8
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        known = get_args(Method)
        _require(
            self.method in known, "compat.method", f"must be one of {', '.join(known)}", self.method
        )
        if self.method != "plain" and self.old is None:
            raise ValueError(f"compat.old must name the old backbone with method {self.method}")
        for name in ("weight", "temperature", "margin"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"compat.{name}", "must be > 0", value)
        _require(self.old_classes >= 0, "compat.old_classes", "must be >= 0", self.old_classes)
        _require(self.hardest >= 1, "compat.hardest", "must be >= 1", self.hardest)
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "compat.label_smoothing", "must lie in [0, 1)", smoothing)


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """The network h from stored old embeddings to the new space (spec 2.3).

    Args:
        inner: Width of the mixer's hidden layers.
        per_dimension: Predict a variance for each dimension, which weights the similarity alone;
            the paper's is one for the item, which weights the whole loss.
        eval_from: Share of the run after which batch statistics are frozen while h is still
            trained (`switch_mode_to_eval` of the published configurations); 1 never.
        init_from: Weights a new run starts from.
    """

    inner: int = 2048
    per_dimension: bool = False
    eval_from: float = 0.5
    init_from: Path | None = None

    def __post_init__(self) -> None:
        _require(self.inner >= 1, "model.inner", "must be >= 1", self.inner)
        _require(0 <= self.eval_from <= 1, "model.eval_from", "must lie in 0..1", self.eval_from)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What h is trained on (spec 2.2). With `mu_disc` 0 and no uncertainty it is FCT.

    Args:
        similarity: Of transformed and new embedding: `mse`, `l1` (means over dimensions), `cosine`.
        mu_sim: Weight of the similarity.
        mu_disc: Weight of the cross-entropy through the new model's frozen head.
        label_smoothing: Of that cross-entropy; 0 for the plain one.
        uncertainty: Whether the loss of an item is weighted by its predicted variance.
        mu_unc: Weight of the log-variance.
        labels: `given` by the data, `pseudo` the new head's most likely class, or `means`: the
            classes' mean embeddings are the head, where the new model has none (an extension).
    """

    similarity: Similarity = "mse"
    mu_sim: float = 1.0
    mu_disc: float = 1.0
    label_smoothing: float = 0.1
    uncertainty: bool = True
    mu_unc: float = 0.5
    labels: Literal["given", "pseudo", "means"] = "given"

    def __post_init__(self) -> None:
        for name, choices in (("similarity", get_args(Similarity)), ("labels", LABELS)):
            value = getattr(self, name)
            _require(
                value in choices, f"loss.{name}", f"must be one of {', '.join(choices)}", value
            )
        for name in ("mu_sim", "mu_disc", "mu_unc"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"loss.{name}", "must be >= 0", value)
        if self.mu_sim == self.mu_disc == 0:
            raise ValueError("loss.mu_sim and loss.mu_disc are both 0; nothing would be trained")
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "loss.label_smoothing", "must lie in [0, 1)", smoothing)


LABELS = ("given", "pseudo", "means")


def _require(holds: bool, name: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} {expectation}, got {value}")
