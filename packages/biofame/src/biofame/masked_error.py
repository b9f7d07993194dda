"""How well masked patches are predicted: their mean square error over their variance.

Sums are kept and divided once, so that the value does not depend on how windows fall into batches.

Shapes: B windows, C channels, M masked patches of a channel, P samples of a patch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

FLAT = 1e-12


class ErrorSums(NamedTuple):
    """What the error is made of, each float64 `[C]`, over the windows that have a channel.

    Attributes:
        square: Of squared errors.
        target: Of targets.
        target_square: Of squared targets.
        samples: Their number.
    """

    square: Tensor
    target: Tensor
    target_square: Tensor
    samples: Tensor


def error_sums(
    predicted_BCMP: Tensor, target_BCMP: Tensor, present_BC: Tensor | None = None
) -> ErrorSums:
    """Return the sums over a batch, without gradient."""
    target = target_BCMP.detach().double()
    square = (predicted_BCMP.detach().double() - target).square()
    there_BC = torch.ones_like(target[:, :, 0, 0])
    if present_BC is not None:
        there_BC = present_BC.double()

    def summed(values_BCMP: Tensor) -> Tensor:
        return (values_BCMP.sum(dim=(2, 3)) * there_BC).sum(dim=0)

    count_C = there_BC.sum(dim=0) * target[0, 0].numel()
    return ErrorSums(summed(square), summed(target), summed(target.square()), count_C)


def relative_error(sums: ErrorSums) -> Tensor:
    """Return the error of each channel, float32 `[C]`; 1 is what predicting the mean would have.

    NaN is a channel that no window has, or whose targets are flat: of those rounding alone is left,
    which the error must not be measured by.
    """
    mean = sums.target / sums.samples
    variance = sums.target_square / sums.samples - mean.square()
    is_flat = ~(variance > FLAT * (1 + mean.square()))
    return (sums.square / sums.samples / variance).masked_fill(is_flat, math.nan).float()


class MaskedError(Metric):
    """`relative_error` over all batches and ranks.

    Args:
        channels: Number of channels.
    """

    full_state_update = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ErrorSums._fields:
            zeros = torch.zeros(channels, dtype=torch.float64)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")

    def update(
        self, predicted_BCMP: Tensor, target_BCMP: Tensor, present_BC: Tensor | None = None
    ) -> None:
        """Add a batch."""
        sums = error_sums(predicted_BCMP, target_BCMP, present_BC)
        for name, value in sums._asdict().items():
            setattr(self, name, getattr(self, name) + value)

    def compute(self) -> Tensor:
        """Return the error of each channel."""
        sums = (getattr(self, name) for name in ErrorSums._fields)
        return relative_error(ErrorSums(*sums))
