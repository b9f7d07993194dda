"""What TF-C and TS-TCC put round an encoder of windows: views, further networks, their loss.

Deviations from both papers, so that methods and not networks are compared: the encoder is bioFAME's
network at equal width in place of convolutions, TF-C's frequency encoder a second one over the
amplitude spectrum. That network mixes all tokens of a window, so that TS-TCC's tokens up to a time
already know of later ones of their own view; it is the other view's that are predicted.

The released codes' negatives are those of one process; here those of all ranks, as if they were
one. Only outside of training each rank compares its own windows.

Shapes: B windows, C channels, N tokens, K steps ahead, D width, E width of projections.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biofame.baselines import contrastive_augment as augment
from biofame.baselines.config import ContrastConfig
from biofame.baselines.losses_tfc import Domains, TfcTerms, tfc_loss
from biofame.baselines.losses_tstcc import TstccTerms, View, tstcc_loss
from biofame.config import ModelConfig
from biofame.heads import average
from biofame.model import BioFame
from biofame.transformer import TransformerLayer
from tenfold.gather import gather_rows
from tenfold.losses.numerics import widen

if TYPE_CHECKING:
    from biofame.data import WindowBatch


class Projector(nn.Sequential):
    """Linear, batch norm, ReLU, Linear.

    Args:
        inputs: Width of the embeddings.
        hidden: Width between the layers.
        outputs: Width of the projections.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(inputs, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )


