"""Options of the baselines; standard library only."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Method = Literal["tfc", "tstcc"]
Consistency = Literal["paper", "code", "none"]
Norm = Literal["batchnorm", "layernorm"]


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Contrastive pre-training: TF-C or TS-TCC (`losses_tfc.py`, `losses_tstcc.py`).

    Values are those of the released codes for Sleep-EDF, except where it says so.

    Args:
        method: Whose loss.
        temperature: Of both methods' NT-Xent.
        jitter: Standard deviation of added noise over that of each window's channel; the released
            codes add the same noise to every recording, whatever its unit.
        weight: TF-C: lambda, of the losses within time and within frequency.
        consistency: TF-C: `paper` is the published term between time and frequency, `code` what
            the released code minimises instead, `none` leaves it out.
        margin: TF-C: delta of `paper`.
        projection: TF-C: width of the space that time and frequency share.
        perturbed: TF-C: share of frequencies that are removed, and of those that are raised.
        raised: TF-C: most that a frequency is raised by, over the largest amplitude of its channel.
        scale: TS-TCC: standard deviation of the weak view's factors, whose mean is 2.
        segments: TS-TCC: the strong view has fewer segments than this.
        steps: TS-TCC: K, tokens ahead that are predicted.
        context_dim: TS-TCC: width of the transformer that sums up the past.
        context_depth: TS-TCC: its layers.
        context_heads: TS-TCC: its heads.
        context_mlp: TS-TCC: width of its feed-forward layers.
        temporal_weight: TS-TCC: lambda 1, of both predictions.
        contextual_weight: TS-TCC: lambda 2, of the contrast between contexts.
    """

    method: Method = "tfc"
    temperature: float = 0.2
    jitter: float = 0.1
    weight: float = 0.2
    consistency: Consistency = "paper"
    margin: float = 1.0
    projection: int = 128
    perturbed: float = 0.1
    raised: float = 0.1
    scale: float = 1.5
    segments: int = 12
    steps: int = 50
    context_dim: int = 64
    context_depth: int = 4
    context_heads: int = 4
    context_mlp: int = 64
    temporal_weight: float = 1.0
    contextual_weight: float = 0.7

    def __post_init__(self) -> None:
        _one_of("contrast.method", self.method, get_args(Method))
        _one_of("contrast.consistency", self.consistency, get_args(Consistency))
        positive = 0 < self.temperature < math.inf
        _require(positive, "contrast.temperature", "must be > 0", self.temperature)
        for name in ("jitter", "margin", "raised", "scale", "temporal_weight", "contextual_weight"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"contrast.{name}", "must be >= 0", value)
        _require(0 <= self.weight <= 1, "contrast.weight", "must lie in [0, 1]", self.weight)
        share = 0 <= self.perturbed < 1
        _require(share, "contrast.perturbed", "must lie in [0, 1)", self.perturbed)
        for name in ("projection", "steps", "context_depth", "context_heads", "context_mlp"):
            value = getattr(self, name)
            _require(value >= 1, f"contrast.{name}", "must be >= 1", value)
        _require(self.segments >= 2, "contrast.segments", "must be >= 2", self.segments)
        divides = self.context_dim >= 1 and self.context_dim % self.context_heads == 0
        multiple = f"must be a multiple of context_heads {self.context_heads}"
        _require(divides, "contrast.context_dim", multiple, self.context_dim)


@dataclass(frozen=True, kw_only=True)
class PatchTstConfig:
    """PatchTST as in transformers (Nie et al. 2023), with patches that do not overlap.

    With three layers it has about as many numbers as bioFAME's default network.

    Args:
        channels: Names of the channels, in the order of the windows.
        length: Samples of a window; a window of another length does not fit.
        patch: Samples of a patch; samples before the first whole one are left out.
        dim: Width.
        depth: Layers.
        heads: Heads of a layer.
        mlp: Width of a layer's feed-forward layer.
        norm: Kind of the norms.
        dropout: Of attention, feed-forward layers and head.
        mask_ratio: Share of each channel's patches that are masked in pre-training.
    """

    channels: tuple[str, ...] = ("eeg",)
    length: int = 3000
    patch: int = 20
    dim: int = 64
    depth: int = 3
    heads: int = 4
    mlp: int = 128
    norm: Norm = "batchnorm"
    dropout: float = 0.2
    mask_ratio: float = 0.5

    def __post_init__(self) -> None:
        _require(len(self.channels) >= 1, "model.channels", "must name at least one", self.channels)
        once = len(set(self.channels)) == len(self.channels)
        _require(once, "model.channels", "must name each channel once", ", ".join(self.channels))
        for name in ("patch", "dim", "depth", "heads", "mlp"):
            value = getattr(self, name)
            _require(value >= 1, f"model.{name}", "must be >= 1", value)
        fewest = 2 * self.patch
        _require(self.length >= fewest, "model.length", f"must be >= {fewest}", self.length)
        divides = self.dim % self.heads == 0
        _require(divides, "model.heads", f"must divide dim {self.dim}", self.heads)
        _one_of("model.norm", self.norm, get_args(Norm))
        _require(0 <= self.dropout < 1, "model.dropout", "must lie in [0, 1)", self.dropout)
        tokens = self.length // self.patch
        kept = int(tokens * (1 - self.mask_ratio))
        between = f"must mask at least one of {tokens} patches and leave one"
        _require(0 < kept < tokens, "model.mask_ratio", between, self.mask_ratio)


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    _require(value in choices, name, f"must be one of {', '.join(choices)}", value)


def _require(holds: bool, name: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} {expectation}, got {value}")
