"""Decoders of all channels at once: one weight tensor with a leading axis of channels (spec 2.4).

Shapes: G decoders (one for each channel, or one for all), B windows, T tokens of all channels,
Q tokens whose output is wanted, D width, H heads, E = D / H.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biofame.config import DecoderConfig


class GroupedLinear(nn.Module):
    """G linear layers side by side, each started as `nn.Linear` is.

    Args:
        groups: G.
        inputs: Width of the input.
        outputs: Width of the output.
        bias: Whether they have one.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(groups, inputs, outputs).uniform_(-bound, bound))
        start = torch.empty(groups, 1, 1, outputs).uniform_(-bound, bound) if bias else None
        self.bias = None if start is None else nn.Parameter(start)

    def forward(self, tokens_GBTD: Tensor) -> Tensor:
        """Return `[G, B, T, outputs]`; an input with G = 1 goes to all layers."""
        groups = len(self.weight)
        rows = tokens_GBTD.flatten(1, 2).expand(groups, -1, -1)
        out = torch.bmm(rows, self.weight).unflatten(1, tokens_GBTD.shape[1:3])
        return out if self.bias is None else out + self.bias


class GroupedNorm(nn.Module):
    """G layer norms side by side.

    Args:
        groups: G.
        dim: Width.
    """

    def __init__(self, groups: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.ones(groups, 1, 1, dim))
        self.bias = nn.Parameter(torch.zeros(groups, 1, 1, dim))

    def forward(self, tokens_GBTD: Tensor) -> Tensor:
        """Return normalised tokens `[G, B, T, D]`."""
        return F.layer_norm(tokens_GBTD, (self.dim,)) * self.weight + self.bias


class GroupedLayer(nn.Module):
    """G pre-norm transformer layers side by side; `transformer.TransformerLayer` is one of them.

    Args:
        groups: G.
        dim: Width of the tokens.
        config: The decoders'.
    """

    def __init__(self, groups: int, dim: int, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = GroupedNorm(groups, dim)
        self.query = GroupedLinear(groups, dim, dim, bias=False)
        self.key_value = GroupedLinear(groups, dim, 2 * dim, bias=False)
        self.out = GroupedLinear(groups, dim, dim)
        self.feed_forward_norm = GroupedNorm(groups, dim)
        self.up = GroupedLinear(groups, dim, config.mlp)
        self.down = GroupedLinear(groups, config.mlp, dim)

    def forward(self, tokens_GBTD: Tensor, wanted_GBQD: Tensor, is_key_BT: Tensor | None) -> Tensor:
        """Return the layers' output at the wanted tokens, `[G, B, Q, D]`.

        Args:
            tokens_GBTD: What is attended to; G may be 1.
            wanted_GBQD: The tokens, some of the former, whose output is wanted.
            is_key_BT: Which tokens may be attended to, all by default.
        """
        attended = self._attend(tokens_GBTD, wanted_GBQD, is_key_BT)
        x = wanted_GBQD + self._drop(self.out(attended))
        hidden = self._drop(F.gelu(self.up(self.feed_forward_norm(x))))
        return x + self._drop(self.down(hidden))

    def _attend(self, tokens: Tensor, wanted: Tensor, is_key_BT: Tensor | None) -> Tensor:
        query = self._split(self.query(self.attention_norm(wanted)))
        key, value = map(self._split, self.key_value(self.attention_norm(tokens)).chunk(2, dim=-1))
        groups = len(query)
        mask = None if is_key_BT is None else is_key_BT.repeat(groups, 1)[:, None, None]
        dropout = self.dropout if self.training else 0.0
        # The fast kernels take four axes; five fall back to the whole table of scores.
        q_BHQE, k_BHTE, v_BHTE = (x.flatten(0, 1) for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(q_BHQE, k_BHTE, v_BHTE, mask, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(2).unflatten(0, (groups, -1))

    def _split(self, tokens_GBTD: Tensor) -> Tensor:
        return tokens_GBTD.unflatten(-1, (self.heads, -1)).transpose(2, 3)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Decoders(nn.Module):
    """G decoders and reconstruction layers.

    Args:
        groups: G.
        dim: Width of the tokens.
        patch: Samples of a patch.
        config: Depth and size.
    """

    def __init__(self, groups: int, dim: int, patch: int, config: DecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GroupedLayer(groups, dim, config) for _ in range(config.depth))
        self.reconstruction = GroupedLinear(groups, dim, patch)

    def forward(
        self, tokens_BTD: Tensor, wanted_GBQ: Tensor, is_key_BT: Tensor | None = None
    ) -> Tensor:
        """Return predicted patches `[G, B, Q, P]` of the wanted tokens.

        Args:
            tokens_BTD: Visible latents and mask tokens of all channels, with positions.
            wanted_GBQ: Numbers of the tokens that each decoder predicts.
            is_key_BT: Which tokens may be attended to, all by default.
        """
        x = tokens_BTD[None]
        *before, last = self.layers
        for layer in before:
            x = layer(x, x.expand(len(wanted_GBQ), -1, -1, -1), is_key_BT)
        index = wanted_GBQ[..., None].expand(-1, -1, -1, x.shape[-1])
        wanted = x.expand(len(wanted_GBQ), -1, -1, -1).gather(2, index)
        return self.reconstruction(last(x, wanted, is_key_BT))
