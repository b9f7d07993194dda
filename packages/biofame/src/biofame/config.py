"""Options of model, decoders, losses and heads; standard library only.

Defaults are the paper's released ones (spec 2.5); what departs from them says so.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Operator = Literal["pool", "query", "query_complex", "softpool", "bandfilter"]
Mixing = Literal["filter", "attention"]
Positional = Literal["none", "time", "modality", "both"]
Tail = Literal["trim", "pad"]
Masking = Literal["latent", "input"]
Target = Literal["revin", "raw"]
Divisor = Literal["code", "mean"]
Task = Literal["classification", "multilabel", "regression", "staging"]
Pooling = Literal["avg", "cls", "cat"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: tokeniser, frequency-aware encoder and mixer (paper §3; spec 2.1-2.3).

    Args:
        channels: Names of the channels it has parameters for; others run too, with neutral ones.
        rate: Samples per second of the recordings it is trained on.
        tokens: Patches of a training window of a channel; the size of tables of positions.
        patch: Samples of a patch.
        dim: Width D.
        depth: Blocks of the encoder.
        mlp: Width of an encoder block's feed-forward layer.
        mixing: How an encoder block mixes tokens: `filter`, or `attention` for the baseline.
        operator: Filter operator; `pool` and `query` are the paper's, the others labelled
            extensions (`filters.py`).
        filters: H, rows of the filter bank K (knots for `bandfilter`).
        filter_std: Standard deviation of each component of K at the start.
        filter_identity: Adds 1 to the real part of K at the start, so that a filter lets through
            what it gets; the released code does not.
        temperature: `softpool` only: of the softmax over filters.
        post_norm: Whether layers are `LN(f(x)) + x` instead of `x + f(LN(x))`.
        patch_norm: Whether patches are layer-normalised before the projection.
        dropout: In encoder and mixer.
        revin: Whether each window's channels are normalised by their mean and deviation.
        encoder_positional: Whether tokens get a learned time before the encoder; without it
            attention does not know the order. The paper's filters need none.
        mixer_depth: Layers of the mixer, the paper's second encoder.
        mixer_heads: Its heads.
        mixer_mlp: Width of its feed-forward layer.
        mixer_positional: Learned tables added before the mixer; the paper has none.
        tail: What becomes of samples after the last whole patch: cut off, or filled with zeros.
    """

    channels: tuple[str, ...] = ("eeg",)
    rate: float = 100.0
    tokens: int = 150
    patch: int = 20
    dim: int = 64
    depth: int = 4
    mlp: int = 128
    mixing: Mixing = "filter"
    operator: Operator = "pool"
    filters: int = 8
    filter_std: float = 0.02
    filter_identity: bool = False
    temperature: float = 1.0
    post_norm: bool = False
    patch_norm: bool = True
    dropout: float = 0.2
    revin: bool = True
    encoder_positional: bool = False
    mixer_depth: int = 1
    mixer_heads: int = 4
    mixer_mlp: int = 64
    mixer_positional: Positional = "none"
    tail: Tail = "trim"

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        for name in ("tokens", "patch", "dim", "depth", "mlp", "filters", "mixer_heads"):
            _require(getattr(self, name) >= 1, f"model.{name}", "must be >= 1", getattr(self, name))
        for name in ("rate", "filter_std", "temperature"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"model.{name}", "must be > 0", value)
        _require(self.mixer_depth >= 0, "model.mixer_depth", "must be >= 0", self.mixer_depth)
        _require(self.mixer_mlp >= 1, "model.mixer_mlp", "must be >= 1", self.mixer_mlp)
        _require(0 <= self.dropout < 1, "model.dropout", "must lie in [0, 1)", self.dropout)
        divides = self.dim % self.mixer_heads == 0
        _require(divides, "model.mixer_heads", f"must divide dim {self.dim}", self.mixer_heads)
        for name, kind in (
            ("mixing", Mixing),
            ("operator", Operator),
            ("mixer_positional", Positional),
            ("tail", Tail),
        ):
            _one_of(f"model.{name}", getattr(self, name), get_args(kind))


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What turns visible latents into masked patches; thrown away afterwards (spec 2.4).

    Args:
        per_channel: Whether each channel has a decoder and a reconstruction layer of its own.
        depth: Layers of a decoder.
        heads: Heads of a layer.
        mlp: Width of a layer's feed-forward layer.
        dropout: In the decoders.
        embedding_std: Standard deviation of the table of positions at the start; the released code
            has 1, beside latents that are much smaller.
    """

    per_channel: bool = True
    depth: int = 1
    heads: int = 4
    mlp: int = 64
    dropout: float = 0.2
    embedding_std: float = 1.0

    def __post_init__(self) -> None:
        for name in ("depth", "heads", "mlp"):
            value = getattr(self, name)
            _require(value >= 1, f"decoder.{name}", "must be >= 1", value)
        _require(0 <= self.dropout < 1, "decoder.dropout", "must lie in [0, 1)", self.dropout)
        positive = 0 < self.embedding_std < math.inf
        _require(positive, "decoder.embedding_std", "must be > 0", self.embedding_std)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is masked and what is predicted (paper §3.3; spec 2.4).

    Args:
        mask_ratio: Share of each channel's tokens that are masked.
        masking: `latent` masks what the encoder gives, so that it sees the whole signal; `input`
            masks what it gets, as other masked autoencoders do.
        target: `revin` predicts each window's standardised samples; `raw` the recording's own
            units, as the released code, so that channels of great amplitude weigh most.
        divisor: `code` divides the mean square once more by the number of channels, as the
            released code; `mean` does not.
    """

    mask_ratio: float = 0.5
    masking: Masking = "latent"
    target: Target = "revin"
    divisor: Divisor = "code"

    def __post_init__(self) -> None:
        _require(0 < self.mask_ratio < 1, "loss.mask_ratio", "must lie in (0, 1)", self.mask_ratio)
        for name, kind in (("masking", Masking), ("target", Target), ("divisor", Divisor)):
            _one_of(f"loss.{name}", getattr(self, name), get_args(kind))


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What a fine-tuned network says of a window (spec 2.3, 2.5).

    Args:
        task: `classification` of one class a window, `multilabel`, `regression` of one or more
            numbers, or `staging`: one class for each window of a sequence.
        outputs: Classes, labels or numbers.
        pooling: `avg` over tokens of all channels; `cls`, a token of its own; `cat`, the channels'
            means side by side, which fixes the number of channels.
        context: `staging` only: windows of a sequence.
        context_depth: `staging` only: transformer layers over the windows.
        mixup: Beta parameter of MixUp of inputs, 0 for none; classification only.
        cutmix: Beta parameter of CutMix along time, 0 for none; with both, each batch gets one.
        label_smoothing: Of classes.
        freeze: Whether only the head is trained.
    """

    task: Task = "classification"
    outputs: int = 5
    pooling: Pooling = "avg"
    context: int = 1
    context_depth: int = 1
    mixup: float = 0.2
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    freeze: bool = False

    def __post_init__(self) -> None:
        _one_of("head.task", self.task, get_args(Task))
        _one_of("head.pooling", self.pooling, get_args(Pooling))
        fewest = 2 if self.task in ("classification", "staging") else 1
        _require(self.outputs >= fewest, "head.outputs", f"must be >= {fewest}", self.outputs)
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"head.{name}", "must be >= 0", value)
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "head.label_smoothing", "must lie in [0, 1)", smoothing)
        _require(self.context_depth >= 1, "head.context_depth", "must be >= 1", self.context_depth)
        if self.task == "staging":
            _require(self.context >= 2, "head.context", "must be >= 2 for staging", self.context)
        else:
            _require(self.context == 1, "head.context", "is of staging only", self.context)


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What a fine-tuning run starts from.

    Args:
        run: Run folder or checkpoint of `pretrain` or `pretrain-contrastive`.
        scratch: Whether to start from random weights instead; one of the two must be given.
    """

    run: Path | None = None
    scratch: bool = False

    def __post_init__(self) -> None:
        if (self.run is None) is not self.scratch:
            raise ValueError(
                "init.run must name a pre-trained run, or init.scratch be true for random weights; "
                f"got run {self.run} and scratch {self.scratch}"
            )


def _check_channels(channels: tuple[str, ...]) -> None:
    _require(len(channels) >= 1, "model.channels", "must name at least one channel", channels)
    twice = sorted({name for name in channels if channels.count(name) > 1})
    _require(not twice, "model.channels", "must name each channel once", ", ".join(twice))


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    _require(value in choices, name, f"must be one of {', '.join(choices)}", value)


def _require(holds: bool, name: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} {expectation}, got {value}")
