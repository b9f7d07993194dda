"""Patches, lengths that are no multiple of them, and their projection."""

import pytest
import torch
from torch import Tensor

from biofame.config import ModelConfig
from biofame.model import BioFame
from biofame.tokenizer import Tokenizer, patchify

SMALL = {
    "channels": ("eeg", "eog"), "tokens": 9, "patch": 4, "dim": 8, "depth": 1, "mlp": 8,
    "mixer_heads": 2, "mixer_mlp": 8,
}  # fmt: skip


def make_network(**options: object) -> BioFame:
    torch.manual_seed(0)
    return BioFame(ModelConfig(**(SMALL | options))).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tail", ["trim", "pad"])
def test_whole_patches_are_slices(tail: str) -> None:
    samples = noise(3, 2, 20)
    patches = patchify(samples, 4, tail=tail)
    assert patches.shape == (3, 2, 5, 4)
    for n in range(5):
        assert torch.equal(patches[:, :, n], samples[..., 4 * n : 4 * n + 4])


@pytest.mark.parametrize("over", [1, 3])
def test_tail_is_cut_off_or_filled_with_zeros(over: int) -> None:
    samples = noise(3, 2, 20 + over)
    assert torch.equal(patchify(samples, 4), patchify(samples[..., :20], 4))
    padded = patchify(samples, 4, tail="pad")
    assert padded.shape == (3, 2, 6, 4)
    assert torch.equal(padded.flatten(2)[..., : 20 + over], samples)
    assert (padded[:, :, -1, over:] == 0).all()


@pytest.mark.parametrize("tail", ["trim", "pad"])
def test_windows_shorter_than_a_patch(tail: str) -> None:
    with pytest.raises(ValueError, match="at least one patch of 4 samples, got 3"):
        patchify(torch.zeros(1, 1, 3), 4, tail=tail)
    with pytest.raises(ValueError, match="at least one patch of 4 samples, got 3"):
        make_network(tail=tail)(torch.zeros(1, 2, 3))


def test_tokenizer_is_its_formula() -> None:
    torch.manual_seed(0)
    config = ModelConfig(**SMALL)
    tokenizer, patches = Tokenizer(config), noise(3, 2, 5, 4)
    normal = (patches - patches.mean(-1, keepdim=True)) / (
        patches.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    projected = normal @ tokenizer.projection.weight.T + tokenizer.projection.bias
    expected = torch.nn.functional.layer_norm(projected, (8,))
    torch.testing.assert_close(tokenizer(patches), expected)


def test_patch_norm_hides_each_patchs_mean_and_can_be_left_out() -> None:
    torch.manual_seed(0)
    patches = noise(3, 2, 5, 4)
    with_norm = Tokenizer(ModelConfig(**SMALL))
    torch.testing.assert_close(with_norm(patches + 10), with_norm(patches), rtol=1e-4, atol=1e-4)
    without = Tokenizer(ModelConfig(**SMALL, patch_norm=False))
    assert not torch.allclose(without(patches + 10), without(patches), atol=1e-2)
    assert not [name for name, _ in without.named_parameters() if name.startswith("patch_norm")]


def test_channels_share_the_tokenizer() -> None:
    network = make_network(depth=1, mixer_depth=0)
    samples = noise(2, 2, 36)
    swapped = network(samples.flip(1))
    torch.testing.assert_close(swapped, network(samples).flip(1))


def test_trimmed_windows_are_the_shorter_windows() -> None:
    network, samples = make_network(), noise(3, 2, 39)
    assert torch.equal(network(samples), network(samples[..., :36]))
    cut = network.cut(samples, torch.tensor([0, 1]))
    assert torch.equal(cut.samples, samples[..., :36])
    # Statistics too are of what is used.
    changed = samples.clone()
    changed[..., 36:] = 1e6
    assert torch.equal(network(changed), network(samples))


def test_padded_windows_are_zero_after_the_normalisation() -> None:
    network = make_network(tail="pad")
    with torch.no_grad():
        network.revin.bias.fill_(0.7)
    samples = noise(3, 2, 38) + 500  # far from the zeros that fill
    cut = network.cut(samples, torch.tensor([0, 1]))
    assert cut.patches.shape == (3, 2, 10, 4)
    assert (cut.patches[:, :, -1, 2:] == 0).all()
    real = cut.patches.flatten(2)[..., :38] - 0.7
    torch.testing.assert_close(real.mean(-1), torch.zeros(3, 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(real.var(-1, correction=0), torch.ones(3, 2), rtol=1e-3, atol=0)


def test_padded_windows_samples_go_on_with_their_mean() -> None:
    samples = noise(3, 2, 38) + 500
    cut = make_network(tail="pad").cut(samples, torch.tensor([0, 1]))
    assert torch.equal(cut.samples[..., :38], samples)
    expected = samples.mean(-1, keepdim=True).expand(-1, -1, 2)
    torch.testing.assert_close(cut.samples[..., 38:], expected)
    plain = make_network(tail="pad", revin=False).cut(samples, torch.tensor([0, 1]))
    assert plain.statistics is None
    assert torch.equal(plain.patches, patchify(samples, 4, tail="pad"))
    assert torch.equal(plain.samples, plain.patches.flatten(2))
