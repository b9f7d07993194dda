"""The loss of TS-TCC (Eldele et al., IJCAI 2021): predict the other view's future, tell contexts.

    L = lambda_1 (L_TC(strong to weak) + L_TC(weak to strong)) + lambda_2 NTXent(contexts)

L_TC is `temporal_contrast`. The context of each view is a transformer's summary of its tokens up to
a time t, from which K linear layers predict the K tokens that follow in the other view. Networks
stand in `contrastive_tasks.py`.

Shapes: N windows, K steps ahead, D width, E width of projected contexts.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from biofame.baselines.losses_tfc import nt_xent
from tenfold.losses.numerics import widen


class View(NamedTuple):
    """What one view of the windows gives.

    Attributes:
        predicted: From its context, of the other view's next tokens, `[N, K, D]`.
        future: Its own next tokens, unit vectors `[N, K, D]`.
        context: Its context, projected, `[N, E]`.
    """

    predicted: Tensor
    future: Tensor
    context: Tensor


class TstccTerms(NamedTuple):
    """The total and its parts; `temporal` is the sum of both directions."""

    total: Tensor
    temporal: Tensor
    contextual: Tensor


def temporal_contrast(predicted_NKD: Tensor, future_NKD: Tensor) -> Tensor:
    """Return how badly a prediction finds its own window's token among those of all windows.

    The mean over windows n and steps k of

        -log( exp(p[n, k] . f[n, k]) / sum over m of exp(p[n, k] . f[m, k]) ).

    This is the published denominator, over tokens. The released code's runs over predictions, as
    its softmax takes the other axis.

    Args:
        predicted_NKD: p, predictions.
        future_NKD: f, the tokens.

    Returns:
        A scalar in float32 (float64 for float64 inputs).

    Raises:
        ValueError: Shapes differ, or there is only one window.
    """
    if predicted_NKD.ndim != 3 or predicted_NKD.shape != future_NKD.shape:
        raise ValueError(
            "predictions and tokens must both be [N, K, D], got "
            f"{tuple(predicted_NKD.shape)} and {tuple(future_NKD.shape)}"
        )
    windows, steps = predicted_NKD.shape[:2]
    if windows < 2:
        raise ValueError(f"temporal contrast needs at least 2 windows, got {windows}")
    with torch.autocast(predicted_NKD.device.type, enabled=False):
        logits_KNN = torch.einsum("nkd,mkd->knm", widen(predicted_NKD), widen(future_NKD))
        own = torch.arange(windows, device=logits_KNN.device).repeat(steps)
        return F.cross_entropy(logits_KNN.flatten(0, 1), own)


def tstcc_loss(
    strong: View,
    weak: View,
    *,
    temperature: float,
    temporal_weight: float,
    contextual_weight: float,
) -> TstccTerms:
    """Return the loss of a batch.

    Args:
        strong: The strongly augmented view.
        weak: The weakly augmented view.
        temperature: Of NT-Xent between contexts.
        temporal_weight: lambda_1.
        contextual_weight: lambda_2.
    """
    forth = temporal_contrast(strong.predicted, weak.future)
    back = temporal_contrast(weak.predicted, strong.future)
    contextual = nt_xent(strong.context, weak.context, temperature=temperature)
    total = temporal_weight * (forth + back) + contextual_weight * contextual
    return TstccTerms(total, forth + back, contextual)
