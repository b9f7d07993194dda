"""Numbers of parameters and operations of the released model, part by part, to the digit."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.filters import FilterLayer
from biofame.mae import MaskedAutoencoder
from biofame.model import BioFame

NAMES = ("eeg", "eog", "emg", "resp")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_autoencoder(channels: int, **decoder: object) -> MaskedAutoencoder:
    model = ModelConfig(channels=NAMES[:channels])
    return MaskedAutoencoder(model, DecoderConfig(**decoder), LossConfig())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_parts_of_the_network(channels: int) -> None:
    network = BioFame(ModelConfig(channels=NAMES[:channels]))
    assert count(network.tokenizer) == 1_512
    assert count(network.encoder) == 71_424
    assert [count(block) for block in network.encoder.blocks] == [17_856] * 4
    assert count(network.mixer) == 25_024
    assert count(network.revin) == 2 * channels
    # Beside RevIN and without a classifier, what the released model uses of one channel.
    assert count(network) - 2 * channels == 98_287 - 2 - 325


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("pool", 1_024),
        ("query", 1_544),
        ("query_complex", 2_048),
        ("softpool", 1_024),
        ("bandfilter", 1_024),
    ],
)
def test_filters(operator: str, expected: int) -> None:
    assert count(FilterLayer(ModelConfig(operator=operator))) == expected


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_parts_of_pre_training(channels: int) -> None:
    autoencoder = make_autoencoder(channels)
    assert count(autoencoder.decoders.layers) == 25_024 * channels
    assert count(autoencoder.decoders.reconstruction) == 1_300 * channels
    assert count(autoencoder.positions) == 9_600 * channels
    assert autoencoder.mask_token.numel() == 64


@pytest.mark.parametrize(("channels", "registered"), [(1, 153_667), (3, 244_719), (4, 290_245)])
def test_total_is_the_released_one_less_what_pre_training_does_not_use(
    channels: int, registered: int
) -> None:
    # A table of times, one of channels and times, a class token and a classifier of 5 classes.
    unused = 151 * 64 + (150 * channels + 1) * 64 + 64 + 325
    assert count(make_autoencoder(channels)) == registered - unused


def test_one_decoder_for_all_channels() -> None:
    autoencoder = make_autoencoder(3, per_channel=False)
    assert count(autoencoder.decoders) == 25_024 + 1_300
    assert count(autoencoder.positions) == 3 * 9_600


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"mixer_positional": "time"}, 150 * 64),
        ({"mixer_positional": "modality"}, 3 * 150 * 64),
        ({"mixer_positional": "both"}, 150 * 64 + 3 * 150 * 64),
        ({"encoder_positional": True}, 150 * 64),
        ({"mixer_depth": 2}, 25_024),
        ({"mixer_depth": 0}, -25_024),
        ({"revin": False}, -6),
        ({"patch_norm": False}, -40),
        ({"tokens": 15}, 0),
        ({"rate": 256.0}, 0),
        ({"depth": 5}, 17_856),
    ],
)
def test_what_options_add(options: dict[str, object], more: int) -> None:
    released = count(BioFame(ModelConfig(channels=NAMES[:3])))
    assert count(BioFame(ModelConfig(channels=NAMES[:3], **options))) == released + more


@pytest.mark.parametrize(("channels", "published"), [(1, 33_178_240), (3, 134_093_440)])
def test_operations_of_a_window(channels: int, published: int) -> None:
    """Of matrix products; the published count has a classifier of 5 classes beside them."""
    network = BioFame(ModelConfig(channels=NAMES[:channels])).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, channels, 3000))
    assert counter.get_total_flops() == published - 2 * 64 * 5
