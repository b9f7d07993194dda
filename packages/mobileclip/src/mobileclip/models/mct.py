"""MCt, the text encoder of MobileCLIP-S0 (paper section 4.2, table 5b; spec 2.3).

RepMixer blocks round a few transformer layers, without causal mask. Parameters are named as in
open_clip's text transformer.

Shapes: B batch, L tokens, C channels, D embedding.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from open_clip.transformer import LayerNorm, ResidualAttentionBlock
from torch import Tensor, nn

from mobileclip.models.checkpointing import CheckpointedSequential
from mobileclip.models.text_repmixer import TextRepMixerBlock

Block = Literal["repmixer", "attention"]
PUBLISHED_BLOCKS: tuple[Block, ...] = (
    "repmixer",
    "attention",
    "attention",
    "attention",
    "attention",
    "repmixer",
)
VOCABULARY = 49408


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Shape of a MCt text encoder; the defaults are the published one.

    Args:
        blocks: Kinds of the blocks in order: `repmixer` or `attention`.
        width: C, channels of a token.
        heads: Attention heads.
        kernel_size: Tokens that a RepMixer's convolutions see, odd.
        context_length: L, tokens of a text.
        embed_dim: D, numbers of an embedding.
    """

    blocks: tuple[Block, ...] = PUBLISHED_BLOCKS
    width: int = 512
    heads: int = 8
    kernel_size: int = 11
    context_length: int = 77
    embed_dim: int = 512

    def __post_init__(self) -> None:
        unknown = set(self.blocks) - set(get_args(Block))
        if unknown or not self.blocks:
            raise ValueError(f"blocks must be repmixer or attention, got {self.blocks}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads {self.heads}, got {self.width}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")


class TextBlocks(nn.Module):
    """The blocks, under the name that open_clip gives them.

    Args:
        config: Their kinds and sizes.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.resblocks = CheckpointedSequential(*(_block(kind, config) for kind in config.blocks))

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Apply the blocks in order."""
        return self.resblocks(x_BLC)


class MCt(nn.Module):
    """Text encoder of RepMixer blocks and transformer layers.

    Args:
        config: Its shape.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(VOCABULARY, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.transformer = TextBlocks(config)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self._init_weights()

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Encode texts; the feature is read where the token id is largest, the end of the text.

        Args:
            tokens_BL: int64, padded with zeros.

        Returns:
            `[B, D]`, not normalised.
        """
        x_BLC = self.token_embedding(tokens_BL) + self.positional_embedding
        x_BLC = self.transformer(x_BLC)
        rows_B = torch.arange(tokens_BL.shape[0], device=tokens_BL.device)
        end_BC = x_BLC[rows_B, tokens_BL.argmax(dim=-1)]
        return self.ln_final(end_BC) @ self.text_projection

    def _init_weights(self) -> None:
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.trunc_normal_(self.positional_embedding, std=self.config.width**-0.5)
        nn.init.normal_(self.text_projection, std=self.config.width**-0.5)
        for block in self.transformer.resblocks:
            if isinstance(block, ResidualAttentionBlock):
                _init_attention(block, depth=len(self.config.blocks))


def _block(kind: Block, config: TextConfig) -> nn.Module:
    if kind == "repmixer":
        return TextRepMixerBlock(config.width, kernel_size=config.kernel_size)
    return ResidualAttentionBlock(config.width, config.heads)


def _init_attention(block: ResidualAttentionBlock, *, depth: int) -> None:
    """Scale the weights as open_clip's text transformer does."""
    width = block.attn.embed_dim
    out_std = width**-0.5 * (2 * depth) ** -0.5
    nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
    nn.init.normal_(block.attn.out_proj.weight, std=out_std)
    nn.init.normal_(block.mlp.get_parameter("c_fc.weight"), std=(2 * width) ** -0.5)
    nn.init.normal_(block.mlp.get_parameter("c_proj.weight"), std=out_std)
