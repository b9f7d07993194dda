"""The encoder's blocks, the mixer, and the network they make."""

import pytest
import torch
from torch import Tensor, nn

from biofame.config import ModelConfig
from biofame.encoder import Encoder, FilterBlock
from biofame.mixer import Mixer
from biofame.model import BioFame
from biofame.transformer import FeedForward, TransformerLayer

SMALL = {"tokens": 9, "patch": 4, "dim": 8, "depth": 2, "mlp": 12, "mixer_heads": 2, "mixer_mlp": 6}


def make_config(**options: object) -> ModelConfig:
    return ModelConfig(**(SMALL | {"channels": ("eeg", "eog")} | options))


def make(kind: type[nn.Module], **options: object) -> nn.Module:
    torch.manual_seed(0)
    return kind(make_config(filter_std=0.5, **options)).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_filter_block_is_a_residual_pair() -> None:
    block, x = make(FilterBlock), noise(3, 9, 8)
    middle = x + block.filter(block.filter_norm(x))
    expected = middle + block.feed_forward(block.feed_forward_norm(middle))
    torch.testing.assert_close(block(x, rate=100.0), expected)
    assert not torch.allclose(middle, x, atol=1e-2)


def test_filter_block_with_norms_behind() -> None:
    block, x = make(FilterBlock, post_norm=True), noise(3, 9, 8)
    middle = x + block.filter_norm(block.filter(x))
    expected = middle + block.feed_forward_norm(block.feed_forward(middle))
    torch.testing.assert_close(block(x, rate=100.0), expected)
    # A layer norm's output has the width as its square sum.
    torch.testing.assert_close(
        (middle - x).square().sum(-1), torch.full((3, 9), 8.0), rtol=1e-2, atol=0
    )


def torch_layer(layer: TransformerLayer, dim: int, heads: int) -> nn.TransformerEncoderLayer:
    """Return torch's own layer with the same weights."""
    hidden = layer.feed_forward[0].out_features
    theirs = nn.TransformerEncoderLayer(
        dim, heads, hidden, activation="gelu", batch_first=True, norm_first=True
    )
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": layer.attention.qkv.weight,
            "self_attn.in_proj_bias": torch.zeros(3 * dim),
            "self_attn.out_proj.weight": layer.attention.out[0].weight,
            "self_attn.out_proj.bias": layer.attention.out[0].bias,
            "linear1.weight": layer.feed_forward[0].weight,
            "linear1.bias": layer.feed_forward[0].bias,
            "linear2.weight": layer.feed_forward[3].weight,
            "linear2.bias": layer.feed_forward[3].bias,
            "norm1.weight": layer.attention_norm.weight,
            "norm1.bias": layer.attention_norm.bias,
            "norm2.weight": layer.feed_forward_norm.weight,
            "norm2.bias": layer.feed_forward_norm.bias,
        }
    )
    return theirs.eval()


def test_transformer_layer_is_torchs() -> None:
    torch.manual_seed(0)
    layer, x = TransformerLayer(8, 2, 12, 0.2).eval(), noise(3, 7, 8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs = torch_layer(layer, 8, 2)
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)
    is_key = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [False, True] * 3 + [False]])
    expected = theirs(x, src_key_padding_mask=~is_key)
    # Torch's fast path leaves out what is masked; only the keys' own outputs can be compared.
    got = layer(x, is_key)
    torch.testing.assert_close(got[is_key], expected[is_key], rtol=1e-4, atol=1e-5)


def test_transformer_layer_with_norms_behind() -> None:
    torch.manual_seed(0)
    layer, x = TransformerLayer(8, 2, 12, 0.0, post_norm=True).eval(), noise(3, 7, 8)
    middle = x + layer.attention_norm(layer.attention(x))
    expected = middle + layer.feed_forward_norm(layer.feed_forward(middle))
    torch.testing.assert_close(layer(x), expected)


def test_masked_keys_do_not_matter() -> None:
    layer, x = TransformerLayer(8, 2, 12, 0.0).eval(), noise(3, 7, 8)
    is_key = torch.arange(7) < 5
    other = torch.where(is_key[:, None], x, 100 * noise(3, 7, 8, seed=2))
    mask = is_key.expand(3, -1)
    torch.testing.assert_close(layer(x, mask)[:, :5], layer(other, mask)[:, :5])
    torch.testing.assert_close(layer(x, mask)[:, :5], layer(x[:, :5]))


def test_feed_forward_is_its_formula() -> None:
    layer, x = FeedForward(8, 12, 0.5).eval(), noise(3, 8)
    hidden = nn.functional.gelu(layer[0](x))
    torch.testing.assert_close(layer(x), layer[3](hidden))


