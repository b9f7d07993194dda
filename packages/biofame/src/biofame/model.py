"""The network that is kept: tokeniser, encoder, mixer (paper §3; spec 2.1-2.3).

Shapes: B windows, C channels, L samples, N tokens a channel, P samples a patch, D width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biofame.channel_rows import row_numbers
from biofame.config import ModelConfig
from biofame.encoder import Encoder
from biofame.mixer import Mixer
from biofame.revin import RevIN, Statistics, measure
from biofame.tokenizer import Tokenizer, patchify


class Patches(NamedTuple):
    """A window cut into patches.

    Attributes:
        patches: Normalised, `[B, C, N, P]`.
        samples: As they came, trimmed or padded to whole patches, `[B, C, N * P]`; padded with
            their mean where there are statistics, else with zeros.
        statistics: Of the normalisation; None without one.
    """

    patches: Tensor
    samples: Tensor
    statistics: Statistics | None


class BioFame(nn.Module):
    """Tokens of any channels, lengths and rates from one set of weights.

    Args:
        config: The model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.revin = RevIN(len(config.channels)) if config.revin else None
        self.tokenizer = Tokenizer(config)
        self.encoder = Encoder(config)
        self.mixer = Mixer(config)

    def forward(
        self,
        samples_BCL: Tensor,
        *,
        channels: Sequence[str] | None = None,
        rate: float | None = None,
        present_BC: Tensor | None = None,
    ) -> Tensor:
        """Return mixed tokens `[B, C, N, D]`.

        Args:
            samples_BCL: Windows.
            channels: Names of their channels, by default the model's own; unknown ones run with
                neutral parameters.
            rate: Samples per second, by default the model's.
            present_BC: Which channels a window has, all by default. Absent ones are not attended
                to; their own tokens mean nothing.

        Raises:
            ValueError: Channels do not fit the windows, or these are shorter than a patch.
        """
        rate = self.rate_of(rate)
        rows_C = self.rows(samples_BCL, channels)
        cut = self.cut(blank_absent(samples_BCL, present_BC), rows_C)
        latent_BCND = self.encoder(self.tokenizer(cut.patches), rate=rate)
        placed = self.mixer.place(latent_BCND, rows_C, rate=rate)
        shape = placed.shape[1:3]
        is_key_BT = None if present_BC is None else present_BC.repeat_interleave(shape[1], dim=1)
        return self.mixer(placed.flatten(1, 2), is_key_BT).unflatten(1, shape)

    def rate_of(self, rate: float | None) -> float:
        """Return a rate, the model's where none is given.

        Raises:
            ValueError: It is not positive.
        """
        if rate is None:
            return self.config.rate
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be > 0 samples per second, got {rate:g}")
        return rate

    def rows(self, samples_BCL: Tensor, channels: Sequence[str] | None) -> Tensor:
        """Return each channel's row in the tables of parameters, int64 `[C]`, -1 for unknown ones.

        Raises:
            ValueError: There are more or fewer names than channels, or one is named twice.
        """
        names = self.config.channels if channels is None else tuple(channels)
        if len(names) != samples_BCL.shape[1]:
            raise ValueError(
                f"windows have {samples_BCL.shape[1]} channels, {len(names)} are named: "
                f"{', '.join(names)}"
            )
        numbers = row_numbers(self.config.channels, names)
        return torch.tensor(numbers, device=samples_BCL.device)

    def cut(self, samples_BCL: Tensor, rows_C: Tensor) -> Patches:
        """Normalise windows and cut them into patches."""
        config = self.config
        whole = patchify(samples_BCL, config.patch, tail=config.tail)
        samples = whole.flatten(2)
        if self.revin is None:
            return Patches(whole, samples, None)
        # Of the real samples: zeros that fill the last patch would shift mean and deviation.
        used = min(samples_BCL.shape[-1], samples.shape[-1])
        statistics = measure(samples_BCL[..., :used])
        if used < samples.shape[-1]:
            # So that the tail's target is what the network sees there: 0 after the normalisation.
            fill = statistics.mean.expand(-1, -1, samples.shape[-1] - used)
            samples = torch.cat([samples[..., :used], fill], dim=-1)
        normal = self.revin.normalise(samples_BCL[..., :used], statistics, rows_C)
        return Patches(patchify(normal, config.patch, tail=config.tail), samples, statistics)


def blank_absent(samples_BCL: Tensor, present_BC: Tensor | None) -> Tensor:
    """Return windows with zeros for absent channels, which may hold NaN.

    Attention gives their tokens a weight of 0, and 0 times NaN is NaN.
    """
    if present_BC is None:
        return samples_BCL
    return samples_BCL.masked_fill(~present_BC[..., None], 0.0)
