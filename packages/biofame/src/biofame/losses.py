"""Losses of labelled windows, in float32; what is unknown does not count.

Shapes: `...` windows, or windows of sequences; K outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NOTHING = 1e-6
"""Keeps the mean over no known window at 0."""


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return float32 `[..., K]` of classes `[...]`; the row of -1, unknown, is zeros."""
    return (labels[..., None] == torch.arange(classes, device=labels.device)).float()


def class_loss(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy with soft labels.

    Args:
        logits: `[..., K]`.
        targets: Weights of the classes, `[..., K]`; their sum is what a window counts, 0 if it is
            unknown.
        label_smoothing: Share of each label that goes to all classes alike.
    """
    weight = targets.sum(dim=-1, keepdim=True)
    smooth = (1 - label_smoothing) * targets + label_smoothing / targets.shape[-1] * weight
    cost = -(smooth * logits.float().log_softmax(dim=-1)).sum()
    return cost / weight.sum().clamp(min=NOTHING)


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of several labels; windows with a NaN are unknown."""
    known = _known(targets)
    cost = F.binary_cross_entropy_with_logits(
        logits.float(), targets.nan_to_num(), reduction="none"
    )
    return _mean(cost, known)


def number_loss(numbers: Tensor, targets: Tensor, *, scale: Tensor) -> Tensor:
    """Return the mean square error in units of `scale` `[K]`; windows with a NaN are unknown."""
    known = _known(targets)
    cost = ((numbers.float() - targets.nan_to_num()) / scale).square()
    return _mean(cost, known)


def _known(targets: Tensor) -> Tensor:
    return (~targets.isnan().any(dim=-1, keepdim=True)).float()


def _mean(cost: Tensor, known: Tensor) -> Tensor:
    total = (known.sum() * cost.shape[-1]).clamp(min=NOTHING)
    return (cost * known).sum() / total
