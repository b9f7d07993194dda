"""What rows of an affinity matrix add to the loss: against their labels and against the teachers.

One direction of one caption set. Row r of the queries scores all b keys, for the student
`q = softmax(s * Q K^T)` and for each teacher `p_k` alike; the label of row r is key `first + r`.

With `column_chunk` no matrix is wider than that many keys: normalisers are found in a first pass,
and every chunk is computed again in the backward pass. The values are those of whole matrices up to
rounding.

Shapes: R rows, b keys, c keys of a chunk, D embedding width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Affinity(NamedTuple):
    """Unit embeddings whose products are scored, and their inverse temperature."""

    query_RD: Tensor
    key_bD: Tensor
    scale: Tensor | float

    def logits(self) -> Tensor:
        """Return the scaled products `[R, b]`."""
        return self.scale * self.query_RD @ self.key_bD.T

    def of_keys(self, begin: int, end: int) -> "Affinity":
        """Return the affinity with some of the keys."""
        return self._replace(key_bD=self.key_bD[begin:end])


class RowTerms(NamedTuple):
    """Means over the rows; the last two are 0 without teachers.

    Attributes:
        clip: `-log q[label]`.
        distill_ce: `-sum_j mean_k p_k log q`, the cross-entropy with the mean of the softmaxes.
        entropy: `mean_k H(p_k)`, which `distill_ce` has more than the mean of `KL(p_k || q)`.
    """

    clip: Tensor
    distill_ce: Tensor
    entropy: Tensor


def row_terms(
    student: Affinity, teachers: Sequence[Affinity], *, first: int, column_chunk: int = 0
) -> RowTerms:
    """Compute the terms of one direction; gradients reach the student alone.

    Args:
        student: Embeddings in float32 or float64.
        teachers: Those of each teacher, with the same numbers of rows and keys.
        first: Label of row 0.
        column_chunk: Keys that are scored at once, 0 for all.
    """
    if 0 < column_chunk < len(student.key_bD):
        return _chunked_terms(student, teachers, first=first, size=column_chunk)
    log_q_Rb = student.logits().log_softmax(1)
    label_R = _labels(student, first)
    clip = F.nll_loss(log_q_Rb, label_R)
    if not teachers:
        return RowTerms(clip, clip.new_zeros(()), clip.new_zeros(()))
    p_Rb, entropy = _mean_of_softmaxes(teachers)
    distill_ce = -(p_Rb.to(log_q_Rb.dtype) * log_q_Rb).sum(1).mean()
    return RowTerms(clip, distill_ce, entropy)


def _labels(student: Affinity, first: int) -> Tensor:
    num_rows = len(student.query_RD)
    return torch.arange(first, first + num_rows, device=student.query_RD.device)


@torch.no_grad()
def _mean_of_softmaxes(teachers: Sequence[Affinity]) -> tuple[Tensor, Tensor]:
    """Return the mean probabilities `[R, b]`, and the mean entropy over teachers and rows."""
    total_Rb, entropy = None, 0.0
    for teacher in teachers:
        log_p_Rb = teacher.logits().log_softmax(1)
        p_Rb = log_p_Rb.exp()
        entropy = entropy - log_p_Rb.mul_(p_Rb).sum(1).mean()
        total_Rb = p_Rb if total_Rb is None else total_Rb.add_(p_Rb)
    assert total_Rb is not None
    assert isinstance(entropy, Tensor)
    return total_Rb.div_(len(teachers)), entropy / len(teachers)


def _chunked_terms(
    student: Affinity, teachers: Sequence[Affinity], *, first: int, size: int
) -> RowTerms:
    num_keys = len(student.key_bD)
    spans = [(begin, min(begin + size, num_keys)) for begin in range(0, num_keys, size)]
    with torch.no_grad():
        # Without its largest logit taken off, a row's loss would be a difference of values near s.
        shift_R = torch.stack([student.of_keys(*s).logits().amax(1) for s in spans]).amax(0)
        normaliser_kR = [_normaliser(teacher, spans) for teacher in teachers]
    parts: list[_Chunk] = [
        checkpoint(
            _chunk,
            student.of_keys(*span),
            shift_R,
            [teacher.of_keys(*span) for teacher in teachers],
            normaliser_kR,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for span in spans
    ]
    log_sum_R = torch.stack([part.log_sum_R for part in parts]).logsumexp(0)
    key_RD = student.key_bD[first : first + len(student.query_RD)]
    own_R = student.scale * (student.query_RD * key_RD).sum(1) - shift_R
    clip = (log_sum_R - own_R).mean()
    if not teachers:
        return RowTerms(clip, clip.new_zeros(()), clip.new_zeros(()))
    expected_R = torch.stack([part.expected_R for part in parts]).sum(0)
    entropy = torch.stack([part.entropy_R for part in parts]).sum(0).mean()
    return RowTerms(clip, (log_sum_R - expected_R).mean(), entropy)


def _normaliser(affinity: Affinity, spans: Sequence[tuple[int, int]]) -> Tensor:
    return torch.stack([affinity.of_keys(*span).logits().logsumexp(1) for span in spans]).logsumexp(
        0
    )


class _Chunk(NamedTuple):
    """Sums over the keys of a chunk; logits of the student without the row's shift."""

    log_sum_R: Tensor
    expected_R: Tensor  # of the student's logits under the mean of the teachers' softmaxes
    entropy_R: Tensor


def _chunk(
    student: Affinity,
    shift_R: Tensor,
    teachers: Sequence[Affinity],
    normaliser_kR: Sequence[Tensor],
) -> _Chunk:
    logits_Rc = student.logits() - shift_R.unsqueeze(1)
    entropy_R = torch.zeros_like(shift_R)
    expected_R = torch.zeros_like(shift_R)
    if teachers:
        with torch.no_grad():
            p_Rc = torch.zeros_like(logits_Rc)
            for teacher, normaliser_R in zip(teachers, normaliser_kR, strict=True):
                log_p_Rc = teacher.logits() - normaliser_R.unsqueeze(1)
                share_Rc = log_p_Rc.exp() / len(teachers)
                entropy_R = entropy_R - (share_Rc * log_p_Rc).sum(1).to(entropy_R.dtype)
                p_Rc += share_Rc
        expected_R = (p_Rc * logits_Rc).sum(1)
    return _Chunk(logits_Rc.logsumexp(1), expected_R, entropy_R)
