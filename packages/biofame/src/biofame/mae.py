"""Masked autoencoding in the latent space: what pre-training minimises (paper §3.3; spec 2.4).

Shapes: B windows, C channels, L samples, N tokens a channel, V visible and M masked ones, P samples
a patch, D width, G decoders.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.decoders import Decoders
from biofame.masked_error import error_sums, relative_error
from biofame.masking import Partition, draw_partition, is_masked, take
from biofame.model import BioFame, Patches, blank_absent
from biofame.positions import ChannelTimeTable
from biofame.revin import standardise


class Reconstruction(NamedTuple):
    """Predicted and true masked patches, both `[B, C, M, P]`, and what was masked."""

    predicted: Tensor
    target: Tensor
    partition: Partition


class Losses(NamedTuple):
    """What a batch costs.

    Attributes:
        total: What is minimised.
        error: Mean square error of each channel over the variance of its masked targets, `[C]`; 1
            is what predicting their mean would have. NaN for a channel whose targets are flat, or
            that no window has.
    """

    total: Tensor
    error: Tensor


class MaskedAutoencoder(nn.Module):
    """A `BioFame` with the decoders that it is trained with.

    Args:
        model: The network that is kept.
        decoder: Decoders.
        loss: Masking and loss.
    """

    def __init__(self, model: ModelConfig, decoder: DecoderConfig, loss: LossConfig) -> None:
        super().__init__()
        if loss.target == "raw" and not model.revin:
            raise ValueError("loss.target raw undoes model.revin, which is off; set it to true")
        if model.dim % decoder.heads != 0:
            raise ValueError(f"decoder.heads must divide dim {model.dim}, got {decoder.heads}")
        self.loss_config = loss
        self.network = BioFame(model)
        self.mask_token = nn.Parameter(torch.randn(model.dim) * 0.02)
        self.positions = ChannelTimeTable(model, std=decoder.embedding_std)
        self.per_channel = decoder.per_channel
        groups = len(model.channels) if decoder.per_channel else 1
        self.decoders = Decoders(groups, model.dim, model.patch, decoder)

    def forward(
        self,
        samples_BCL: Tensor,
        *,
        rate: float | None = None,
        present_BC: Tensor | None = None,
        partition: Partition | None = None,
    ) -> Reconstruction:
        """Predict the masked patches.

        Args:
            samples_BCL: Windows of all channels of the model, in its order.
            rate: Samples per second, by default the model's.
            present_BC: Which channels a window has, all by default.
            partition: What to mask; drawn by default.

        Raises:
            ValueError: The channels are not the model's, or windows are too short to mask.
        """
        network = self.network
        rate = network.rate_of(rate)
        rows_C = network.rows(samples_BCL, None)
        cut = network.cut(blank_absent(samples_BCL, present_BC), rows_C)
        windows, channels, tokens = cut.patches.shape[:3]
        if partition is None:
            partition = draw_partition(
                windows,
                channels,
                tokens,
                ratio=self.loss_config.mask_ratio,
                device=samples_BCL.device,
            )
        latent = self._encode(cut, partition, rate)
        placed = network.mixer.place(latent, rows_C, rate=rate)
        visible = network.mixer(
            take(placed, partition.visible).flatten(1, 2),
            _keys(present_BC, partition.visible.shape[2]),
        )
        predicted = self._decode(visible, partition, rows_C, tokens, rate, present_BC)
        return Reconstruction(*self._compare(predicted, cut, rows_C, partition), partition)

    def loss(self, made: Reconstruction, *, present_BC: Tensor | None = None) -> Losses:
        """Return the loss over the masked patches of the channels that are there, in float32."""
        target = made.target.float()
        square_BC = (made.predicted.float() - target).square().mean(dim=(2, 3))
        there_BC = torch.ones_like(square_BC) if present_BC is None else present_BC.float()
        total = (square_BC * there_BC).sum() / there_BC.sum().clamp(min=1)
        if self.loss_config.divisor == "code":
            total = total / square_BC.shape[1]
        sums = error_sums(made.predicted, made.target, present_BC)
        return Losses(total, relative_error(sums))

    def _encode(self, cut: Patches, partition: Partition, rate: float) -> Tensor:
        tokens = self.network.tokenizer(cut.patches)
        if self.loss_config.masking == "input":
            hidden = is_masked(partition, tokens.shape[2])[..., None]
            tokens = torch.where(hidden, self.mask_token.to(tokens.dtype), tokens)
        return self.network.encoder(tokens, rate=rate)

    def _decode(
        self,
        visible_BTD: Tensor,
        partition: Partition,
        rows_C: Tensor,
        tokens: int,
        rate: float,
        present_BC: Tensor | None,
    ) -> Tensor:
        """Return predictions `[B, C, M, P]`.

        Decoders do not know the order of their tokens but by the positions added to them, so masked
        tokens follow the visible ones and nothing is scattered back.
        """
        table = self.positions(rows_C, tokens, rate=rate)[None]
        visible = visible_BTD + take(table, partition.visible).flatten(1, 2)
        masked = self.mask_token + take(table, partition.masked).flatten(1, 2)
        sequence = torch.cat([visible, masked.to(visible.dtype)], dim=1)
        keys = _keys(present_BC, partition.visible.shape[2], partition.masked.shape[2])
        windows, channels, count = partition.masked.shape
        wanted = torch.arange(channels * count, device=visible.device) + visible.shape[1]
        wanted = wanted.view(channels if self.per_channel else 1, 1, -1).expand(-1, windows, -1)
        predicted = self.decoders(sequence, wanted, keys)
        if self.per_channel:
            return predicted.transpose(0, 1)
        return predicted[0].unflatten(1, (channels, count))

    def _compare(
        self, predicted: Tensor, cut: Patches, rows_C: Tensor, partition: Partition
    ) -> tuple[Tensor, Tensor]:
        """Return predicted and true patches in the target's units."""
        network, raw = self.network, cut.samples
        if cut.statistics is not None and self.loss_config.target == "raw":
            assert network.revin is not None
            flat = network.revin.denormalise(predicted.flatten(2), cut.statistics, rows_C)
            predicted = flat.unflatten(2, predicted.shape[2:])
        elif cut.statistics is not None:
            # Without RevIN's own scale: trained, it could shrink the target to nothing.
            raw = standardise(raw, cut.statistics)
        truth = raw.unflatten(2, (-1, network.config.patch))
        return predicted, take(truth, partition.masked)


def _keys(present_BC: Tensor | None, *counts: int) -> Tensor | None:
    """Return which tokens exist, `[B, C * sum(counts)]`, count by count."""
    if present_BC is None:
        return None
    return torch.cat([present_BC.repeat_interleave(count, dim=1) for count in counts], dim=1)


def channel_errors(names: Sequence[str], error_C: Tensor) -> dict[str, Tensor]:
    """Return each channel's error under its name."""
    return dict(zip(names, error_C, strict=True))
