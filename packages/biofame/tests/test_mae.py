"""Masked autoencoding: the prediction step by step, its targets, its loss, its gradients."""

import itertools
import random

import pytest
import torch
from torch import Tensor, nn

from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.mae import MaskedAutoencoder, Reconstruction
from biofame.masking import Partition, draw_partition, take
from biofame.revin import measure, standardise

SMALL = {"channels": ("eeg", "eog", "emg"), "tokens": 9, "patch": 4, "dim": 8, "depth": 2, "mlp": 8}
MIXER = {"mixer_heads": 2, "mixer_mlp": 8}


def make(
    *,
    decoder: dict[str, object] | None = None,
    loss: dict[str, object] | None = None,
    **model: object,
) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(
        ModelConfig(**(SMALL | MIXER | {"filter_std": 0.5} | model)),
        DecoderConfig(**({"heads": 2, "mlp": 8} | (decoder or {}))),
        LossConfig(**(loss or {})),
    )


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def partition_of(windows: int = 4, channels: int = 3, tokens: int = 9) -> Partition:
    torch.manual_seed(5)
    return draw_partition(windows, channels, tokens, ratio=0.5, device=torch.device("cpu"))


def train_revin(autoencoder: MaskedAutoencoder) -> None:
    with torch.no_grad():
        autoencoder.network.revin.weight.copy_(torch.tensor([0.5, 1.5, -2.0]))
        autoencoder.network.revin.bias.copy_(torch.tensor([0.1, -0.2, 3.0]))


def predict_by_scattering(
    autoencoder: MaskedAutoencoder, samples: Tensor, partition: Partition
) -> Tensor:
    """Predict as the paper draws it: a full sequence in order, of which rows are kept."""
    network, rate = autoencoder.network, 100.0
    rows = torch.arange(samples.shape[1])
    latent = network.encoder(network.tokenizer(network.cut(samples, rows).patches), rate=rate)
    windows, channels, tokens, dim = latent.shape
    table = autoencoder.positions(rows, tokens, rate=rate)
    groups = len(autoencoder.decoders.reconstruction.weight)
    predicted = []
    for b in range(windows):
        visible = torch.cat([latent[b, c, partition.visible[b, c]] for c in range(channels)])
        mixed = network.mixer(visible[None])[0].unflatten(0, (channels, -1))
        full = torch.empty(channels, tokens, dim)
        for c in range(channels):
            full[c, partition.visible[b, c]] = mixed[c] + table[c, partition.visible[b, c]]
            mask = autoencoder.mask_token + table[c, partition.masked[b, c]]
            full[c, partition.masked[b, c]] = mask
        everywhere = torch.arange(channels * tokens).expand(groups, 1, -1)
        decoded = autoencoder.decoders(full.flatten(0, 1)[None], everywhere)
        own = [
            decoded[c if autoencoder.per_channel else 0, 0].unflatten(0, (channels, tokens))[c]
            for c in range(channels)
        ]
        predicted.append(torch.stack([own[c][partition.masked[b, c]] for c in range(channels)]))
    return torch.stack(predicted)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("per_channel", [True, False])
def test_prediction_is_that_of_the_scattered_sequence(depth: int, *, per_channel: bool) -> None:
    autoencoder = make(decoder={"per_channel": per_channel, "depth": depth}).eval()
    samples, partition = noise(4, 3, 36), partition_of()
    made = autoencoder(samples, partition=partition)
    expected = predict_by_scattering(autoencoder, samples, partition)
    torch.testing.assert_close(made.predicted, expected)
    assert made.predicted.shape == made.target.shape == (4, 3, 4, 4)


def true_patches(samples: Tensor, partition: Partition) -> Tensor:
    """Return the masked patches by a loop."""
    windows, channels, count = partition.masked.shape
    patches = torch.empty(windows, channels, count, 4)
    for b, c, m in itertools.product(range(windows), range(channels), range(count)):
        start = 4 * int(partition.masked[b, c, m])
        patches[b, c, m] = samples[b, c, start : start + 4]
    return patches


def test_targets_are_the_masked_patches_standardised() -> None:
    autoencoder, partition = make(), partition_of()
    samples = noise(4, 3, 36) * 30 + 400
    before = autoencoder(samples, partition=partition).target
    normal = standardise(samples, measure(samples))
    torch.testing.assert_close(before, true_patches(normal, partition))
    train_revin(autoencoder)  # RevIN's own scale is no part of the target
    assert torch.equal(autoencoder(samples, partition=partition).target, before)
    assert not before.requires_grad


