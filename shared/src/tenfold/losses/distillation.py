"""Distillation of class predictions: KL from a dense teacher or from stored top-K targets.

Shapes: the last axis is the class axis; all axes before it are rows (`[B, C]` for classification,
`[B, H, W, C]` for dense prediction). C classes, K stored classes a row.

Both losses are true divergences, zero at student = teacher, computed in float32 or wider. Gradients
reach the student only.

Not here: cross-entropy with hard labels (torch), affinity distillation (`losses.contrastive`).
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.losses.numerics import (
    fill_invalid,
    mean_over_valid,
    require_rows_mask,
    widen,
)

TeacherForm = Literal["logits", "probabilities"]
Rest = Literal["uniform", "renormalise"]


def soft_target_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    teacher_form: TeacherForm = "logits",
    temperature: float = 1.0,
    multiply_by_t2: bool = True,
    valid: Tensor | None = None,
) -> Tensor:
    """Compute T^2 * KL(teacher_T || student_T), averaged over rows.

    `student_T = softmax(student / T)`; a teacher given as logits is tempered the same way, one
    given as probabilities p becomes `p^(1/T)` normalised, which is the same distribution. The
    gradient with respect to a row's logits is `T * (student_T - teacher_T) / rows` with the factor.

    Args:
        student: Logits `[..., C]`, any floating dtype.
        teacher: Logits or probabilities `[..., C]`. Probabilities are taken as given (rows that sum
            to 1): checking their values would wait for the device at every step.
        teacher_form: What `teacher` holds.
        temperature: T > 0.
        multiply_by_t2: Keeps the size of the gradient independent of T (Hinton et al. 2015,
            arXiv:1503.02531, sec. 2), as the official knowledge-distillation baseline of Dataset
            Reinforcement does. No effect at T = 1.
        valid: Bool mask `[...]` of the rows that count; all if absent. No valid row gives 0.

    Returns:
        A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: Shapes differ, the mask does not fit, or an option has no such value.
    """
    _require_options(temperature, teacher_form=teacher_form)
    if student.shape != teacher.shape:
        raise ValueError(
            "student and teacher must have the same shape [..., classes], "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    require_rows_mask(valid, student.shape[:-1])
    logits = fill_invalid(widen(student), valid, 0.0)
    target = fill_invalid(widen(teacher.detach()), valid, 1.0)
    if teacher_form == "logits":
        target = F.softmax(target / temperature, dim=-1)
    elif temperature != 1:
        target = F.softmax(target.log() / temperature, dim=-1)
    log_student = F.log_softmax(logits / temperature, dim=-1)
    rows = F.kl_div(log_student, target, reduction="none").sum(-1)
    return mean_over_valid(rows, valid) * (temperature**2 if multiply_by_t2 else 1)


def sparse_target_loss(
    student: Tensor,
    indices: Tensor,
    probabilities: Tensor,
    *,
    rest: Rest = "uniform",
    temperature: float = 1.0,
    multiply_by_t2: bool = True,
    valid: Tensor | None = None,
) -> Tensor:
    """Compute T^2 * KL(target_T || student_T) from the K stored classes of every row.

    With `r = 1 - sum_k p_k` the target is `p_k` on the stored classes and `r / (C - K)` on each
    other one ("smooth" densification, Dataset Reinforcement, arXiv:2303.08983, official training
    code), or `p_k / sum_k p_k` and 0 (`rest="renormalise"`). The dense target is never built:
    only K columns, the sum and the log-sum-exp of the logits enter. With K = C it equals
    `soft_target_loss`, value and gradient.

    Rows that sum to more than 1, as half-precision storage makes them, are divided by their sum
    (the official code takes a softmax of the probabilities there, which flattens the target).

    Args:
        student: Logits `[..., C]`, any floating dtype.
        indices: Stored classes `[..., K]`, an integer dtype, no class twice in a row.
        probabilities: Their probabilities `[..., K]`, at temperature 1, any floating dtype.
        rest: Where the mass of the classes that were not stored goes.
        temperature: T > 0; the completed target is tempered as in `soft_target_loss`. The paper
            trains at 1. Larger values also enlarge the rounding of the stored mass, because
            a small rest r counts as `(r / (C - K))^(1/T)`.
        multiply_by_t2: See `soft_target_loss`.
        valid: Bool mask `[...]` of the rows that count; all if absent. No valid row gives 0.

    Returns:
        A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: Shapes do not fit, K > C, indices are not integers, or an option has no such
            value.
    """
    _require_options(temperature, rest=rest)
    _require_sparse(student, indices, probabilities)
    require_rows_mask(valid, student.shape[:-1])
    num_rest = student.shape[-1] - indices.shape[-1]
    logits = fill_invalid(widen(student), valid, 0.0) / temperature
    stored = fill_invalid(widen(probabilities.detach()), valid, 1.0)
    chosen = fill_invalid(indices.long(), valid, 0)
    stored, other = _complete(stored, num_rest, rest)
    if temperature != 1:
        stored, other = _temper(stored, other, num_rest, temperature)
    log_normaliser = logits.logsumexp(-1, keepdim=True)
    log_chosen = logits.gather(-1, chosen) - log_normaliser
    rows = F.kl_div(log_chosen, stored, reduction="none").sum(-1)
    if num_rest and rest == "uniform":
        log_all = logits.sum(-1) - student.shape[-1] * log_normaliser.squeeze(-1)
        log_others = log_all - log_chosen.sum(-1)
        rows = rows + num_rest * torch.xlogy(other, other) - other * log_others
    return mean_over_valid(rows, valid) * (temperature**2 if multiply_by_t2 else 1)


def _complete(stored: Tensor, num_rest: int, rest: Rest) -> tuple[Tensor, Tensor]:
    """Return the stored classes' probabilities and that of each single other class."""
    total = stored.sum(-1, keepdim=True)
    if rest == "renormalise" or num_rest == 0:
        return stored / total, torch.zeros_like(total.squeeze(-1))
    stored = stored / total.clamp_min(1)
    return stored, (1 - stored.sum(-1)).clamp_min(0) / num_rest


