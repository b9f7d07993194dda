"""The frequency-aware encoder, one channel at a time (paper §3.2; spec 2.2).

Shapes: B windows, C channels, N tokens, D width.
"""

from torch import Tensor, nn

from biofame.config import ModelConfig
from biofame.filters import FilterLayer
from biofame.positions import TimeTable
from biofame.transformer import FeedForward, TransformerLayer


class FilterBlock(nn.Module):
    """`x + Filter(LN(x))`, then `x + FF(LN(x))`; with `post_norm` `LN(f(x)) + x`.

    Args:
        config: The model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.post_norm = config.post_norm
        self.filter_norm = nn.LayerNorm(config.dim)
        self.filter = FilterLayer(config)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.mlp, config.dropout)

    def forward(self, tokens_BND: Tensor, *, rate: float) -> Tensor:
        """Return tokens, mixed over time."""
        x = tokens_BND
        if self.post_norm:
            x = x + self.filter_norm(self.filter(x, rate=rate))
            return x + self.feed_forward_norm(self.feed_forward(x))
        x = x + self.filter(self.filter_norm(x), rate=rate)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Encoder(nn.Module):
    """Blocks that mix the tokens of a channel, the same for all channels.

    Args:
        config: The model's; `mixing` decides whether blocks filter or attend.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = TimeTable(config) if config.encoder_positional else None
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))

    def forward(self, tokens_BCND: Tensor, *, rate: float) -> Tensor:
        """Return latents, shaped as the tokens.

        Args:
            tokens_BCND: Tokens of each channel.
            rate: Samples per second of the recording.
        """
        if self.positions is not None:
            tokens_BCND = tokens_BCND + self.positions(tokens_BCND.shape[2], rate=rate)
        windows, channels = tokens_BCND.shape[:2]
        x = tokens_BCND.flatten(0, 1)
        for block in self.blocks:
            x = block(x, rate=rate) if isinstance(block, FilterBlock) else block(x)
        return x.unflatten(0, (windows, channels))


def _block(config: ModelConfig) -> nn.Module:
    if config.mixing == "filter":
        return FilterBlock(config)
    return TransformerLayer(
        config.dim, config.mixer_heads, config.mlp, config.dropout, post_norm=config.post_norm
    )