@pytest.mark.parametrize("mixing", ["filter", "attention"])
def test_encoder_takes_channel_by_channel(mixing: str) -> None:
    encoder, tokens = make(Encoder, mixing=mixing), noise(3, 4, 9, 8)
    together = encoder(tokens, rate=100.0)
    for channel in range(4):
        alone = encoder(tokens[:, [channel]], rate=100.0)
        torch.testing.assert_close(together[:, [channel]], alone)


def test_encoder_hands_the_rate_to_its_filters() -> None:
    tokens = noise(2, 2, 9, 8)
    for operator, asks in (("bandfilter", True), ("query", False)):
        encoder = make(Encoder, operator=operator)
        same = torch.allclose(encoder(tokens, rate=100.0), encoder(tokens, rate=50.0), atol=1e-4)
        assert same is not asks


def test_filters_know_the_order_and_attention_only_with_a_table() -> None:
    order, tokens = torch.randperm(9, generator=torch.Generator().manual_seed(3)), noise(2, 1, 9, 8)

    def is_equivariant(**options: object) -> bool:
        encoder = make(Encoder, **options)
        permuted = encoder(tokens[:, :, order], rate=100.0)
        return torch.allclose(permuted, encoder(tokens, rate=100.0)[:, :, order], atol=1e-5)

    assert not is_equivariant()
    assert is_equivariant(mixing="attention")
    assert not is_equivariant(mixing="attention", encoder_positional=True)


def test_encoder_table_is_added_before_the_blocks() -> None:
    encoder, tokens = make(Encoder, encoder_positional=True), noise(2, 2, 7, 8)
    table = encoder.positions(7, rate=100.0)
    encoder.positions = None
    without = encoder(tokens + table, rate=100.0)
    again = make(Encoder, encoder_positional=True)
    torch.testing.assert_close(again(tokens, rate=100.0), without)


def test_mixer_knows_no_order() -> None:
    mixer, tokens = make(Mixer), noise(3, 18, 8)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(mixer(tokens[:, order]), mixer(tokens)[:, order])


def test_mixer_without_layers_passes_its_tokens_on() -> None:
    tokens = noise(3, 18, 8)
    assert torch.equal(make(Mixer, mixer_depth=0)(tokens), tokens)


def test_mixer_is_its_layers_one_after_the_other() -> None:
    mixer, tokens = make(Mixer, mixer_depth=2), noise(3, 18, 8)
    torch.testing.assert_close(mixer(tokens), mixer.layers[1](mixer.layers[0](tokens)))


@pytest.mark.parametrize("operator", ["pool", "query", "bandfilter"])
def test_one_state_runs_at_any_length(operator: str) -> None:
    short = make(BioFame, operator=operator, patch=20, tokens=10)
    long = make(BioFame, operator=operator, patch=20, tokens=1500)
    long.load_state_dict(short.state_dict())
    with torch.no_grad():
        for length in (200, 30_000):
            samples = noise(1, 2, length)
            mixed = short(samples)
            assert mixed.shape == (1, 2, length // 20, 8)
            assert mixed.isfinite().all()
            assert torch.equal(mixed, long(samples))


def test_network_is_its_parts() -> None:
    network, samples = make(BioFame), noise(3, 2, 36)
    normal = (samples - samples.mean(-1, keepdim=True)) / (
        samples.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    tokens = network.tokenizer(normal.unflatten(-1, (9, 4)))
    latent = network.encoder(tokens, rate=100.0)
    expected = network.mixer(latent.flatten(1, 2)).unflatten(1, (2, 9))
    torch.testing.assert_close(network(samples), expected)


def test_dropout_acts_in_training_only() -> None:
    network, samples = make(BioFame, dropout=0.5), noise(2, 2, 36)
    assert torch.equal(network(samples), network(samples))
    network.train()
    assert not torch.equal(network(samples), network(samples))


@pytest.mark.parametrize("length", [32, 36])
def test_windows_of_a_batch_do_not_meet(length: int) -> None:
    network, samples = make(BioFame), noise(3, 2, length)
    together = network(samples)
    for row in range(3):
        torch.testing.assert_close(together[[row]], network(samples[[row]]))


@pytest.mark.parametrize("operator", ["pool", "query", "query_complex", "softpool", "bandfilter"])
def test_autocast_gives_nearly_the_same(operator: str) -> None:
    network, samples = make(BioFame, operator=operator, filter_identity=True), noise(2, 2, 36)
    plain = network(samples)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(samples)
    torch.testing.assert_close(half.float(), plain, rtol=0.05, atol=0.1)
