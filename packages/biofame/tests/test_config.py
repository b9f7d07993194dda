"""Options: the published defaults, and what is no option."""

import dataclasses
from pathlib import Path

import pytest

from biofame.config import DecoderConfig, HeadConfig, InitConfig, LossConfig, ModelConfig

NAN, INFINITE = float("nan"), float("inf")


def test_defaults_are_the_released_ones() -> None:
    model = ModelConfig()
    assert (model.patch, model.dim, model.depth, model.mlp, model.filters) == (20, 64, 4, 128, 8)
    assert (model.mixing, model.operator, model.filter_std) == ("filter", "pool", 0.02)
    assert (model.mixer_depth, model.mixer_heads, model.mixer_mlp) == (1, 4, 64)
    assert (model.rate, model.tokens, model.dropout, model.revin) == (100.0, 150, 0.2, True)
    assert (model.mixer_positional, model.encoder_positional) == ("none", False)
    assert (model.post_norm, model.filter_identity, model.tail) == (False, False, "trim")
    decoder = DecoderConfig()
    assert (decoder.depth, decoder.heads, decoder.mlp, decoder.dropout) == (1, 4, 64, 0.2)
    assert (decoder.per_channel, decoder.embedding_std) == (True, 1.0)
    loss = LossConfig()
    assert (loss.mask_ratio, loss.masking, loss.divisor) == (0.5, "latent", "code")
    assert loss.target == "revin"  # the released code has raw
    head = HeadConfig()
    assert (head.task, head.outputs, head.pooling, head.mixup) == ("classification", 5, "avg", 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, "model.channels must name at least one channel"),
        (
            {"channels": ("eeg", "eog", "eeg")},
            "model.channels must name each channel once, got eeg",
        ),
        ({"tokens": 0}, "model.tokens must be >= 1, got 0"),
        ({"patch": 0}, "model.patch must be >= 1, got 0"),
        ({"dim": -8}, "model.dim must be >= 1, got -8"),
        ({"depth": 0}, "model.depth must be >= 1, got 0"),
        ({"mlp": 0}, "model.mlp must be >= 1, got 0"),
        ({"filters": 0}, "model.filters must be >= 1, got 0"),
        ({"mixer_heads": 0}, "model.mixer_heads must be >= 1, got 0"),
        ({"mixer_heads": 5}, "model.mixer_heads must divide dim 64, got 5"),
        ({"mixer_depth": -1}, "model.mixer_depth must be >= 0, got -1"),
        ({"mixer_mlp": 0}, "model.mixer_mlp must be >= 1, got 0"),
        ({"rate": 0.0}, "model.rate must be > 0, got 0"),
        ({"rate": NAN}, "model.rate must be > 0, got nan"),
        ({"rate": INFINITE}, "model.rate must be > 0, got inf"),
        ({"filter_std": 0.0}, "model.filter_std must be > 0, got 0"),
        ({"temperature": -1.0}, "model.temperature must be > 0, got -1"),
        ({"dropout": 1.0}, r"model.dropout must lie in \[0, 1\), got 1"),
        ({"dropout": NAN}, r"model.dropout must lie in \[0, 1\), got nan"),
        ({"mixing": "fourier"}, "model.mixing must be one of filter, attention, got fourier"),
        ({"operator": "proj"}, "model.operator must be one of pool, query, .*, got proj"),
        ({"mixer_positional": "all"}, "model.mixer_positional must be one of none, .*, got all"),
        ({"tail": "drop"}, "model.tail must be one of trim, pad, got drop"),
    ],
)
def test_bad_models(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "decoder.depth must be >= 1, got 0"),
        ({"heads": 0}, "decoder.heads must be >= 1, got 0"),
        ({"mlp": 0}, "decoder.mlp must be >= 1, got 0"),
        ({"dropout": -0.1}, r"decoder.dropout must lie in \[0, 1\), got -0.1"),
        ({"embedding_std": 0.0}, "decoder.embedding_std must be > 0, got 0"),
        ({"embedding_std": NAN}, "decoder.embedding_std must be > 0, got nan"),
    ],
)
def test_bad_decoders(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.0}, r"loss.mask_ratio must lie in \(0, 1\), got 0"),
        ({"mask_ratio": 1.0}, r"loss.mask_ratio must lie in \(0, 1\), got 1"),
        ({"mask_ratio": NAN}, r"loss.mask_ratio must lie in \(0, 1\), got nan"),
        ({"masking": "signal"}, "loss.masking must be one of latent, input, got signal"),
        ({"target": "microvolt"}, "loss.target must be one of revin, raw, got microvolt"),
        ({"divisor": "none"}, "loss.divisor must be one of code, mean, got none"),
    ],
)
def test_bad_losses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "forecast"}, "head.task must be one of classification, .*, got forecast"),
        ({"pooling": "max"}, "head.pooling must be one of avg, cls, cat, got max"),
        ({"outputs": 1}, "head.outputs must be >= 2, got 1"),
        ({"task": "staging", "context": 3, "outputs": 1}, "head.outputs must be >= 2, got 1"),
        ({"task": "regression", "outputs": 0}, "head.outputs must be >= 1, got 0"),
        ({"mixup": -0.1}, "head.mixup must be >= 0, got -0.1"),
        ({"mixup": INFINITE}, "head.mixup must be >= 0, got inf"),
        ({"cutmix": NAN}, "head.cutmix must be >= 0, got nan"),
        ({"label_smoothing": 1.0}, r"head.label_smoothing must lie in \[0, 1\), got 1"),
        ({"context_depth": 0}, "head.context_depth must be >= 1, got 0"),
        ({"context": 3}, "head.context is of staging only, got 3"),
        ({"task": "staging"}, "head.context must be >= 2 for staging, got 1"),
    ],
)
def test_bad_heads(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadConfig(**options)


def test_a_regression_may_have_one_output() -> None:
    assert HeadConfig(task="regression", outputs=1).outputs == 1


@pytest.mark.parametrize("options", [{}, {"run": Path("runs/a"), "scratch": True}])
def test_bad_inits(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"init.run must name .*, or init.scratch be true"):
        InitConfig(**options)


def test_good_inits() -> None:
    assert InitConfig(run=Path("runs/a")).scratch is False
    assert InitConfig(scratch=True).run is None


@pytest.mark.parametrize(
    "config", [ModelConfig(), DecoderConfig(), LossConfig(), HeadConfig(), InitConfig(scratch=True)]
)
def test_configurations_cannot_be_changed_unchecked(config: object) -> None:
    first = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, first, None)
    assert dataclasses.replace(config) == config
