"""Reversible instance normalisation of windows (Kim et al. 2022; spec 2.1).

Shapes: B windows, C channels, L samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from biofame.channel_rows import select_rows

EPS = 1e-5


class Statistics(NamedTuple):
    """Mean and deviation of each window's channels, both `[B, C, 1]`, without gradient."""

    mean: Tensor
    std: Tensor


def measure(samples_BCL: Tensor) -> Statistics:
    """Return mean and population deviation over time; of a flat channel the latter is sqrt(eps)."""
    detached = samples_BCL.detach()
    variance, mean = torch.var_mean(detached, dim=-1, correction=0, keepdim=True)
    return Statistics(mean, (variance + EPS).sqrt())


def standardise(samples_BCL: Tensor, statistics: Statistics) -> Tensor:
    """Return samples of mean 0 and deviation 1, shaped as they came."""
    return (samples_BCL - statistics.mean) / statistics.std


class RevIN(nn.Module):
    """Scale and shift of each channel, after the standardisation.

    Args:
        channels: Number of channels that have parameters.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def normalise(self, samples_BCL: Tensor, statistics: Statistics, rows_C: Tensor) -> Tensor:
        """Standardise, scale and shift; rows of -1, unknown channels, are only standardised."""
        weight, bias = self._affine(rows_C)
        return standardise(samples_BCL, statistics) * weight + bias

    def denormalise(self, samples_BCL: Tensor, statistics: Statistics, rows_C: Tensor) -> Tensor:
        """Undo `normalise`."""
        weight, bias = self._affine(rows_C)
        # The official code's guard: a weight that has been trained to 0 must not divide.
        return (samples_BCL - bias) / (weight + EPS**2) * statistics.std + statistics.mean

    def _affine(self, rows_C: Tensor) -> tuple[Tensor, Tensor]:
        weight = select_rows(self.weight[:, None], rows_C, neutral=1.0)
        return weight, select_rows(self.bias[:, None], rows_C, neutral=0.0)
