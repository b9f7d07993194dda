"""Losses on the image-text affinity matrix of the global batch: CLIP and affinity distillation.

Shapes: N pairs on this rank, b = W * N pairs over all W ranks, D and D_k embedding widths of the
student and of teacher k. Row i of the images belongs to row i of the texts. Rows are unit vectors,
and scales are inverse temperatures (`exp(s)` of a learned s); neither is changed here.

With `local_loss` a rank scores its own rows against all b columns: `[N, b]` matrices, and a value
that differs between ranks, whose mean over ranks is the loss of the global batch. Without it every
rank holds `[b, b]` and the same value. DDP's mean of gradients equals one process on the global
batch either way (`gather.gather_rows`).

Not here: encoders, clamping of the scale, weights between losses, one direction's matrices
(`affinity_rows`).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tenfold.gather import gather_rows, rank_and_size
from tenfold.losses.affinity_rows import Affinity, row_terms
from tenfold.losses.numerics import widen


def clip_loss(
    image_ND: Tensor, text_ND: Tensor, logit_scale: Tensor | float, *, local_loss: bool = True
) -> Tensor:
    """Compute the symmetric contrastive loss of CLIP over the global batch.

    `L = 1/2 [CE(s * I T^T, arange(b)) + CE(s * T I^T, arange(b))]`, cross-entropy averaged over
    rows (Radford et al. 2021, arXiv:2103.00020, fig. 3; L_CLIP in MobileCLIP, arXiv:2311.17049);
    the formula of open_clip's `ClipLoss` with `gather_with_grad`.

    Args:
        image_ND: Unit image embeddings, the same N on every rank.
        text_ND: Unit text embeddings of the same shape.
        logit_scale: s, a scalar; gradients reach it.
        local_loss: Own rows only (memory N * b a direction) or the full matrix on every rank.

    Returns:
        A scalar in float32 (float64 for float64 embeddings).

    Raises:
        ValueError: Shapes differ between the two or between ranks.
    """
    _require_pair(image_ND, text_ND, "image and text embeddings")
    with _autocast_off(image_ND):
        first = rank_and_size()[0] * len(image_ND) if local_loss else 0
        directions = _affinities(image_ND, text_ND, logit_scale, local_loss=local_loss)
        losses = [row_terms(student, [], first=first).clip for student in directions]
        return (losses[0] + losses[1]) / 2


def affinity_distillation_loss(
    image_ND: Tensor,
    text_ND: Tensor,
    logit_scale: Tensor | float,
    teachers: Sequence[tuple[Tensor, Tensor]],
    *,
    teacher_scales: float | Sequence[float],
    local_loss: bool = True,
) -> Tensor:
    """Compute L_Distill of MobileCLIP: match the affinities of K teachers on the global batch.

    `1/2 [L_I2T + L_T2I]` with `L_I2T = 1/(bK) sum_k sum_rows KL(softmax(s_k I_k T_k^T) ||
    softmax(s I T^T))`, softmax over the columns, and L_T2I with image and text exchanged
    (arXiv:2311.17049, sec. "Loss function").

    The gradient is that of the cross-entropy with the mean of the teachers' softmaxes, which
    the official code minimises; the values differ by the mean entropy of the teachers.
    Averaging the teachers' logits would be another loss.

    Args:
        image_ND: Unit image embeddings of the student, the same N on every rank.
        text_ND: Unit text embeddings of the same shape.
        logit_scale: The student's s, a scalar; gradients reach it.
        teachers: One pair of unit embeddings (image `[N, D_k]`, text `[N, D_k]`) a teacher. They
            are gathered without gradient, in the dtype that they have.
        teacher_scales: One s_k > 0 for all teachers, or one for each.
        local_loss: Own rows only (memory N * b a direction) or the full matrix on every rank.

    Returns:
        A scalar in float32 (float64 for float64 embeddings), 0 where all teachers agree with the
        student.

    Raises:
        ValueError: No teacher, a number of scales that is neither 1 nor K, a scale that is not
            positive, or shapes that do not fit.
    """
    scales = scale_of_each(teacher_scales, len(teachers))
    _require_pair(image_ND, text_ND, "image and text embeddings")
    for index, (teacher_image, teacher_text) in enumerate(teachers):
        _require_pair(teacher_image, teacher_text, f"embeddings of teacher {index}")
        if len(teacher_image) != len(image_ND):
            raise ValueError(
                f"teacher {index} has {len(teacher_image)} rows, the student {len(image_ND)}"
            )
    with _autocast_off(image_ND):
        first = rank_and_size()[0] * len(image_ND) if local_loss else 0
        with torch.no_grad():
            targets = [
                _affinities(*teacher, scale, local_loss=local_loss, with_gradient=False)
                for teacher, scale in zip(teachers, scales, strict=True)
            ]
        students = _affinities(image_ND, text_ND, logit_scale, local_loss=local_loss)
        terms = [
            row_terms(student, [*others], first=first)
            for student, *others in zip(students, *targets, strict=True)
        ]
        divergences = [each.distill_ce - each.entropy for each in terms]
        return (divergences[0] + divergences[1]) / 2


def _autocast_off(tensor: Tensor) -> torch.autocast:
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _affinities(
    image_ND: Tensor,
    text_ND: Tensor,
    scale: Tensor | float,
    *,
    local_loss: bool,
    with_gradient: bool = True,
) -> tuple[Affinity, Affinity]:
    """Return the directions image to text and text to image of the global batch."""
    if with_gradient:  # widened before the exchange, so that ranks sum gradients in full precision
        image_ND, text_ND = widen(image_ND), widen(text_ND)
    both = gather_rows(torch.cat([image_ND, text_ND], dim=1), with_gradient=with_gradient)
    all_image_bD, all_text_bD = widen(both).chunk(2, dim=1)
    scale = widen(scale) if isinstance(scale, Tensor) else scale
    if local_loss:
        image_RD, text_RD = widen(image_ND), widen(text_ND)
    else:
        image_RD, text_RD = all_image_bD, all_text_bD
    return Affinity(image_RD, all_text_bD, scale), Affinity(text_RD, all_image_bD, scale)


def scale_of_each(scales: float | Sequence[float], num_teachers: int) -> list[float]:
    """Return one scale a teacher: a single one serves all of them.

    Raises:
        ValueError: No teacher, a number of scales that is neither 1 nor that of the teachers, or a
            scale that is not positive.
    """
    if num_teachers == 0:
        raise ValueError("affinity distillation needs at least one teacher, got none")
    each: list[float] = [*scales] if isinstance(scales, Sequence) else [scales]
    if len(each) == 1:
        each *= num_teachers
    if len(each) != num_teachers:
        raise ValueError(
            f"teacher_scales must hold one value or one a teacher ({num_teachers}), got {len(each)}"
        )
    _require_scales(each)
    return each


def _require_scales(scales: Sequence[float]) -> None:
    for scale in scales:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"teacher_scales must be > 0 and finite, got {scale}")


def _require_pair(image_ND: Tensor, text_ND: Tensor, what: str) -> None:
    if image_ND.ndim != 2 or image_ND.shape != text_ND.shape:
        raise ValueError(
            f"{what} must both be [N, D], got {tuple(image_ND.shape)} and {tuple(text_ND.shape)}"
        )


class ClipLoss(nn.Module):
    """`clip_loss` with `local_loss` fixed."""

    def __init__(self, *, local_loss: bool = True) -> None:
        super().__init__()
        self.local_loss = local_loss

    def forward(self, image_ND: Tensor, text_ND: Tensor, logit_scale: Tensor | float) -> Tensor:
        """Return the scalar loss; arguments as in `clip_loss`."""
        return clip_loss(image_ND, text_ND, logit_scale, local_loss=self.local_loss)


class AffinityDistillationLoss(nn.Module):
    """`affinity_distillation_loss` with the teachers' scales fixed and checked once."""

    def __init__(self, teacher_scales: float | Sequence[float], *, local_loss: bool = True) -> None:
        super().__init__()
        self.teacher_scales = (
            tuple(teacher_scales) if isinstance(teacher_scales, Sequence) else (teacher_scales,)
        )
        _require_scales(self.teacher_scales)
        self.local_loss = local_loss

    def forward(
        self,
        image_ND: Tensor,
        text_ND: Tensor,
        logit_scale: Tensor | float,
        teachers: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Return the scalar loss; arguments as in `affinity_distillation_loss`."""
        return affinity_distillation_loss(
            image_ND,
            text_ND,
            logit_scale,
            teachers,
            teacher_scales=self.teacher_scales,
            local_loss=self.local_loss,
        )
