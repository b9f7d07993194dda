"""The loss of reinforced training over the global batch (paper section 3.2; spec 2.2).

For each set of captions `L = (1 - lambda) L_CLIP + lambda L_Distill`; those of real and synthetic
captions are added. `L_Distill` is the mean of `KL(p_k || q)` over K teachers, rows and directions:
the softmaxes are averaged, not the logits. The official code minimises the cross-entropy with their
mean instead, whose gradient is the same and whose value is larger by the teachers' entropy.

Shapes: N pairs on this rank, b pairs on all ranks, D and D_k embedding widths of the student and of
teacher k. Row i of images, captions and teacher embeddings belongs to pair i, and is a unit vector.

Not here: encoders, clamping of the scale, one direction's matrices
(`tenfold.losses.affinity_rows`).
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tenfold.gather import gather_rows, rank_and_size
from tenfold.losses.affinity_rows import Affinity, RowTerms, row_terms
from tenfold.losses.contrastive import scale_of_each
from tenfold.losses.numerics import widen

logger = logging.getLogger(__name__)


class TeacherEmbeddings(NamedTuple):
    """What one teacher sees in the pairs of this rank, unit rows `[N, D_k]`.

    Attributes:
        image: Of the view that the student sees.
        text: Of the real captions, if the student has those.
        synthetic: Of the synthetic captions, if the student has those.
    """

    image: Tensor
    text: Tensor | None = None
    synthetic: Tensor | None = None


class LossTerms(NamedTuple):
    """Scalars in float32 (float64 for float64 embeddings), sums over the sets of captions.

    Attributes:
        total: `(1 - lambda) * clip + lambda * distill_kl`, to be minimised.
        clip: Contrastive loss.
        distill_ce: Cross-entropy with the mean of the teachers' softmaxes; 0 without teachers.
        distill_kl: Mean divergence from the teachers, 0 where the student agrees with them all.
    """

    total: Tensor
    clip: Tensor
    distill_ce: Tensor
    distill_kl: Tensor


def reinforced_loss(
    image_ND: Tensor,
    text_ND: Tensor | None,
    synthetic_ND: Tensor | None,
    teachers: Sequence[TeacherEmbeddings] = (),
    *,
    logit_scale: Tensor | float,
    teacher_scales: float | Sequence[float] = (),
    distill_weight: float,
    local_loss: bool = True,
    column_chunk: int = 0,
) -> LossTerms:
    """Compute the loss of student embeddings against labels and teachers.

    Args:
        image_ND: Images, the same N on every rank.
        text_ND: Real captions, if they take part.
        synthetic_ND: Synthetic captions, if they take part.
        teachers: One entry a teacher; gathered without gradient, in the dtype that they have.
        logit_scale: The student's inverse temperature, a scalar; gradients reach it.
        teacher_scales: One inverse temperature for all teachers, or one for each.
        distill_weight: lambda, 0 for the contrastive loss alone.
        local_loss: Whether a rank scores its own rows only (the mean over ranks is then the loss)
            or the whole matrix, as every other rank does.
        column_chunk: Columns of the affinity matrices held at once, 0 for all.

    Raises:
        ValueError: No captions, shapes that do not fit, a number of scales that is neither 1 nor
            that of the teachers, or no teacher for a `distill_weight` above 0.
    """
    captions = {"text": text_ND, "synthetic": synthetic_ND}
    names = [name for name, embeddings in captions.items() if embeddings is not None]
    student = _columns({"image": image_ND, **captions}, names, "the student")
    scales = scale_of_each(teacher_scales, len(teachers)) if teachers or distill_weight else []
    others = [
        _columns(teacher._asdict(), names, f"teacher {index}")
        for index, teacher in enumerate(teachers)
    ]
    for index, columns in enumerate(others):
        if len(columns[0]) != len(image_ND):
            raise ValueError(
                f"teacher {index} has {len(columns[0])} rows, the student {len(image_ND)}"
            )
    with torch.autocast(image_ND.device.type, enabled=False):
        scale = widen(logit_scale) if isinstance(logit_scale, Tensor) else logit_scale
        matrices = [_Rows.gathered([widen(part) for part in student], scale, local=local_loss)]
        with torch.no_grad():
            matrices += _gathered_teachers(others, scales, local=local_loss)
        first = rank_and_size()[0] * len(image_ND) if local_loss else 0
        directions = [
            row_terms(*_affinities(matrices, *pair), first=first, column_chunk=column_chunk)
            for caption in range(1, len(names) + 1)
            for pair in ((0, caption), (caption, 0))
        ]
    return _summed(directions, distill_weight)


class _Rows(NamedTuple):
    """Images and captions of one encoder: those that this rank scores, and those of all ranks."""

    own: list[Tensor]
    all: list[Tensor]
    scale: Tensor | float

    @classmethod
    def gathered(
        cls, own: list[Tensor], scale: Tensor | float, *, local: bool, with_gradient: bool = True
    ) -> "_Rows":
        """Exchange rows between the ranks, once for all columns."""
        stacked = gather_rows(torch.cat(own, dim=1), with_gradient=with_gradient)
        if len(stacked) == 1:
            _warn_of_a_single_pair()
        everywhere = [widen(part) for part in stacked.split([part.shape[1] for part in own], dim=1)]
        return cls([widen(part) for part in own] if local else everywhere, everywhere, scale)


def _gathered_teachers(
    teachers: list[list[Tensor]], scales: list[float], *, local: bool
) -> list[_Rows]:
    """Exchange the rows of all teachers at once."""
    if not teachers:
        return []
    stacked = [part for teacher in teachers for part in teacher]
    rows = _Rows.gathered(stacked, 1.0, local=local, with_gradient=False)
    size = len(teachers[0])
    return [
        _Rows(rows.own[begin : begin + size], rows.all[begin : begin + size], scale)
        for begin, scale in zip(range(0, len(stacked), size), scales, strict=True)
    ]


def _affinities(matrices: list[_Rows], query: int, key: int) -> tuple[Affinity, list[Affinity]]:
    student, *teachers = (Affinity(m.own[query], m.all[key], m.scale) for m in matrices)
    return student, teachers


def _summed(directions: list[RowTerms], distill_weight: float) -> LossTerms:
    """Add the sets of captions, each the mean of its two directions."""
    clip, distill_ce, entropy = (
        torch.stack(column).sum() / 2 for column in zip(*directions, strict=True)
    )
    distill_kl = distill_ce - entropy
    total = (1 - distill_weight) * clip + distill_weight * distill_kl
    return LossTerms(total, clip, distill_ce, distill_kl)


def _columns(
    embeddings: Mapping[str, Tensor | None], captions: Sequence[str], owner: str
) -> list[Tensor]:
    """Return the embeddings of images and of these captions.

    Raises:
        ValueError: There are none, or they do not pair.
    """
    if not captions:
        raise ValueError("reinforced_loss needs real or synthetic captions, got neither")
    columns: list[Tensor] = []
    for name in ("image", *captions):
        part = embeddings[name]
        if part is None:
            raise ValueError(f"{owner} has no embeddings for {name!r}, the student has")
        columns.append(part)
    shapes = [tuple(part.shape) for part in columns]
    if len(shapes[0]) != 2 or len({*shapes}) > 1:
        listed = ", ".join(
            f"{name} {shape}" for name, shape in zip(("image", *captions), shapes, strict=True)
        )
        raise ValueError(f"embeddings of {owner} must all be [N, D], got {listed}")
    return columns


@functools.cache
def _warn_of_a_single_pair() -> None:
    logger.warning("the global batch has one pair: its loss is 0 and nothing is learnt")
