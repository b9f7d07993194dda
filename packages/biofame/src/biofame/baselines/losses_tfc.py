"""The loss of TF-C: time and frequency of a window belong together (Zhang et al., NeurIPS 2022).

`h` are outputs of the encoders of time and frequency, `z` their projections into one space, `t`
and `f` the two domains, and a view is an augmented window:

    L = lambda (NTXent(h_t, view h_t) + NTXent(h_f, view h_f)) + (1 - lambda) L_C
    L_C = sum over pairs of S(z_t, z_f) - S(pair) + delta

with S the NT-Xent distance and the pairs (z_t, view z_f), (view z_t, z_f), (view z_t, view z_f).

The released code (mims-harvard/TFC-pretraining) computes L_C and leaves it out: it minimises
`lambda (...) + S(z_t, z_f)`, here `consistency="code"`. It also adds a polynomial term to each
NT-Xent, which the paper has not and which is not here.

Shapes: N windows, D width, E width of projections.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from biofame.baselines.config import Consistency
from tenfold.losses.numerics import widen


class Domains(NamedTuple):
    """Embeddings of windows in time and in frequency, each `[N, width]`."""

    time: Tensor
    frequency: Tensor


class TfcTerms(NamedTuple):
    """The total and its parts; `consistency` is None where it is left out."""

    total: Tensor
    time: Tensor
    frequency: Tensor
    consistency: Tensor | None


def nt_xent(first_ND: Tensor, second_ND: Tensor, *, temperature: float) -> Tensor:
    """Return the normalised, temperature-scaled cross-entropy of N pairs (Chen et al. 2020).

    Each of the 2N rows must find its partner among the other 2N - 1 by cosine similarity.

    Args:
        first_ND: One side of the pairs.
        second_ND: The other; row n belongs to row n.
        temperature: Divides similarities.

    Returns:
        The mean over rows, a scalar in float32 (float64 for float64 embeddings).

    Raises:
        ValueError: Shapes differ, or there is only one pair, which has nothing to be told from.
    """
    _require_pairs(first_ND, second_ND)
    with torch.autocast(first_ND.device.type, enabled=False):
        rows = F.normalize(torch.cat([widen(first_ND), widen(second_ND)]), dim=1)
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        logits = (rows @ rows.T / temperature).masked_fill(itself, -torch.inf)
        partner = torch.arange(len(rows), device=rows.device).roll(len(first_ND))
        return F.cross_entropy(logits, partner)


def consistency_loss(whole: Domains, view: Domains, *, temperature: float, margin: float) -> Tensor:
    """Return L_C: the pair without augmentation must be nearer, by `margin`, than those with it.

    As published, no pair's term is cut off at 0.

    Args:
        whole: Projections of the windows.
        view: Projections of their views.
        temperature: Of NT-Xent.
        margin: delta.
    """

    def distance(time: Tensor, frequency: Tensor) -> Tensor:
        return nt_xent(time, frequency, temperature=temperature)

    near = distance(whole.time, whole.frequency)
    far = (
        distance(whole.time, view.frequency),
        distance(view.time, whole.frequency),
        distance(view.time, view.frequency),
    )
    return sum((near - each + margin for each in far), torch.zeros_like(near))


def tfc_loss(
    h: Domains,
    view_h: Domains,
    z: Domains | None,
    view_z: Domains | None,
    *,
    temperature: float,
    weight: float,
    consistency: Consistency,
    margin: float,
) -> TfcTerms:
    """Return the loss of a batch.

    Args:
        h: What the encoders make of the windows.
        view_h: What they make of their views.
        z: Projections of `h`; unused with `consistency="none"`.
        view_z: Projections of `view_h`; used with `consistency="paper"` alone.
        temperature: Of every NT-Xent.
        weight: lambda.
        consistency: Which term ties time to frequency.
        margin: delta.

    Raises:
        ValueError: Projections that the term needs are missing.
    """
    time = nt_xent(h.time, view_h.time, temperature=temperature)
    frequency = nt_xent(h.frequency, view_h.frequency, temperature=temperature)
    within = weight * (time + frequency)
    if consistency == "none":
        return TfcTerms(within, time, frequency, None)
    if z is None or (view_z is None and consistency == "paper"):
        raise ValueError(f"consistency {consistency} needs projections, got None")
    if consistency == "code":
        between = nt_xent(z.time, z.frequency, temperature=temperature)
        return TfcTerms(within + between, time, frequency, between)
    assert view_z is not None
    between = consistency_loss(z, view_z, temperature=temperature, margin=margin)
    return TfcTerms(within + (1 - weight) * between, time, frequency, between)


def _require_pairs(first_ND: Tensor, second_ND: Tensor) -> None:
    if first_ND.ndim != 2 or first_ND.shape != second_ND.shape:
        raise ValueError(
            "NT-Xent needs two [N, D] of one shape, got "
            f"{tuple(first_ND.shape)} and {tuple(second_ND.shape)}"
        )
    if len(first_ND) < 2:
        raise ValueError(f"NT-Xent needs at least 2 pairs, got {len(first_ND)}; raise the batch")
