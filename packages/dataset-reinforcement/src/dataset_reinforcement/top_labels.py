"""The part of a prediction that is stored: its K largest probabilities, and its entropy.

Shapes: B views, C classes, K stored ones.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataset_reinforcement.store.entropy import densified_entropy


class TopLabels(NamedTuple):
    """The largest probabilities of some views.

    Attributes:
        classes: uint16 `[B, K]`.
        probabilities: float32 `[B, K]`, falling; equal ones by class number.
        entropy: float32 `[B]`, of the label completed to all classes, nats.
        num_renormalised: Rows whose sum exceeded 1 by rounding and which were divided by it.
    """

    classes: NDArray[np.uint16]
    probabilities: NDArray[np.float32]
    entropy: NDArray[np.float32]
    num_renormalised: int


def top_labels(probabilities: Tensor, top_k: int, *, renormalise: bool = True) -> TopLabels:
    """Return the `top_k` largest of probabilities `[B, C]`, K at most C.

    `torch.topk` leaves open which of equal probabilities it takes; a stable sort does not.

    Args:
        probabilities: Of a teacher.
        top_k: K.
        renormalise: Whether rows that sum to more than 1 are divided by their sum; the official
            code stores them as they are.
    """
    values, classes = probabilities.float().sort(dim=-1, descending=True, stable=True)
    values, classes = values[:, :top_k], classes[:, :top_k]
    sums = values.sum(-1, keepdim=True)
    exceeds = (sums > 1) & renormalise
    values = torch.where(exceeds, values / sums, values)
    stored = values.cpu().numpy()
    return TopLabels(
        classes=classes.cpu().numpy().astype(np.uint16),
        probabilities=stored,
        entropy=densified_entropy(stored, num_classes=probabilities.shape[-1]).astype(np.float32),
        num_renormalised=int(exceeds.sum()),
    )
