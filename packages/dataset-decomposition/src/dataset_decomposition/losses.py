"""Token cross-entropy with z-loss (spec section 2.8), and the loss of whole documents.

Scores are kept per token, so that masks, means and sums are the callers'. `chunked_scores` never
holds the logits of more than one chunk of tokens: the projection to the vocabulary, most of a small
model's memory, is computed again in the backward pass. Shapes: B rows, L positions, D width,
V vocabulary, N = B * L, C tokens of a chunk.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tenfold.losses.numerics import widen


class TokenScores(NamedTuple):
    """Negative log-likelihood of each target in nats, and log-partition, fp32 or wider `[B, L]`."""

    nll_BL: Tensor
    log_partition_BL: Tensor


class TokenLoss(NamedTuple):
    """Two scalars; the training loss is `nll + weight * z`."""

    nll: Tensor
    z: Tensor


def token_scores(logits_BLV: Tensor, targets_BL: Tensor) -> TokenScores:
    """Score each target, in fp32 under autocast too.

    Args:
        logits_BLV: Unnormalised scores.
        targets_BL: Integer ids of the tokens to predict.
    """
    logits_BLV = widen(logits_BLV)
    log_partition_BL = torch.logsumexp(logits_BLV, dim=-1)
    target_BL = logits_BLV.gather(-1, targets_BL.unsqueeze(-1)).squeeze(-1)
    return TokenScores(log_partition_BL - target_BL, log_partition_BL)


def chunked_scores(
    hidden_BLD: Tensor, weight_VD: Tensor, targets_BL: Tensor, *, chunk_tokens: int
) -> TokenScores:
    """Score each target from the state before the projection, `chunk_tokens` targets at a time.

    Equal to `token_scores(linear(hidden, weight), targets)` in value and gradient.

    Args:
        hidden_BLD: Normalised states.
        weight_VD: The projection.
        targets_BL: Integer ids of the tokens to predict.
        chunk_tokens: Positive number of targets whose logits exist at a time.
    """
    device = hidden_BLD.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_BLD, weight_VD = hidden_BLD.to(dtype), weight_VD.to(dtype)
    scores_N: tuple[Tensor, Tensor] = _ChunkedScores.apply(
        hidden_BLD.flatten(0, 1), weight_VD, targets_BL.flatten(), chunk_tokens
    )
    return TokenScores(*(values_N.view_as(targets_BL) for values_N in scores_N))


class _ChunkedScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        parts = [
            token_scores(hidden_CD @ weight_VD.T, targets_C)
            for hidden_CD, targets_C in zip(
                hidden_ND.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True
            )
        ]
        nll_N, log_partition_N = (torch.cat(values) for values in zip(*parts, strict=True))
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, log_partition_N)
        ctx.chunk_tokens = chunk_tokens
        return nll_N, log_partition_N

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *slopes_N: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        hidden_ND, weight_VD, targets_N, log_partition_N = ctx.saved_tensors
        hidden_slope_ND = torch.empty_like(hidden_ND)
        weight_slope_VD = torch.zeros_like(weight_VD, dtype=log_partition_N.dtype)
        for start in range(0, len(targets_N), ctx.chunk_tokens):
            chunk = slice(start, start + ctx.chunk_tokens)
            hidden_CD, targets_C1 = hidden_ND[chunk], targets_N[chunk, None]
            nll_C1, log_partition_C1 = (slope_N[chunk, None] for slope_N in slopes_N)
            # d nll / d logits = softmax - one-hot; d log-partition / d logits = softmax.
            slope_CV = widen(hidden_CD @ weight_VD.T).sub_(log_partition_N[chunk, None]).exp_()
            slope_CV.mul_(nll_C1 + log_partition_C1).scatter_add_(1, targets_C1, -nll_C1)
            slope_CV = slope_CV.to(hidden_ND.dtype)
            hidden_slope_ND[chunk] = slope_CV @ weight_VD
            weight_slope_VD += slope_CV.T @ hidden_CD
        return hidden_slope_ND, weight_slope_VD.to(weight_VD.dtype), None, None


def mean_loss(
    scores: TokenScores, valid_BL: Tensor | None = None, *, num_targets: float | None = None
) -> TokenLoss:
    """Return mean cross-entropy and mean squared log-partition of the targets that count.

    Args:
        scores: Per target.
        valid_BL: Which targets count; None is all.
        num_targets: What to divide by; None is the number of targets that count. A constant makes
            the means of micro-batches of one size average to that of all of them together, however
            many targets each has.
    """
    nll_BL, z_BL = scores.nll_BL, scores.log_partition_BL.square()
    count: float | Tensor = nll_BL.numel()
    if valid_BL is not None:
        nll_BL, z_BL = (torch.where(valid_BL, values_BL, 0.0) for values_BL in (nll_BL, z_BL))
        count = valid_BL.sum().clamp(min=1)
    if num_targets is not None:
        count = num_targets
    return TokenLoss(nll_BL.sum() / count, z_BL.sum() / count)


def token_loss(logits_BLV: Tensor, targets_BL: Tensor) -> TokenLoss:
    """Return mean cross-entropy and mean squared log-partition over all targets."""
    return mean_loss(token_scores(logits_BLV, targets_BL))


def valid_targets(documents_BW: Tensor) -> Tensor:
    """Return which targets count, boolean `[B, L]`: those whose row so far has their document.

    The first token of a document, which would have to be guessed from the end of another one, does
    not count, nor does padding.

    Args:
        documents_BW: Document numbers of the `W = L + 1` tokens of each row, negative for padding.
    """
    before_BL, target_BL = documents_BW[:, :-1], documents_BW[:, 1:]
    return (before_BL == target_BL) & (target_BL >= 0)


def document_nll(logits_BLV: Tensor, targets_BL: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the summed negative log-likelihood `[B]` of padded documents, fp32, in nats.

    Args:
        logits_BLV: Unnormalised scores.
        targets_BL: Integer ids; whatever stands from `lengths_B` on is padding and ignored.
        lengths_B: Number of targets of each row.
    """
    return document_sums(token_scores(logits_BLV, targets_BL).nll_BL, lengths_B)


def document_sums(nll_BL: Tensor, lengths_B: Tensor) -> Tensor:
    """Add up the first `lengths_B` targets of each row, `[B]`."""
    real_BL = torch.arange(nll_BL.shape[1], device=nll_BL.device) < lengths_B[:, None]
    return nll_BL.masked_fill(~real_BL, 0.0).sum(dim=1)