def test_raw_targets_are_the_masked_patches_as_recorded() -> None:
    autoencoder, partition = make(loss={"target": "raw"}), partition_of()
    samples = noise(4, 3, 36) * 30 + 400
    target = autoencoder(samples, partition=partition).target
    assert torch.equal(target, true_patches(samples, partition))


def test_without_revin_targets_are_as_recorded() -> None:
    autoencoder, partition = make(revin=False), partition_of()
    samples = noise(4, 3, 36) * 30 + 400
    target = autoencoder(samples, partition=partition).target
    assert torch.equal(target, true_patches(samples, partition))


class PerfectDecoder(nn.Module):
    """Knows the patches that it should predict, `[G, B, Q, P]`."""

    def __init__(self, patches_GBQP: Tensor) -> None:
        super().__init__()
        self.patches_GBQP = patches_GBQP

    def forward(self, _tokens: Tensor, wanted_GBQ: Tensor, _keys: Tensor | None) -> Tensor:
        assert self.patches_GBQP.shape[:3] == wanted_GBQ.shape
        return self.patches_GBQP


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("target", ["revin", "raw"])
def test_perfect_decoder_has_no_loss(target: str, *, per_channel: bool) -> None:
    autoencoder = make(loss={"target": target}, decoder={"per_channel": per_channel})
    train_revin(autoencoder)
    samples, partition = noise(4, 3, 36) * 3 + 5, partition_of()
    statistics, rows = measure(samples), torch.arange(3)
    normal = standardise(samples, statistics)
    if target == "raw":  # what is undone is the whole of RevIN
        normal = autoencoder.network.revin.normalise(samples, statistics, rows).detach()
    patches = true_patches(normal, partition)
    grouped = patches.transpose(0, 1) if per_channel else patches.flatten(1, 2)[None]
    autoencoder.decoders = PerfectDecoder(grouped)
    made = autoencoder(samples, partition=partition)
    losses = autoencoder.loss(made)
    assert losses.total.item() == pytest.approx(0, abs=1e-9)
    assert losses.error.tolist() == pytest.approx([0] * 3, abs=1e-9)
    autoencoder.decoders = PerfectDecoder(grouped + 1)
    assert autoencoder.loss(autoencoder(samples, partition=partition)).total > 0.01


def reconstruct(predicted: Tensor, target: Tensor) -> Reconstruction:
    return Reconstruction(predicted, target, partition_of())


@pytest.mark.parametrize("divisor", ["code", "mean"])
def test_loss_is_the_mean_square_over_masked_patches(divisor: str) -> None:
    predicted, target = noise(4, 3, 5, 4), noise(4, 3, 5, 4, seed=2)
    losses = make(loss={"divisor": divisor}).loss(reconstruct(predicted, target))
    mean = ((predicted - target) ** 2).sum() / (4 * 3 * 5 * 4)
    torch.testing.assert_close(losses.total, mean / 3 if divisor == "code" else mean)
    for c in range(3):
        square = ((predicted - target)[:, c] ** 2).mean()
        variance = target[:, c].numpy().var()
        assert losses.error[c].item() == pytest.approx(square.item() / variance, rel=1e-4)


def test_predicting_the_mean_has_an_error_of_1() -> None:
    target = noise(4, 3, 5, 4) * torch.tensor([1.0, 20, 0.1])[:, None, None] + 3
    mean = target.mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
    losses = make().loss(reconstruct(mean, target))
    torch.testing.assert_close(losses.error, torch.ones(3))


@pytest.mark.parametrize("offset", [0.0, 1.0, 3e4])
def test_flat_targets_have_a_loss_and_no_error(offset: float) -> None:
    target = noise(4, 3, 5, 4) + offset
    target[:, 1] = offset * 1.1
    losses = make().loss(reconstruct(noise(4, 3, 5, 4), target))
    assert losses.error.isnan().tolist() == [False, True, False]
    assert losses.total.isfinite()


