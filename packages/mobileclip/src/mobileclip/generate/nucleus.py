"""Nucleus (top-p) sampling of the next token, each row with a random number of its own.

With numbers that are keyed by image and caption, a text depends neither on the batch that it was
made in nor on the worker.
"""

import torch
from torch import Tensor


def sample_top_p(logits_NV: Tensor, uniform_N: Tensor, *, top_p: float) -> Tensor:
    """Draw a token from the smallest set of most probable ones that holds `top_p` of the mass.

    Args:
        logits_NV: `[N, V]`.
        uniform_N: `[N]` in [0, 1), float64.
        top_p: In (0, 1].

    Returns:
        int64 `[N]`.
    """
    # In float64, so that a sum over 49,408 tokens does not round the last of them away.
    sorted_NV, order_NV = logits_NV.double().softmax(-1).sort(dim=-1, descending=True, stable=True)
    kept_NV = sorted_NV.cumsum(-1) - sorted_NV < top_p
    kept_NV[:, 0] = True  # of a distribution whose first token rounds to the whole mass
    mass_NV = torch.where(kept_NV, sorted_NV, 0.0).cumsum(-1)
    drawn_N1 = (uniform_N.to(mass_NV) * mass_NV[:, -1]).unsqueeze(1)
    place_N1 = torch.searchsorted(mass_NV, drawn_N1, right=True)
    place_N1 = place_N1.clamp(max=kept_NV.sum(-1, keepdim=True) - 1)
    return order_NV.gather(1, place_N1).squeeze(1)
