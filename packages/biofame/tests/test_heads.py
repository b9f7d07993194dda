"""The head: pooling, channels, lengths, sequences, frozen networks, published sizes, losses."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from biofame.config import DecoderConfig, HeadConfig, LossConfig, ModelConfig
from biofame.heads import Classifier, average
from biofame.losses import class_loss, label_loss, number_loss, one_hot
from biofame.mae import MaskedAutoencoder
from biofame.model import BioFame

MODEL = ModelConfig(
    channels=("eeg", "eog", "emg"),
    tokens=6,
    patch=5,
    dim=8,
    depth=1,
    mlp=8,
    filters=2,
    filter_std=0.5,
    mixer_heads=2,
    mixer_mlp=8,
)
TABLES = replace(MODEL, mixer_positional="both")


def build(model: ModelConfig = MODEL, **head: object) -> Classifier:
    torch.manual_seed(0)
    config = HeadConfig(**{"outputs": 4, **head})  # pyright: ignore[reportArgumentType]
    return Classifier(BioFame(model), config).eval()


def windows(channels: int = 3, length: int = 30, windows: int = 5) -> Tensor:
    return torch.randn(windows, channels, length, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("channels", "total"), [(1, 153_667), (3, 244_719), (4, 290_245)])
def test_parameters_are_those_of_the_released_code(channels: int, total: int) -> None:
    """Spec 2.6, with all that the released code registers, used or not."""
    names = ("eeg", "eog", "emg", "resp")[:channels]
    model = ModelConfig(channels=names, mixer_positional="both")
    with torch.device("meta"):
        autoencoder = MaskedAutoencoder(model, DecoderConfig(), LossConfig())
        classifier = Classifier(autoencoder.network, HeadConfig(outputs=5, pooling="cls"))
    registered = {*autoencoder.parameters(), *classifier.parameters()}
    assert sum(parameter.numel() for parameter in registered) == total


def test_parameters_at_inference_are_those_of_the_released_code() -> None:
    with torch.device("meta"):
        classifier = Classifier(BioFame(ModelConfig()), HeadConfig(outputs=5))
    assert sum(parameter.numel() for parameter in classifier.parameters()) == 98_287


@pytest.mark.parametrize("pooling", ["avg", "cls", "cat"])
def test_pooling_is_by_the_definition(pooling: str) -> None:
    classifier = build(TABLES, pooling=pooling)
    network, samples = classifier.network, windows()
    tokens = network(samples)
    if pooling == "avg":
        expected = tokens.flatten(1, 2).mean(dim=1)
    elif pooling == "cat":
        expected = torch.cat([tokens[:, c].mean(dim=1) for c in range(3)], dim=1)
    else:
        rows = network.rows(samples, None)
        latent = network.encoder(network.tokenizer(network.cut(samples, rows).patches), rate=100.0)
        placed = network.mixer.place(latent, rows, rate=100.0).flatten(1, 2)
        assert classifier.cls is not None
        assert classifier.cls_time is not None
        assert classifier.cls_modality is not None
        token = classifier.cls + classifier.cls_time + classifier.cls_modality
        expected = network.mixer(torch.cat([token.expand(5, 1, -1), placed], dim=1))[:, 0]
    assert torch.allclose(classifier.features(samples), expected, atol=1e-6)
    assert torch.allclose(classifier(samples), classifier.output(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("pooling", "order"), list(product(["avg", "cls", "cat"], ["same", "other"]))
)
def test_the_order_of_channels_does_not_matter(pooling: str, order: str) -> None:
    classifier, samples = build(TABLES, pooling=pooling), windows()
    places = [0, 1, 2] if order == "same" else [2, 0, 1]
    names = [MODEL.channels[place] for place in places]
    found = classifier(samples[:, places], channels=names)
    assert torch.allclose(found, classifier(samples), atol=1e-6)


@pytest.mark.parametrize("pooling", ["avg", "cls"])
def test_an_absent_channel_is_as_if_it_were_not_there(pooling: str) -> None:
    classifier, samples = build(TABLES, pooling=pooling), windows()
    samples[:, 1] = torch.nan
    present = torch.tensor([True, False, True]).expand(5, -1)
    without = classifier(samples[:, [0, 2]], channels=("eeg", "emg"))
    assert torch.allclose(classifier(samples, present=present), without, atol=1e-6)


def test_an_absent_channel_is_zeros_side_by_side() -> None:
    classifier, samples = build(pooling="cat"), windows()
    present = torch.tensor([True, False, True]).expand(5, -1)
    features = classifier.features(samples, present=present).view(5, 3, 8)
    assert torch.equal(features[:, 1], torch.zeros(5, 8))
    assert (features[:, 0] != 0).any()


@pytest.mark.parametrize(
    ("pooling", "channels", "length"),
    [(p, c, n) for p in ("avg", "cls") for c in (1, 2, 5) for n in (5, 17, 90)],
)
def test_other_channels_and_lengths_run(pooling: str, channels: int, length: int) -> None:
    names = ("emg", "ecg", "eeg", "resp", "eog")[:channels]
    out = build(TABLES, pooling=pooling)(windows(channels, length), channels=names, rate=50.0)
    assert out.shape == (5, 4)
    assert out.isfinite().all()


def test_side_by_side_needs_its_channels() -> None:
    with pytest.raises(ValueError, match=r"head.pooling cat needs the channels eeg, eog, emg, got"):
        build(pooling="cat")(windows(2), channels=("eeg", "ecg"))


@pytest.mark.parametrize("pooling", ["avg", "cls", "cat"])
def test_a_sequence_has_an_output_for_each_window(pooling: str) -> None:
    classifier = build(task="staging", context=4, context_depth=2, pooling=pooling)
    samples = windows(windows=12).view(3, 4, 3, 30)
    whole = classifier(samples)
    assert whole.shape == (3, 4, 4)
    assert torch.allclose(
        classifier.features(samples).flatten(0, 1), classifier.features(samples.flatten(0, 1))
    )
    assert classifier(samples[:, :2]).shape == (3, 2, 4)
    changed = samples.clone()
    changed[:, 3] += torch.randn(3, 3, 30)
    assert not torch.allclose(classifier(changed)[:, 0], whole[:, 0])  # windows see each other
    swapped = classifier(samples.flip(1)).flip(1)
    assert not torch.allclose(swapped, whole)  # and know their places
    with pytest.raises(ValueError, match=r"sequences of up to 4 windows \(head.context\)"):
        classifier(torch.cat([samples, samples], dim=1))
    with pytest.raises(ValueError, match="staging takes sequences"):
        classifier(samples[:, 0])


@pytest.mark.parametrize("pooling", ["avg", "cls", "cat"])
def test_a_frozen_network_gets_no_gradient(pooling: str) -> None:
    classifier = build(TABLES, pooling=pooling, freeze=True)
    classifier(windows()).square().sum().backward()
    assert all(p.grad is None for p in classifier.network.parameters())
    head = [p for p in classifier.parameters() if p.requires_grad]
    assert len(head) == (5 if pooling == "cls" else 2)
    assert all(p.grad is not None and (p.grad != 0).any() for p in head)


@pytest.mark.parametrize(
    ("pooling", "task"), list(product(["avg", "cls", "cat"], ["classification", "staging"]))
)
def test_every_parameter_gets_a_gradient(pooling: str, task: str) -> None:
    """DDP refuses a parameter that has none."""
    context = 3 if task == "staging" else 1
    classifier = build(TABLES, pooling=pooling, task=task, context=context).train()
    samples = windows(windows=6).view(2, 3, 3, 30) if task == "staging" else windows()
    classifier(samples).square().sum().backward()
    assert [name for name, p in classifier.named_parameters() if p.grad is None] == []


def test_a_regression_starts_at_the_targets_mean_and_deviation() -> None:
    classifier = build(task="regression", outputs=2)
    targets = torch.tensor([[60.0, 5.0], [80.0, 5.0], [torch.nan, 9.0]])
    samples = windows()
    before = classifier(samples)
    classifier.standardise_targets(targets)
    expected = before * torch.tensor([10.0, 1.0]) + torch.tensor([70.0, 5.0])
    assert torch.allclose(classifier(samples), expected)
    assert {"shift", "scale"} <= set(classifier.state_dict())


def test_average_is_over_the_channels_that_are_there() -> None:
    tokens = torch.randn(2, 3, 4, 5)
    present = torch.tensor([[True, True, False], [False, False, True]])
    expected = torch.stack([tokens[0, :2].flatten(0, 1).mean(0), tokens[1, 2].mean(0)])
    assert torch.allclose(average(tokens, present), expected, atol=1e-6)
    assert torch.allclose(average(tokens), tokens.flatten(1, 2).mean(1), atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_class_loss_is_torchs_over_known_windows(smoothing: float) -> None:
    logits = torch.randn(6, 4, requires_grad=True)
    labels = torch.tensor([0, 3, -1, 2, -1, 1])
    found = class_loss(logits, one_hot(labels, 4), label_smoothing=smoothing)
    expected = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing)
    assert torch.allclose(found, expected)
    soft = torch.rand(6, 4).softmax(dim=1)
    found = class_loss(logits, soft, label_smoothing=smoothing)
    assert torch.allclose(found, F.cross_entropy(logits, soft, label_smoothing=smoothing))
    nothing = class_loss(logits, one_hot(torch.full((6,), -1), 4))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros(6, 4))


def test_other_losses_leave_unknown_windows_out() -> None:
    outputs = torch.randn(4, 3, requires_grad=True)
    targets = torch.tensor([[0.0, 1, 1], [1, 0, 0], [torch.nan, 1, 1], [0, 0, 1]])
    known = [0, 1, 3]
    expected = F.binary_cross_entropy_with_logits(outputs[known], targets[known])
    assert torch.allclose(label_loss(outputs, targets), expected)
    scale = torch.tensor([1.0, 2.0, 4.0])
    expected = ((outputs[known] - targets[known]) / scale).square().mean()
    found = number_loss(outputs, targets, scale=scale)
    assert torch.allclose(found, expected)
    found.backward()
    assert torch.equal(outputs.grad[2], torch.zeros(3))