class TfcTask(nn.Module):
    """TF-C: an encoder of spectra, and projections of both domains into one space.

    Args:
        model: The time encoder's.
        config: The loss.
    """

    def __init__(self, model: ModelConfig, config: ContrastConfig) -> None:
        super().__init__()
        self.config = config
        # A spectrum has half as many numbers as the window.
        self.frequency_network = BioFame(replace(model, tokens=max(model.tokens // 2, 1)))
        self.projectors = nn.ModuleDict()
        if config.consistency != "none":
            sizes = (model.dim, 2 * config.projection, config.projection)
            names = Domains._fields
            self.projectors = nn.ModuleDict({name: Projector(*sizes) for name in names})

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the parts of the loss."""
        domains = Domains._fields
        return domains if self.config.consistency == "none" else (*domains, "consistency")

    def forward(self, network: BioFame, batch: "WindowBatch") -> TfcTerms:
        """Return the loss of a batch.

        Args:
            network: The time encoder.
            batch: Windows.
        """
        config, samples = self.config, batch["samples"]
        spectrum = augment.amplitudes(samples)
        h = self._encode(network, batch, samples, spectrum)
        view_h = self._encode(
            network,
            batch,
            augment.jitter(samples, share=config.jitter),
            augment.perturb(spectrum, share=config.perturbed, raised=config.raised),
        )
        z, view_z = self._project(h), self._project(view_h)
        given = [part for part in (h, view_h, z, view_z) if part is not None]
        rows = self._everywhere([each for part in given for each in part])
        domains = [Domains(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]
        z, view_z = domains[2:] or (None, None)
        return tfc_loss(
            domains[0],
            domains[1],
            z,
            view_z,
            temperature=config.temperature,
            weight=config.weight,
            consistency=config.consistency,
            margin=config.margin,
        )

    def _encode(
        self, network: BioFame, batch: "WindowBatch", samples: Tensor, spectrum: Tensor
    ) -> Domains:
        present = batch.get("present")
        time = network(samples, rate=batch["rate"], present_BC=present)
        frequency = self.frequency_network(spectrum, present_BC=present)
        return Domains(average(time, present), average(frequency, present))

    def _project(self, h: Domains) -> Domains | None:
        if not self.projectors:
            return None
        return Domains(*(self.projectors[name](each) for name, each in h._asdict().items()))

    def _everywhere(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return rows_of_all_ranks(parts) if self.training else [*parts]


class PastContext(nn.Module):
    """A transformer over the tokens up to a time, summed up in a token of its own.

    As the released one it has no positions.

    Args:
        dim: Width of the tokens.
        config: Its sizes.
        dropout: Of its layers.
    """

    def __init__(self, dim: int, config: ContrastConfig, dropout: float) -> None:
        super().__init__()
        width = config.context_dim
        self.embed = nn.Linear(dim, width)
        self.token = nn.Parameter(torch.randn(width))
        self.layers = nn.ModuleList(
            TransformerLayer(width, config.context_heads, config.context_mlp, dropout)
            for _ in range(config.context_depth)
        )

    def forward(self, tokens_BND: Tensor, time: Tensor) -> Tensor:
        """Return contexts `[B, context_dim]`.

        Args:
            tokens_BND: Tokens of whole windows.
            time: Number of the last token that is seen, a scalar.
        """
        embedded = self.embed(tokens_BND)
        token = self.token.to(embedded.dtype).expand(len(embedded), 1, -1)
        x = torch.cat([token, embedded], dim=1)
        # Later tokens are hidden, not cut off: shapes do not depend on the time.
        seen = torch.arange(x.shape[1], device=x.device) <= time + 1
        is_key_BT = seen.expand(len(x), -1)
        for layer in self.layers:
            x = layer(x, is_key_BT)
        return x[:, 0]


class TstccTask(nn.Module):
    """TS-TCC: contexts of two views, predictions from them, and their projection.

    Args:
        model: The encoder's.
        config: The loss.
    """

    terms = ("temporal", "contextual")

    def __init__(self, model: ModelConfig, config: ContrastConfig) -> None:
        super().__init__()
        self.config = config
        self.context = PastContext(model.dim, config, model.dropout)
        self.predict = nn.Linear(config.context_dim, config.steps * model.dim)
        hidden, outputs = max(model.dim // 2, 1), max(model.dim // 4, 1)
        self.projector = Projector(config.context_dim, hidden, outputs)

    def forward(self, network: BioFame, batch: "WindowBatch") -> TstccTerms:
        """Return the loss of a batch.

        Args:
            network: The encoder.
            batch: Windows.

        Raises:
            ValueError: Windows have too few tokens for `contrast.steps`.
        """
        config, samples = self.config, batch["samples"]
        strong = augment.strong_view(samples, jitter_share=config.jitter, segments=config.segments)
        weak = augment.weak_view(samples, jitter_share=config.jitter, scale_std=config.scale)
        tokens = [self._tokens(network, batch, view) for view in (strong, weak)]
        times = tokens[0].shape[1] - config.steps
        if times < 1:
            raise ValueError(
                f"contrast.steps must be less than the {tokens[0].shape[1]} tokens of a window, "
                f"got {config.steps}"
            )
        time = torch.randint(times, (), device=samples.device)
        views = [self._view(each, time) for each in tokens]
        if self.training:
            rows = rows_of_all_ranks([*views[0], *views[1]])
            views = [View(*rows[:3]), View(*rows[3:])]
        return tstcc_loss(
            views[0],
            views[1],
            temperature=config.temperature,
            temporal_weight=config.temporal_weight,
            contextual_weight=config.contextual_weight,
        )

    def _tokens(self, network: BioFame, batch: "WindowBatch", samples: Tensor) -> Tensor:
        present = batch.get("present")
        tokens_BCND = network(samples, rate=batch["rate"], present_BC=present)
        return F.normalize(mean_over_channels(tokens_BCND, present).float(), dim=-1)

    def _view(self, tokens_BND: Tensor, time: Tensor) -> View:
        steps = self.config.steps
        context = self.context(tokens_BND, time)
        ahead = time + 1 + torch.arange(steps, device=tokens_BND.device)
        predicted = self.predict(context).unflatten(1, (steps, -1))
        return View(predicted, tokens_BND.index_select(1, ahead), self.projector(context))


def build_task(model: ModelConfig, config: ContrastConfig) -> TfcTask | TstccTask:
    """Return the task of the configured method."""
    if config.method == "tfc":
        return TfcTask(model, config)
    if config.steps >= model.tokens:
        raise ValueError(
            f"contrast.steps must be less than model.tokens {model.tokens}, got {config.steps}"
        )
    return TstccTask(model, config)


def mean_over_channels(tokens_BCND: Tensor, present_BC: Tensor | None) -> Tensor:
    """Return the mean over the channels that a window has, `[B, N, D]`."""
    if present_BC is None:
        return tokens_BCND.mean(dim=1)
    weight = present_BC.to(tokens_BCND.dtype)[:, :, None, None]
    return (tokens_BCND * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def rows_of_all_ranks(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors `[N, ...]` with the rows of all ranks, in one exchange, with gradient."""
    flat = [widen(part).flatten(1) for part in parts]
    rows = gather_rows(torch.cat(flat, dim=1))
    pieces = rows.split([part.shape[1] for part in flat], dim=1)
    return [piece.unflatten(1, part.shape[1:]) for piece, part in zip(pieces, parts, strict=True)]
