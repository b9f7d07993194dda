"""Layers of the mixer, of the decoders' kind and of the baseline's encoder (spec 2.3).

Shapes: B sequences, T tokens, D width, H heads, E = D / H.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Sequential):
    """Linear, GELU, dropout, Linear, dropout.

    Args:
        dim: Width of the tokens.
        hidden: Width between the two layers.
        dropout: Share of numbers set to 0.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )


class SelfAttention(nn.Module):
    """Attention of all tokens to all; the projection to queries, keys and values has no bias.

    Args:
        dim: Width of the tokens.
        heads: Number of heads.
        dropout: Of attention weights and output.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, tokens_BTD: Tensor, is_key_BT: Tensor | None = None) -> Tensor:
        """Return mixed tokens.

        Args:
            tokens_BTD: Tokens.
            is_key_BT: Which tokens may be attended to, all by default.
        """
        qkv = self.qkv(tokens_BTD).unflatten(-1, (3, self.heads, -1))
        q_BHTE, k_BHTE, v_BHTE = qkv.permute(2, 0, 3, 1, 4)
        mask = None if is_key_BT is None else is_key_BT[:, None, None]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            q_BHTE, k_BHTE, v_BHTE, attn_mask=mask, dropout_p=dropout
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """`x + Attention(LN(x))`, then `x + FF(LN(x))`; with `post_norm` `LN(f(x)) + x`.

    Args:
        dim: Width of the tokens.
        heads: Number of heads.
        hidden: Width of the feed-forward layer.
        dropout: Of attention and feed-forward layer.
        post_norm: Whether norms follow the layers.
    """

    def __init__(
        self, dim: int, heads: int, hidden: int, dropout: float, *, post_norm: bool = False
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden, dropout)

    def forward(self, tokens_BTD: Tensor, is_key_BT: Tensor | None = None) -> Tensor:
        """Return tokens; see `SelfAttention.forward`."""
        x = tokens_BTD
        if self.post_norm:
            x = x + self.attention_norm(self.attention(x, is_key_BT))
            return x + self.feed_forward_norm(self.feed_forward(x))
        x = x + self.attention(self.attention_norm(x), is_key_BT)
        return x + self.feed_forward(self.feed_forward_norm(x))
