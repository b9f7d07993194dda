"""Options of detection and segmentation with a trained backbone; standard library only."""

import math
from dataclasses import dataclass
from pathlib import Path

from dataset_reinforcement.config import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The trunk, a timm model whose classifier was trained before.

    Args:
        name: A timm model with features at strides 4, 8, 16 and 32, such as `resnet50`.
        init_from: Weights that a new run starts from: a run folder or checkpoint of `fit`,
            safetensors or a torch file of tensors; None for random ones.
        ema: Take the moving average of the checkpoint.
        mean: Mean of each channel over 0..1, as when it was trained.
        std: Standard deviation of each channel.
        freeze_norm: Keep the statistics and gains of batch norm; for few images on a device.
    """

    name: str = "resnet50"
    init_from: Path | None = None
    ema: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    freeze_norm: bool = False

    def __post_init__(self) -> None:
        _require(
            all(s > 0 for s in self.std), "backbone.std", "must be three numbers > 0", self.std
        )
        taken = self.init_from is not None or not self.ema
        _require(taken, "backbone.ema", "needs backbone.init_from", self.ema)


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """Mask R-CNN with a feature pyramid (defaults: CVNets' recipe for COCO).

    Args:
        classes: Kinds of objects, without the background.
        image_size: Side to which images are scaled, whatever their aspect ratio.
    """

    classes: int = 80
    image_size: int = 1024

    def __post_init__(self) -> None:
        _require(self.classes >= 1, "model.classes", "must be >= 1", self.classes)
        fits = self.image_size >= 32 and self.image_size % 32 == 0
        _require(fits, "model.image_size", "must be a multiple of 32", self.image_size)


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """DeepLabv3 with an auxiliary head one stage earlier.

    Args:
        classes: Kinds of pixels.
        output_stride: Stride of the trunk's last stages, 8 or 16; the rates of the dilated
            convolutions follow it.
        aux_weight: Weight of the auxiliary head's loss.
    """

    classes: int = 150
    output_stride: int = 8
    aux_weight: float = 0.4

    def __post_init__(self) -> None:
        _require(self.classes >= 2, "model.classes", "must be >= 2", self.classes)
        known = self.output_stride in (8, 16)
        _require(known, "model.output_stride", "must be 8 or 16", self.output_stride)
        valid = 0 <= self.aux_weight < math.inf
        _require(valid, "model.aux_weight", "must be >= 0", self.aux_weight)


@dataclass(frozen=True, kw_only=True)
class TransferOptimConfig:
    """SGD with a smaller rate for the trunk, linear warm-up, then steps down or a cosine.

    Args:
        lr: Learning rate of the heads after the warm-up.
        total_steps: Optimiser steps of the run.
        backbone_lr_scale: Learning rate of the trunk as share of `lr`.
        milestones: Shares of the run at which the rate is multiplied by `gamma`; none for one
            cosine.
        min_lr: Learning rate of the heads at the end of the cosine.
        gamma: Factor of a milestone.
        warmup_steps: Steps of the linear warm-up.
        momentum: Of SGD.
        weight_decay: Added to the gradient; norms, biases and vectors are exempt.
    """

    lr: float
    total_steps: int
    backbone_lr_scale: float = 0.1
    milestones: tuple[float, ...] = ()
    min_lr: float = 0.0
    gamma: float = 0.1
    warmup_steps: int = 500
    momentum: float = 0.9
    weight_decay: float = 4e-5

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, "optim.lr", "must be > 0", self.lr)
        _require(self.total_steps > 0, "optim.total_steps", "must be > 0", self.total_steps)
        _require(0 <= self.momentum < 1, "optim.momentum", "must lie in [0, 1)", self.momentum)
        least = f"must lie in 0..{self.lr}"
        _require(0 <= self.min_lr <= self.lr, "optim.min_lr", least, self.min_lr)
        for name in ("backbone_lr_scale", "gamma", "warmup_steps", "weight_decay"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"optim.{name}", "must be >= 0", value)
        rising = list(self.milestones) == sorted(set(self.milestones))
        inside = all(0 < milestone < 1 for milestone in self.milestones)
        expectation = "must be rising shares between 0 and 1"
        _require(rising and inside, "optim.milestones", expectation, self.milestones)

    def factor(self, step: int) -> float:
        """Return what every learning rate is multiplied by at optimiser step `step`, from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.milestones:
            passed = sum(step >= milestone * self.total_steps for milestone in self.milestones)
            return self.gamma**passed
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        left = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        lowest = self.min_lr / self.lr
        return lowest + (1 - lowest) * left


def _require(holds: bool, name: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} {expectation}, got {value}")