def test_loss_does_not_depend_on_what_is_visible() -> None:
    """Neither the target nor its gradient touches visible patches."""
    autoencoder, partition = make(loss={"target": "raw"}).eval(), partition_of()
    samples = noise(4, 3, 36)
    changed = samples.clone()
    start = 4 * int(partition.visible[0, 0, 0])
    changed[0, 0, start : start + 4] += 1
    before = autoencoder(samples, partition=partition).target
    assert torch.equal(autoencoder(changed, partition=partition).target, before)


def test_own_partition_is_drawn_when_none_is_given() -> None:
    autoencoder, samples = make().eval(), noise(4, 3, 36)
    torch.manual_seed(3)
    one = autoencoder(samples)
    torch.manual_seed(3)
    two = autoencoder(samples)
    other = autoencoder(samples)
    assert torch.equal(one.partition.masked, two.partition.masked)
    assert torch.equal(one.predicted, two.predicted)
    assert not torch.equal(one.partition.masked, other.partition.masked)
    assert torch.equal(one.target, autoencoder(samples, partition=one.partition).target)


CHOICES: dict[str, tuple[object, ...]] = {
    "operator": ("pool", "query", "query_complex", "softpool", "bandfilter"),
    "mixing": ("filter", "attention"),
    "filter_identity": (False, True),
    "post_norm": (False, True),
    "patch_norm": (True, False),
    "encoder_positional": (False, True),
    "mixer_depth": (1, 0, 2),
    "mixer_positional": ("none", "time", "modality", "both"),
    "tail": ("trim", "pad"),
    "channels": (("eeg", "eog", "emg"), ("eeg",)),
    "per_channel": (True, False),
    "decoder.depth": (1, 2),
    "masking": ("latent", "input"),
    "target": ("revin", "raw"),
    "revin": (True, False),
    "divisor": ("code", "mean"),
    "present": (False, True),
}


def combinations() -> list[dict[str, object]]:
    """Return every pair of two options' values at least once, in seeded random combinations."""
    generator = random.Random(0)
    pairs = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(CHOICES, 2)
        for x in CHOICES[a]
        for y in CHOICES[b]
    } - {(("target", "raw"), ("revin", False))}
    chosen = []
    while pairs:
        options = {name: generator.choice(values) for name, values in CHOICES.items()}
        options |= dict(min(pairs, key=repr))
        if options["target"] == "raw" and not options["revin"]:
            continue
        pairs -= set(itertools.combinations(options.items(), 2))
        chosen.append(options)
    return chosen


def test_every_parameter_has_a_gradient_in_pre_training() -> None:
    """Data-parallel training then need not search for unused ones."""
    tried = combinations()
    assert len(tried) > 20
    for options in tried:
        present = options.pop("present")
        decoder = {"per_channel": options.pop("per_channel"), "depth": options.pop("decoder.depth")}
        loss = {name: options.pop(name) for name in ("masking", "target", "divisor")}
        autoencoder = make(decoder=decoder, loss=loss, **options)
        channels = len(options["channels"])
        there = torch.ones(2, channels, dtype=torch.bool)
        there[:, 1:] = False  # a channel that no window has
        there = there if present else None
        made = autoencoder(noise(2, channels, 38), present_BC=there)
        losses = autoencoder.loss(made, present_BC=there)
        losses.total.backward()
        assert losses.total.isfinite(), options
        assert losses.error.shape == (channels,)
        for name, parameter in autoencoder.named_parameters():
            assert parameter.grad is not None, (name, options)
            assert parameter.grad.isfinite().all(), (name, options)


@pytest.mark.parametrize("operator", ["query", "query_complex", "softpool", "bandfilter"])
def test_every_weight_is_used(operator: str) -> None:
    autoencoder = make(
        operator=operator, patch_norm=False, encoder_positional=True, mixer_positional="both",
        dropout=0.0, decoder={"dropout": 0.0}, loss={"target": "raw", "masking": "input"},
    )  # fmt: skip
    autoencoder.loss(autoencoder(noise(16, 3, 36))).total.backward()
    for name, parameter in autoencoder.named_parameters():
        assert (parameter.grad != 0).float().mean() > 0.9, name


