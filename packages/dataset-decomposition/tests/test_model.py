"""The decoder: published sizes, causality, positions, and a plain re-computation."""

import math

import pytest
import torch
from torch import Tensor

from dataset_decomposition.config import MODEL_SIZES, LossConfig, ModelConfig
from dataset_decomposition.losses import document_nll, token_loss
from dataset_decomposition.model import Decoder, LayerNorm, rotary_table, rotate, truncated_normal_

TINY = ModelConfig(vocab_size=19, dim=12, layers=2, heads=3, ffn_dim=20)


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(TINY).double()


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(19, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("160m", 162_435_840),
        ("410m", 411_665_408),
        ("1b", 1_439_893_504),
        ("3b", 2_796_096_000),
        ("7b", 6_889_672_704),
    ],
)
def test_published_parameter_counts(size: str, parameters: int) -> None:
    config = MODEL_SIZES[size]
    assert config.num_parameters == parameters
    with torch.device("meta"):
        assert sum(p.numel() for p in Decoder(config).parameters()) == parameters


def test_feed_forward_widths_of_the_paper() -> None:
    widths = [MODEL_SIZES[size].hidden_dim for size in ("160m", "410m", "1b", "3b", "7b")]
    assert widths == [2048, 2816, 5632, 6912, 11008]


