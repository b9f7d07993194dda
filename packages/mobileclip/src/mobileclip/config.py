"""Options of model, loss and augmentation; standard library only."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Mode = Literal["clip", "online", "dr"]
Captions = Literal["real", "synthetic", "mix", "both"]

MODELS = ("s0", "s1", "s2", "b", "tiny")
"""The published models (spec 2.3), and a small one for 32-pixel images."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The student.

    Args:
        name: `s0`, `s1`, `s2`, `b` (paper table 1), or `tiny` for images of 32 pixels.
        image_size: Side of the images, 0 for the model's own (256; 224 for `b`, 32 for `tiny`).
        init_from: Weights that a new run starts from, in our, the official, open_clip's or timm's
            layout.
        grad_checkpointing: Recompute activations in the backward pass, for less memory.
    """

    name: str = "s0"
    image_size: int = 0
    init_from: Path | None = None
    grad_checkpointing: bool = False

    def __post_init__(self) -> None:
        _require(
            self.name in MODELS, "model.name", f"must be one of {', '.join(MODELS)}", self.name
        )
        _require(self.image_size >= 0, "model.image_size", "must be >= 0", self.image_size)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the student is trained on (paper section 3.2; spec 2.2).

    Args:
        mode: `clip` contrastive only, `online` with teachers that run beside the student, `dr`
            with stored teacher embeddings.
        captions: `real`, `synthetic`, `both` (the sum of the two losses), or `mix`: one loss, each
            real caption replaced by a synthetic one with probability `mix_ratio`.
        mix_ratio: Probability of a synthetic caption in `mix`.
        distill_weight: lambda, share of the distillation in the loss; 0 in mode `clip`.
        teacher_scales: Inverse temperatures of the teachers, one for all or one each; none for
            those that the data were stored with.
        local_loss: Whether each rank scores its own rows only.
        column_chunk: Columns of the affinity matrices held at once, 0 for all.
        micro_batch: Pairs encoded at once with gradient (exact gradient caching), 0 for all.
    """

    mode: Mode = "dr"
    captions: Captions = "both"
    mix_ratio: float = 0.5
    distill_weight: float = 1.0
    teacher_scales: tuple[float, ...] = ()
    local_loss: bool = True
    column_chunk: int = 0
    micro_batch: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("mode", Mode), ("captions", Captions)):
            value, known = getattr(self, name), get_args(choices)
            _require(value in known, f"loss.{name}", f"must be one of {', '.join(known)}", value)
        _require(0 <= self.mix_ratio <= 1, "loss.mix_ratio", "must lie in 0..1", self.mix_ratio)
        weight = self.distill_weight
        _require(0 <= weight <= 1, "loss.distill_weight", "must lie in 0..1", weight)
        positive = all(0 < scale < math.inf for scale in self.teacher_scales)
        _require(positive, "loss.teacher_scales", "must be > 0", self.teacher_scales)
        for name in ("column_chunk", "micro_batch"):
            value = getattr(self, name)
            _require(value >= 0, f"loss.{name}", "must be >= 0", value)


@dataclass(frozen=True, kw_only=True)
class RangeAugmentConfig:
    """Brightness, contrast and noise on the student's images, of learned strength (spec 2.1).

    Args:
        start_psnr: Likeness of augmented images to the given ones at the first step, dB.
        end_psnr: Their likeness at the last step; a cosine of the mean squared error lies between.
        weight: Of the term that holds the likeness to its target.
    """

    start_psnr: float = 40.0
    end_psnr: float = 20.0
    weight: float = 100.0

    def __post_init__(self) -> None:
        for name in ("start_psnr", "end_psnr", "weight"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"range_augment.{name}", "must be > 0", value)


def _require(holds: bool, name: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} {expectation}, got {value}")