def _temper(
    stored: Tensor, other: Tensor, num_rest: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Raise to the power 1/T and normalise, in logarithms so that a small T cannot underflow."""
    if num_rest == 0:
        return F.softmax(stored.log() / temperature, dim=-1), other
    log_rest = other.log() / temperature + math.log(num_rest)
    log_mass = torch.cat([stored.log() / temperature, log_rest.unsqueeze(-1)], dim=-1)
    mass = F.softmax(log_mass, dim=-1)
    return mass[..., :-1], mass[..., -1] / num_rest


def _require_sparse(student: Tensor, indices: Tensor, probabilities: Tensor) -> None:
    if indices.shape != probabilities.shape or indices.shape[:-1] != student.shape[:-1]:
        raise ValueError(
            "indices and probabilities must be [..., K] with the rows of the logits, got "
            f"{tuple(indices.shape)} and {tuple(probabilities.shape)} for logits "
            f"{tuple(student.shape)}"
        )
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(f"indices must be integers, got dtype {indices.dtype}")
    if not 1 <= indices.shape[-1] <= student.shape[-1]:
        raise ValueError(
            f"K stored classes must lie in 1..{student.shape[-1]} (classes of the model), "
            f"got {indices.shape[-1]}"
        )


def _require_options(
    temperature: float, *, teacher_form: str = "logits", rest: str = "uniform"
) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be > 0 and finite, got {temperature}")
    if teacher_form not in get_args(TeacherForm):
        raise ValueError(f"teacher_form must be one of {get_args(TeacherForm)}, got {teacher_form}")
    if rest not in get_args(Rest):
        raise ValueError(f"rest must be one of {get_args(Rest)}, got {rest}")


class SoftTargetLoss(nn.Module):
    """`soft_target_loss` with its options fixed and checked once."""

    def __init__(
        self,
        *,
        teacher_form: TeacherForm = "logits",
        temperature: float = 1.0,
        multiply_by_t2: bool = True,
    ) -> None:
        super().__init__()
        _require_options(temperature, teacher_form=teacher_form)
        self.teacher_form: TeacherForm = teacher_form
        self.temperature = temperature
        self.multiply_by_t2 = multiply_by_t2

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the scalar loss; arguments as in `soft_target_loss`."""
        return soft_target_loss(
            student,
            teacher,
            teacher_form=self.teacher_form,
            temperature=self.temperature,
            multiply_by_t2=self.multiply_by_t2,
            valid=valid,
        )


class SparseTargetLoss(nn.Module):
    """`sparse_target_loss` with its options fixed and checked once."""

    def __init__(
        self,
        *,
        rest: Rest = "uniform",
        temperature: float = 1.0,
        multiply_by_t2: bool = True,
    ) -> None:
        super().__init__()
        _require_options(temperature, rest=rest)
        self.rest: Rest = rest
        self.temperature = temperature
        self.multiply_by_t2 = multiply_by_t2

    def forward(
        self, student: Tensor, indices: Tensor, probabilities: Tensor, valid: Tensor | None = None
    ) -> Tensor:
        """Return the scalar loss; arguments as in `sparse_target_loss`."""
        return sparse_target_loss(
            student,
            indices,
            probabilities,
            rest=self.rest,
            temperature=self.temperature,
            multiply_by_t2=self.multiply_by_t2,
            valid=valid,
        )
