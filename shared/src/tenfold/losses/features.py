"""Distillation of features: cosine distance and mean squared error to a frozen teacher.

Shapes: the last axis holds the feature; all axes before it are rows (`[B, D]` for pooled features,
`[B, tokens, D]` for patches). Gradients reach the student only.

Not here: projection heads and resampling of grids (they belong to a paper's model).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.losses.numerics import (
    fill_invalid,
    mean_over_valid,
    require_rows_mask,
    widen,
)


def cosine_distance_loss(
    student: Tensor, teacher: Tensor, *, valid: Tensor | None = None
) -> Tensor:
    """Compute the mean over rows of `1 - cos(student, teacher)`: 0 aligned, 2 opposite.

    SAM-CLIP eq. 1 (arXiv:2310.15308) is this loss on pooled embeddings. The length of the vectors
    does not matter.

    Args:
        student: Features `[..., D]`, any floating dtype.
        teacher: Features of the same shape.
        valid: Bool mask `[...]` of the rows that count; all if absent. No valid row gives 0.

    Returns:
        A scalar in float32 (float64 for float64 features).

    Raises:
        ValueError: Shapes differ or the mask does not fit.
    """
    features, target = _comparable(student, teacher, valid)
    return mean_over_valid(1 - F.cosine_similarity(features, target, dim=-1), valid)


def feature_mse_loss(
    student: Tensor, teacher: Tensor, *, normalize: bool = False, valid: Tensor | None = None
) -> Tensor:
    """Compute the squared error, averaged over rows and feature entries.

    With `normalize` both sides are divided by their L2 norm first; the value is then
    `2 / D * cosine_distance_loss`, whose other arguments, result dtype and errors are the same.
    """
    features, target = _comparable(student, teacher, valid)
    if normalize:
        features, target = F.normalize(features, dim=-1), F.normalize(target, dim=-1)
    rows = F.mse_loss(features, target, reduction="none").mean(-1)
    return mean_over_valid(rows, valid)


def _comparable(student: Tensor, teacher: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check the pair; return it widened, without gradient to the teacher or from invalid rows."""
    if student.shape != teacher.shape:
        raise ValueError(
            "student and teacher features must have the same shape, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}; project the student first"
        )
    require_rows_mask(valid, student.shape[:-1])
    features = fill_invalid(widen(student), valid, 1.0)
    return features, fill_invalid(widen(teacher.detach()), valid, 1.0)


class CosineDistanceLoss(nn.Module):
    """`cosine_distance_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the scalar loss; arguments as in `cosine_distance_loss`."""
        return cosine_distance_loss(student, teacher, valid=valid)


class FeatureMSELoss(nn.Module):
    """`feature_mse_loss` with `normalize` fixed."""

    def __init__(self, *, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the scalar loss; arguments as in `feature_mse_loss`."""
        return feature_mse_loss(student, teacher, normalize=self.normalize, valid=valid)