def naive_logits(decoder: Decoder, row_L: Tensor) -> Tensor:
    """Compute the logits of one row with loops over positions and heads."""
    state, config = decoder.state_dict(), decoder.config
    width = config.dim // config.heads

    def norm(x_D: Tensor, name: str) -> Tensor:
        centred = x_D - x_D.mean()
        return centred / (centred.square().mean() + config.norm_eps).sqrt() * state[name]

    def turned(x_K: Tensor, position: int) -> Tensor:
        out = torch.empty_like(x_K)
        for k in range(width // 2):
            # The module makes its table in fp32; the oracle must stand on the same angles.
            angle = torch.tensor(position, dtype=torch.float32)
            angle = angle * config.rope_theta ** -torch.tensor(2 * k / width, dtype=torch.float32)
            c, s = angle.cos().double(), angle.sin().double()
            out[k] = x_K[k] * c - x_K[k + width // 2] * s
            out[k + width // 2] = x_K[k + width // 2] * c + x_K[k] * s
        return out

    x = [state["embedding.weight"][token] for token in row_L.tolist()]
    for n in range(config.layers):
        p = f"blocks.{n}."
        qs, ks, vs = [], [], []
        for position, x_D in enumerate(x):
            q, k, v = (
                state[p + "attention.qkv.weight"] @ norm(x_D, p + "attention_norm.weight")
            ).chunk(3)
            q = norm(q, p + "attention.q_norm.weight").view(config.heads, width)
            k = norm(k, p + "attention.k_norm.weight").view(config.heads, width)
            qs.append([turned(head, position) for head in q])
            ks.append([turned(head, position) for head in k])
            vs.append(v.view(config.heads, width))
        for i in range(len(x)):
            heads = []
            for h in range(config.heads):
                scores = torch.stack([qs[i][h] @ ks[j][h] / math.sqrt(width) for j in range(i + 1)])
                weights = scores.softmax(dim=0)
                heads.append(sum(weights[j] * vs[j][h] for j in range(i + 1)))
            x[i] = x[i] + state[p + "attention.out.weight"] @ torch.cat(heads)
        for i, x_D in enumerate(x):
            inner = state[p + "feed_forward.gate_and_up.weight"] @ norm(
                x_D, p + "feed_forward_norm.weight"
            )
            gate, up = inner.chunk(2)
            x[i] = x_D + state[p + "feed_forward.down.weight"] @ (gate * gate.sigmoid() * up)
    return torch.stack([state["head.weight"] @ norm(x_D, "norm.weight") for x_D in x])


def test_the_decoder_equals_loops_over_positions_and_heads(decoder: Decoder) -> None:
    rows = tokens(2, 7)
    expected = torch.stack([naive_logits(decoder, row) for row in rows])
    torch.testing.assert_close(decoder(rows), expected, rtol=1e-6, atol=1e-8)


def test_later_tokens_change_nothing_before_them(decoder: Decoder) -> None:
    rows = tokens(2, 9)
    changed = rows.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 19
    torch.testing.assert_close(decoder(rows)[:, :5], decoder(changed)[:, :5], rtol=0, atol=1e-12)
    assert not torch.allclose(decoder(rows)[:, 5:], decoder(changed)[:, 5:])


def test_rotation_keeps_lengths_and_depends_on_distance_only() -> None:
    x, y = torch.randn(2, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    table = rotary_table(50, 8, 10_000.0, device=torch.device("cpu"))

    def at(vector: Tensor, position: int) -> Tensor:
        return rotate(vector.view(1, 1, 1, 8), tuple(t[position : position + 1] for t in table))[
            0, 0, 0
        ]

    torch.testing.assert_close(at(x, 31).norm(), x.norm(), rtol=1e-6, atol=0)
    torch.testing.assert_close(at(x, 7) @ at(y, 3), at(x, 40) @ at(y, 36), rtol=1e-5, atol=1e-6)


def test_initial_weights_follow_the_stated_spread() -> None:
    torch.manual_seed(0)
    decoder = Decoder(ModelConfig(vocab_size=512, dim=128, layers=3, heads=4))
    expected = {
        "embedding.weight": 128**-0.5,
        "head.weight": 128**-0.5,
        "blocks.2.attention.qkv.weight": 128**-0.5,
        "blocks.2.attention.out.weight": 128**-0.5 / math.sqrt(2 * 3),
        "blocks.1.feed_forward.gate_and_up.weight": 128**-0.5,
        "blocks.1.feed_forward.down.weight": 512**-0.5 / math.sqrt(2 * 2),
    }
    cut = 0.98658  # standard deviation of a unit normal cut at three
    for name, std in expected.items():
        weight = decoder.state_dict()[name]
        assert weight.std().item() == pytest.approx(cut * std, rel=0.03), name
        assert weight.abs().max().item() <= 3 * std
    weight = torch.empty(10_000)
    truncated_normal_(weight, 2.0)
    assert weight.abs().max().item() <= 6.0


def test_norm_stays_in_autocasts_precision() -> None:
    norm = LayerNorm(16, 1e-5)
    x = torch.randn(3, 16)
    torch.testing.assert_close(norm(x), torch.nn.functional.layer_norm(x, (16,)))
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16


def test_token_loss_equals_plain_sums() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    targets = torch.tensor([[0, 4, 2], [1, 1, 3]])
    nll, z = 0.0, 0.0
    for b in range(2):
        for position in range(3):
            scores = logits[b, position].tolist()
            log_partition = math.log(sum(math.exp(score) for score in scores))
            nll += log_partition - scores[targets[b, position]]
            z += log_partition**2
    loss = token_loss(logits, targets)
    assert loss.nll.item() == pytest.approx(nll / 6, rel=1e-6)
    assert loss.z.item() == pytest.approx(z / 6, rel=1e-6)


def test_padding_counts_for_nothing(decoder: Decoder) -> None:
    rows, lengths = tokens(3, 8), torch.tensor([7, 3, 1])
    padded = document_nll(decoder(rows[:, :-1]), rows[:, 1:], lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = rows[row : row + 1, : length + 1]
        logits = decoder(alone[:, :-1])
        nll = torch.nn.functional.cross_entropy(logits[0], alone[0, 1:], reduction="sum")
        assert padded[row].item() == pytest.approx(nll.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, r"model\.dim must be >= 1, got 0"),
        ({"dim": 100, "heads": 3}, r"model\.dim must be a multiple of 2 \* heads = 6, got 100"),
        ({"ffn_dim": -1}, r"model\.ffn_dim must be >= 0"),
        ({"rope_theta": 1.0}, r"model\.rope_theta must be > 1"),
    ],
)
def test_impossible_shapes_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)
    with pytest.raises(ValueError, match=r"loss\.z_loss must be >= 0"):
        LossConfig(z_loss=-1)
