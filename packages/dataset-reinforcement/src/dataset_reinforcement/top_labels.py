"""The part of a prediction that is stored: its K largest probabilities, and its entropy.

Shapes: B views, C classes, K stored ones.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TopLabels(NamedTuple):
    """The largest probabilities of some views.

    Attributes:
        classes: uint16 `[B, K]`.
        probabilities: float32 `[B, K]`, falling; equal ones by class number.
        entropy: float32 `[B]`, of the label completed to all classes, nats.
        num_renormalised: Rows whose sum exceeded 1 by rounding and was divided by.
    """

    classes: NDArray[np.uint16]
    probabilities: NDArray[np.float32]
    entropy: NDArray[np.float32]
    num_renormalised: int


def top_labels(probabilities: Tensor, top_k: int) -> TopLabels:
    """Return the `top_k` largest of probabilities `[B, C]`, K at most C.

    `torch.topk` leaves open which of equal probabilities it takes; a stable sort does not.
    """
    values, classes = probabilities.float().sort(dim=-1, descending=True, stable=True)
    values, classes = values[:, :top_k], classes[:, :top_k]
    sums = values.sum(-1, keepdim=True)
    exceeds = sums > 1
    values = torch.where(exceeds, values / sums, values)
    return TopLabels(
        classes=classes.cpu().numpy().astype(np.uint16),
        probabilities=values.cpu().numpy(),
        entropy=label_entropy(values, num_classes=probabilities.shape[-1]).cpu().numpy(),
        num_renormalised=int(exceeds.sum()),
    )


def label_entropy(probabilities: Tensor, *, num_classes: int) -> Tensor:
    """Return `-sum_c q_c log q_c` of labels completed to all classes (spec 2.1, 2.6).

    What the stored probabilities leave of 1 is shared equally by the C - K other classes.

    Args:
        probabilities: `[B, K]`, rows that sum to 1 at most.
        num_classes: C.

    Returns:
        float32 `[B]`, nats.
    """
    stored = probabilities.double()
    others = num_classes - stored.shape[-1]
    rest = (1 - stored.sum(-1)).clamp_min(0) if others else stored.new_zeros(len(stored))
    of_rest = -torch.special.xlogy(rest, rest / max(others, 1))
    return (torch.special.entr(stored).sum(-1) + of_rest).float()
