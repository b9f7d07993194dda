"""Decoders side by side against a loop over separate layers with the same weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biofame.config import DecoderConfig
from biofame.decoders import Decoders, GroupedLayer, GroupedLinear, GroupedNorm
from biofame.transformer import TransformerLayer

DIM, PATCH, WINDOWS, TOKENS = 8, 5, 3, 12


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_decoders(groups: int, depth: int) -> Decoders:
    torch.manual_seed(0)
    config = DecoderConfig(depth=depth, heads=2, mlp=6, dropout=0.3)
    decoders = Decoders(groups, DIM, PATCH, config).eval()
    with torch.no_grad():
        for parameter in decoders.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return decoders


def one_layer(weights: GroupedLayer, group: int) -> TransformerLayer:
    """Return an ordinary layer with one group's weights."""
    layer = TransformerLayer(DIM, 2, 6, 0.3).eval()
    qkv = torch.cat([weights.query.weight[group], weights.key_value.weight[group]], dim=1)
    state = {"attention.qkv.weight": qkv.T}
    for theirs, mine in (
        ("attention.out.0", weights.out),
        ("feed_forward.0", weights.up),
        ("feed_forward.3", weights.down),
    ):
        state[f"{theirs}.weight"] = mine.weight[group].T
        state[f"{theirs}.bias"] = mine.bias[group, 0, 0]
    for name in ("attention_norm", "feed_forward_norm"):
        state[f"{name}.weight"] = getattr(weights, name).weight[group, 0, 0]
        state[f"{name}.bias"] = getattr(weights, name).bias[group, 0, 0]
    layer.load_state_dict(state)
    return layer


def grouped_gradients(decoders: Decoders, layers: list[list[TransformerLayer]]) -> None:
    """Compare the gradients of the separate layers with those of the groups."""
    for group, own in enumerate(layers):
        for weights, layer in zip(decoders.layers, own, strict=True):
            query_key_value = torch.cat(
                [weights.query.weight.grad[group], weights.key_value.weight.grad[group]], dim=1
            )
            torch.testing.assert_close(query_key_value.T, layer.attention.qkv.weight.grad)
            for mine, theirs in (
                (weights.out, layer.attention.out[0]),
                (weights.up, layer.feed_forward[0]),
                (weights.down, layer.feed_forward[3]),
            ):
                torch.testing.assert_close(mine.weight.grad[group].T, theirs.weight.grad)
                torch.testing.assert_close(mine.bias.grad[group, 0, 0], theirs.bias.grad)
            for name in ("attention_norm", "feed_forward_norm"):
                mine, theirs = getattr(weights, name), getattr(layer, name)
                torch.testing.assert_close(mine.weight.grad[group, 0, 0], theirs.weight.grad)
                torch.testing.assert_close(mine.bias.grad[group, 0, 0], theirs.bias.grad)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 3])
def test_decoders_are_a_loop_over_layers(groups: int, depth: int, *, keyed: bool) -> None:
    decoders = make_decoders(groups, depth)
    tokens = noise(WINDOWS, TOKENS, DIM).requires_grad_()
    copy = tokens.detach().clone().requires_grad_()
    wanted = torch.rand(groups, WINDOWS, TOKENS, generator=torch.Generator().manual_seed(2))
    wanted = wanted.argsort(dim=-1)[..., :4]
    keys = torch.ones(WINDOWS, TOKENS, dtype=torch.bool) if keyed else None
    if keys is not None:
        keys[1, 8:], keys[2, :3] = False, False

    predicted = decoders(tokens, wanted, keys)
    assert predicted.shape == (groups, WINDOWS, 4, PATCH)

    layers = [[one_layer(layer, group) for layer in decoders.layers] for group in range(groups)]
    rows = []
    for group, own in enumerate(layers):
        x = copy
        for layer in own:
            x = layer(x, keys)
        x = torch.stack([x[b, wanted[group, b]] for b in range(WINDOWS)])
        weight, bias = decoders.reconstruction.weight[group], decoders.reconstruction.bias[group]
        rows.append(x @ weight.detach() + bias.detach())
    torch.testing.assert_close(predicted, torch.stack(rows))

    predicted.sin().sum().backward()
    torch.stack(rows).sin().sum().backward()
    torch.testing.assert_close(tokens.grad, copy.grad, rtol=1e-4, atol=1e-5)
    grouped_gradients(decoders, layers)


def test_decoders_do_not_share_weights() -> None:
    decoders, tokens = make_decoders(3, 2), noise(WINDOWS, TOKENS, DIM)
    wanted = torch.arange(TOKENS).expand(3, WINDOWS, -1)
    before = decoders(tokens, wanted)
    with torch.no_grad():
        for parameter in decoders.parameters():
            parameter[1] += 0.5
    changed = (decoders(tokens, wanted) != before).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False]


def test_order_of_tokens_does_not_matter() -> None:
    decoders, tokens = make_decoders(2, 2), noise(WINDOWS, TOKENS, DIM)
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3))
    wanted = torch.arange(TOKENS).expand(2, WINDOWS, -1)
    permuted = decoders(tokens[:, order], order.argsort().expand(2, WINDOWS, -1))
    torch.testing.assert_close(permuted, decoders(tokens, wanted))


def test_grouped_linear_is_a_loop_and_starts_as_torchs() -> None:
    torch.manual_seed(0)
    layer = GroupedLinear(3, 64, 48)
    tokens = noise(3, 2, 7, 64)
    for group in range(3):
        expected = F.linear(tokens[group], layer.weight[group].T, layer.bias[group, 0, 0])
        torch.testing.assert_close(layer(tokens)[group], expected)
    torch.testing.assert_close(layer(tokens[:1]), layer(tokens[:1].expand(3, -1, -1, -1)))
    torchs = nn.Linear(64, 48)
    for mine, theirs in ((layer.weight, torchs.weight), (layer.bias, torchs.bias)):
        bound = 1 / math.sqrt(64)
        assert 0.9 * bound < mine.abs().max() <= bound
        assert mine.std().item() == pytest.approx(theirs.std().item(), rel=0.2)


def test_grouped_norm_is_a_loop() -> None:
    norm, tokens = GroupedNorm(3, DIM), noise(3, 2, 7, DIM)
    with torch.no_grad():
        norm.weight.copy_(noise(3, 1, 1, DIM, seed=2))
        norm.bias.copy_(noise(3, 1, 1, DIM, seed=3))
    for group in range(3):
        weight, bias = norm.weight[group, 0, 0], norm.bias[group, 0, 0]
        expected = F.layer_norm(tokens[group], (DIM,), weight, bias)
        torch.testing.assert_close(norm(tokens)[group], expected)


def test_dropout_acts_in_training_only() -> None:
    decoders, tokens = make_decoders(2, 1), noise(WINDOWS, TOKENS, DIM)
    wanted = torch.arange(4).expand(2, WINDOWS, -1)
    assert torch.equal(decoders(tokens, wanted), decoders(tokens, wanted))
    decoders.train()
    assert not torch.equal(decoders(tokens, wanted), decoders(tokens, wanted))


def test_autocast_gives_nearly_the_same() -> None:
    decoders, tokens = make_decoders(2, 2), noise(WINDOWS, TOKENS, DIM)
    wanted = torch.arange(4).expand(2, WINDOWS, -1)
    with torch.autocast("cpu", torch.bfloat16):
        half = decoders(tokens, wanted)
    torch.testing.assert_close(half.float(), decoders(tokens, wanted), rtol=0.05, atol=0.1)
