"""MixUp and CutMix of windows, as fine-tuning uses them (spec 2.5).

Numbers come from torch's generator on the CPU, which training seeds by the step. Not here: the
views of contrastive pre-training (`baselines/contrastive_augment.py`).

Shapes: B windows, C channels, L samples, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Mixed(NamedTuple):
    """Mixed windows `[B, C, L]`, their soft labels `[B, K]`, and the channels that they have."""

    samples: Tensor
    targets: Tensor
    present: Tensor | None


def mix_windows(
    samples_BCL: Tensor,
    targets_BK: Tensor,
    *,
    mixup: float,
    cutmix: float,
    present_BC: Tensor | None = None,
) -> Mixed:
    """Mix each window with another of the batch, all in one proportion from a Beta distribution.

    A mixed window has the channels that either has.

    Args:
        samples_BCL: Windows.
        targets_BK: Their labels, one-hot.
        mixup: Both parameters of the Beta distribution of MixUp, 0 for none.
        cutmix: The same of CutMix; with both, a coin decides for the batch.
        present_BC: Which channels a window has, all by default.
    """
    if not (mixup or cutmix):
        return Mixed(samples_BCL, targets_BK, present_BC)
    order_B = torch.randperm(len(samples_BCL)).to(samples_BCL.device)
    takes_mixup = not cutmix or (mixup > 0 and bool(torch.rand(()) < 0.5))
    alpha = mixup if takes_mixup else cutmix
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    if takes_mixup:
        samples = blend(samples_BCL, samples_BCL[order_B], share=share)
    else:
        length = round((1 - share) * samples_BCL.shape[-1])
        first = int(torch.randint(samples_BCL.shape[-1] - length + 1, ()))
        samples = paste(samples_BCL, samples_BCL[order_B], first=first, length=length)
        share = 1 - length / samples_BCL.shape[-1]  # of the samples that are left
    targets = blend(targets_BK, targets_BK[order_B], share=share)
    return Mixed(samples, targets, None if present_BC is None else present_BC | present_BC[order_B])


def blend(own: Tensor, other: Tensor, *, share: float) -> Tensor:
    """Return the mean of two tensors, `share` the weight of the first (MixUp)."""
    return share * own + (1 - share) * other


def paste(own_BCL: Tensor, other_BCL: Tensor, *, first: int, length: int) -> Tensor:
    """Return windows with a stretch of time taken from others, in all channels (CutMix)."""
    pasted = own_BCL.clone()
    pasted[..., first : first + length] = other_BCL[..., first : first + length]
    return pasted