@pytest.mark.parametrize("tail", ["trim", "pad"])
def test_length_that_is_no_multiple_of_the_patch(tail: str) -> None:
    autoencoder = make(tail=tail, dropout=0.0, decoder={"dropout": 0.0})
    samples = noise(64, 3, 38) + 1000
    torch.manual_seed(0)
    made = autoencoder(samples)
    tokens = {"trim": 9, "pad": 10}[tail]
    assert sum(numbers.shape[2] for numbers in made.partition[:2]) == tokens
    # Zeros of the recording's units would lie a thousand deviations away.
    assert made.target.abs().max() < 6
    if tail == "pad":
        last = take(made.target, (made.partition.masked == 9).int().argmax(-1, keepdim=True))
        is_last = (made.partition.masked == 9).any(dim=-1)
        assert (last[is_last][..., 2:].abs() < 1e-3).all()
    else:
        torch.manual_seed(0)
        cut = autoencoder(samples[..., :36])
        assert torch.equal(made.predicted, cut.predicted)
        assert torch.equal(made.target, cut.target)


def test_other_lengths_and_rates_need_no_other_weights() -> None:
    autoencoder = make(mixer_positional="both", encoder_positional=True).eval()
    for length, rate in ((16, 100.0), (160, 100.0), (72, 200.0), (36, 31.25)):
        made = autoencoder(noise(2, 3, length), rate=rate)
        assert made.predicted.shape == (2, 3, length // 8, 4)
        assert made.predicted.isfinite().all()


@pytest.mark.parametrize("operator", CHOICES["operator"])
def test_bfloat16_autocast(operator: str) -> None:
    autoencoder = make(operator=operator, dropout=0.0, decoder={"dropout": 0.0})
    samples, partition = noise(4, 3, 36), partition_of()

    def gradients() -> list[Tensor]:
        autoencoder.zero_grad()
        losses = autoencoder.loss(made)
        assert losses.total.dtype == losses.error.dtype == torch.float32
        losses.total.backward()
        return [p.grad.flatten() for p in autoencoder.parameters()]

    made = autoencoder(samples, partition=partition)
    plain = torch.cat(gradients())
    with torch.autocast("cpu", torch.bfloat16):
        made = autoencoder(samples, partition=partition)
        half = torch.cat(gradients())
    assert torch.nn.functional.cosine_similarity(plain, half, dim=0) > 0.99


@pytest.mark.parametrize("operator", ["pool", "query_complex", "softpool", "bandfilter"])
def test_forward_compiles_into_one_graph(operator: str) -> None:
    torch._dynamo.reset()
    autoencoder = make(operator=operator, depth=1).eval()
    compiled = torch.compile(autoencoder, backend="eager", fullgraph=True)
    samples, partition = noise(4, 3, 36), partition_of()
    got = compiled(samples, partition=partition).predicted
    torch.testing.assert_close(got, autoencoder(samples, partition=partition).predicted)


def test_compiled_training_step_has_the_same_gradients() -> None:
    torch._dynamo.reset()
    samples, partition = noise(4, 3, 36), partition_of()
    present = torch.tensor([[True, True, False]] * 4)
    results = []
    for wrap in (
        lambda module: module,
        lambda m: torch.compile(m, backend="aot_eager", fullgraph=True),
    ):
        autoencoder = make(operator="query", depth=1, dropout=0.0, decoder={"dropout": 0.0})
        made = wrap(autoencoder)(samples, partition=partition, present_BC=present)
        autoencoder.loss(made, present_BC=present).total.backward()
        results.append([p.grad for p in autoencoder.parameters()])
    torch.testing.assert_close(results[1], results[0])


def test_one_batch_can_be_learnt() -> None:
    autoencoder = make(operator="query", dropout=0.0, decoder={"dropout": 0.0})
    samples, partition = noise(4, 3, 36), partition_of()
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        losses = autoencoder.loss(autoencoder(samples, partition=partition))
        losses.total.backward()
        optimizer.step()
    assert losses.error.max() < 0.3


def test_raw_targets_need_revin() -> None:
    with pytest.raises(ValueError, match=r"loss.target raw undoes model.revin, which is off"):
        make(revin=False, loss={"target": "raw"})


def test_decoder_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"decoder.heads must divide dim 8, got 3"):
        make(decoder={"heads": 3})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 2, 36), "windows have 2 channels, 3 are named: eeg, eog, emg"),
        ((2, 3, 3), "at least one patch of 4 samples, got 3"),
        ((2, 3, 7), "masks 0 of 1 tokens; at least one must be masked"),
    ],
)
def test_windows_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(noise(*shape))
