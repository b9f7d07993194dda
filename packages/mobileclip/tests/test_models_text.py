"""The MCt text encoder against its equations, and the causal mask of the others."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.models.fold import randomise_
from mobileclip.models.mct import MCt, TextConfig
from mobileclip.models.text_repmixer import TextRepMixerBlock
from mobileclip.models.towers import VARIANTS

SMALL = TextConfig(
    blocks=("repmixer", "attention", "repmixer"),
    width=32,
    heads=4,
    kernel_size=5,
    context_length=9,
    embed_dim=24,
)


def normalised(x_BCL: Tensor, norm: nn.Module) -> Tensor:
    shaped = [t[:, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
    mean, variance, weight, bias = shaped
    return (x_BCL - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def depthwise(x_BCL: Tensor, weight_C11K: Tensor) -> Tensor:
    kernel = weight_C11K[:, 0, 0]
    half = kernel.shape[1] // 2
    padded = F.pad(x_BCL, (half, half))
    out = torch.zeros_like(x_BCL)
    for position in range(x_BCL.shape[2]):
        out[..., position] = (padded[..., position : position + 2 * half + 1] * kernel).sum(-1)
    return out


def test_repmixer_block_equals_its_equations():
    torch.manual_seed(0)
    block = TextRepMixerBlock(6, kernel_size=5)
    randomise_(block, torch.Generator().manual_seed(0))
    block.double().eval()
    x_BCL = torch.randn(2, 6, 9, dtype=torch.float64)

    mixer, mlp = block.token_mixer, block.mlp
    branch = mixer.mixer.conv_kxk[0]
    mixed = normalised(depthwise(x_BCL, branch.conv.weight), branch.bn)
    mixed = mixed + normalised(x_BCL, mixer.mixer.identity)
    gain = mixer.layer_scale.gamma[..., 0]
    expected = x_BCL + gain * (mixed - normalised(x_BCL, mixer.norm.identity))
    hidden = normalised(depthwise(expected, mlp.conv.conv.weight), mlp.conv.bn).transpose(1, 2)
    hidden = F.gelu(F.linear(hidden, mlp.fc1.weight[..., 0, 0], mlp.fc1.bias))
    hidden = F.linear(hidden, mlp.fc2.weight[..., 0, 0], mlp.fc2.bias)
    expected = expected.transpose(1, 2) + block.layer_scale.gamma.flatten() * hidden

    assert torch.allclose(block(x_BCL.transpose(1, 2)), expected, rtol=0, atol=1e-12)


def test_repmixer_block_starts_as_published():
    block = TextRepMixerBlock(64, kernel_size=11)
    for gamma in (block.token_mixer.layer_scale.gamma, block.layer_scale.gamma):
        assert torch.equal(gamma, torch.full((64, 1, 1), 1e-5))
    assert block.mlp.fc1.weight.shape == (256, 64, 1, 1)
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not block.mlp.fc1.bias.any()
    assert not block.mlp.fc2.bias.any()


def test_mct_reads_the_largest_token():
    torch.manual_seed(0)
    tower = MCt(SMALL).eval()
    tokens = torch.tensor([[7, 3, 99, 0, 0, 0, 0, 0, 0], [7, 99, 0, 0, 0, 0, 0, 0, 0]])
    hidden = tower.token_embedding(tokens) + tower.positional_embedding
    for block in tower.transformer.resblocks:
        hidden = block(hidden)
    hidden = tower.ln_final(hidden)
    expected = torch.stack([hidden[0, 2], hidden[1, 1]]) @ tower.text_projection
    assert torch.allclose(tower(tokens), expected, atol=1e-6)
    assert expected.shape == (2, 24)


def test_gradients_reach_every_branch_of_mct():
    torch.manual_seed(0)
    tower = MCt(SMALL)
    randomise_(tower, torch.Generator().manual_seed(0))
    tower.double()
    tower(torch.randint(1, 100, (4, 9))).square().sum().backward()
    idle = [n for n, p in tower.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize(
    ("attention", "millions"), [(6, 44.5), (4, 42.4), (2, 40.4), (1, 39.3), (0, 38.3)]
)
def test_parameters_of_the_ablation(attention, millions):
    """Paper table 5b: six blocks, the outer ones RepMixer."""
    outer = ["repmixer"] * (6 - attention)
    blocks = (*outer[: len(outer) // 2], *["attention"] * attention, *outer[len(outer) // 2 :])
    with torch.device("meta"):
        tower = MCt(TextConfig(blocks=blocks))
    parameters = sum(p.numel() for p in tower.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("name", ["s0", "s1", "s2", "b"])
def test_only_b_is_causal(name):
    """Words after the end of a text change its embedding, except where they cannot be seen."""
    torch.manual_seed(0)
    tower = VARIANTS[name].text().eval()
    randomise_(tower, torch.Generator().manual_seed(0))
    tokens = torch.zeros(2, 77, dtype=torch.int64)
    tokens[:, :3] = torch.tensor([49406, 320, 49407])
    tokens[1, 3] = 1000
    with torch.no_grad():
        first, second = tower(tokens)
    moved = (first - second).abs().max().item()
    assert moved < 1e-5 if name == "b" else moved > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": ("conv",)}, "blocks must be repmixer or attention"),
        ({"blocks": ()}, "blocks must be repmixer or attention"),
        ({"heads": 7}, "width must be a multiple of heads 7, got 512"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
    ],
)
def test_wrong_text_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TextConfig(**change)
