"""What stands on the network in fine-tuning: pooling, a layer over sequences, outputs (spec 2.3).

Shapes: B windows, S windows of a sequence, C channels, L samples, N tokens a channel, D width of
the network, W width of a pooled window (D, or C * D for `cat`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from biofame.config import HeadConfig
from biofame.model import BioFame, blank_absent
from biofame.transformer import TransformerLayer

STD = 0.02


class Classifier(nn.Module):
    """A network with a head.

    Args:
        network: The network; it is held, not copied, and with `freeze` gets no gradient.
        config: The head.
    """

    cls: nn.Parameter | None
    cls_time: nn.Parameter | None
    cls_modality: nn.Parameter | None
    shift: Tensor
    scale: Tensor

    def __init__(self, network: BioFame, config: HeadConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self._add_class_token()
        width = network.config.dim
        if config.pooling == "cat":
            width *= len(network.config.channels)
        self.context = SequenceLayers(network, width, config) if config.task == "staging" else None
        self.output = nn.Linear(width, config.outputs)
        if config.task == "regression":
            self.register_buffer("shift", torch.zeros(config.outputs))
            self.register_buffer("scale", torch.ones(config.outputs))
        if config.freeze:
            network.requires_grad_(False)

    def forward(
        self,
        samples: Tensor,
        *,
        channels: Sequence[str] | None = None,
        rate: float | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Return logits or numbers, `[B, outputs]`, or of each window `[B, S, outputs]`.

        Args:
            samples: Windows `[B, C, L]`; for staging sequences of them, `[B, S, C, L]`.
            channels: Names of their channels, by default the network's.
            rate: Samples per second, by default the network's.
            present: Which channels a window has, `[B, C]` or `[B, S, C]`, all by default.

        Raises:
            ValueError: Channels or lengths do not fit.
        """
        pooled = self.features(samples, channels=channels, rate=rate, present=present)
        if self.context is not None:
            pooled = self.context(pooled)
        outputs = self.output(pooled)
        if self.config.task == "regression":
            outputs = outputs * self.scale + self.shift
        return outputs

    def features(
        self,
        samples: Tensor,
        *,
        channels: Sequence[str] | None = None,
        rate: float | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Return pooled windows, `[B, W]` or `[B, S, W]`; see `forward`."""
        lead = samples.shape[:-2]
        flat = samples.reshape(-1, *samples.shape[-2:])
        there = None if present is None else present.reshape(-1, present.shape[-1])
        pooled = self._pool(flat, channels, rate, there)
        return pooled.unflatten(0, lead)

    def standardise_targets(self, targets: Tensor) -> None:
        """Let the outputs of a regression start at mean and deviation of targets `[n, outputs]`."""
        known = targets[~targets.isnan().any(dim=1)]
        deviation, mean = torch.std_mean(known, dim=0, correction=0)
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))

    def _add_class_token(self) -> None:
        """Add a token, and its rows of the mixer's tables where that has any."""
        mixer, dim = self.network.mixer, self.network.config.dim
        used = {
            "cls": True,
            "cls_time": mixer.time is not None,
            "cls_modality": mixer.modality is not None,
        }
        for name, is_used in used.items():
            wanted = is_used and self.config.pooling == "cls"
            vector = nn.Parameter(torch.randn(dim) * STD) if wanted else None
            self.register_parameter(name, vector)

    def _pool(
        self,
        samples_BCL: Tensor,
        channels: Sequence[str] | None,
        rate: float | None,
        present_BC: Tensor | None,
    ) -> Tensor:
        if self.config.pooling == "cls":
            return self._class_token(samples_BCL, channels, rate, present_BC)
        tokens_BCND = self.network(samples_BCL, channels=channels, rate=rate, present_BC=present_BC)
        if self.config.pooling == "avg":
            return average(tokens_BCND, present_BC)
        return self._side_by_side(tokens_BCND, channels, present_BC)

    def _class_token(
        self,
        samples_BCL: Tensor,
        channels: Sequence[str] | None,
        rate: float | None,
        present_BC: Tensor | None,
    ) -> Tensor:
        """Return what the mixer makes of the token, which stands before all others."""
        network = self.network
        rate = network.rate_of(rate)
        rows_C = network.rows(samples_BCL, channels)
        cut = network.cut(blank_absent(samples_BCL, present_BC), rows_C)
        latent = network.encoder(network.tokenizer(cut.patches), rate=rate)
        placed = network.mixer.place(latent, rows_C, rate=rate)
        assert self.cls is not None
        token = self.cls + sum(row for row in (self.cls_time, self.cls_modality) if row is not None)
        token = token.to(placed.dtype).expand(len(placed), 1, -1)
        is_key_BT = None
        if present_BC is not None:
            is_key_BT = present_BC.repeat_interleave(placed.shape[2], dim=1)
            is_key_BT = torch.cat([torch.ones_like(is_key_BT[:, :1]), is_key_BT], dim=1)
        return network.mixer(torch.cat([token, placed.flatten(1, 2)], dim=1), is_key_BT)[:, 0]

    def _side_by_side(
        self, tokens_BCND: Tensor, channels: Sequence[str] | None, present_BC: Tensor | None
    ) -> Tensor:
        """Return the channels' means in the network's order, zeros for absent ones."""
        known = self.network.config.channels
        names = known if channels is None else tuple(channels)
        if sorted(names) != sorted(known):
            raise ValueError(
                f"head.pooling cat needs the channels {', '.join(known)}, got {', '.join(names)}; "
                "avg and cls take any"
            )
        pooled_BCD = tokens_BCND.mean(dim=2)
        if present_BC is not None:
            pooled_BCD = pooled_BCD.where(present_BC[..., None], 0.0)
        return pooled_BCD[:, [names.index(name) for name in known]].flatten(1)


class SequenceLayers(nn.Module):
    """Attention over the windows of a sequence, each at a learned place.

    Args:
        network: Says how wide and deep its own mixer is.
        width: W.
        config: The head.
    """

    def __init__(self, network: BioFame, width: int, config: HeadConfig) -> None:
        super().__init__()
        model = network.config
        self.places_SW = nn.Parameter(torch.randn(config.context, width) * STD)
        self.layers = nn.ModuleList(
            TransformerLayer(width, model.mixer_heads, model.mixer_mlp, model.dropout)
            for _ in range(config.context_depth)
        )

    def forward(self, windows_BSW: Tensor) -> Tensor:
        """Return windows that know of each other.

        Raises:
            ValueError: They are no sequences, or longer ones than `head.context`.
        """
        longest = len(self.places_SW)
        if windows_BSW.ndim != 3 or windows_BSW.shape[1] > longest:
            raise ValueError(
                f"staging takes sequences of up to {longest} windows (head.context), got "
                f"features of shape {tuple(windows_BSW.shape)}"
            )
        x = windows_BSW + self.places_SW[: windows_BSW.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return x


def average(tokens_BCND: Tensor, present_BC: Tensor | None = None) -> Tensor:
    """Return the mean `[B, D]` over the tokens of the channels that a window has."""
    pooled_BCD = tokens_BCND.mean(dim=2)
    if present_BC is None:
        return pooled_BCD.mean(dim=1)
    there = present_BC[..., None].to(pooled_BCD.dtype)
    return (pooled_BCD * there).sum(dim=1) / there.sum(dim=1)
