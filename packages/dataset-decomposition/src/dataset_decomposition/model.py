"""The paper's decoder: pre-norm, QK-norm over the full width, RoPE, SwiGLU, untied head.

Spec section 2.7 (paper Tables 7-11 and OpenLM's model). Shapes: B rows, L positions, D width,
H heads, K = D / H, F inner width, V vocabulary.
"""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset_decomposition.config import ModelConfig
from tenfold.attention import DocumentMask, attention, document_mask


class Decoder(nn.Module):
    """Next-token logits from token ids.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.layers))
        self.norm = LayerNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        truncated_normal_(self.embedding.weight, 1 / sqrt(config.dim))
        truncated_normal_(self.head.weight, 1 / sqrt(config.dim))

    def forward(
        self,
        tokens_BL: Tensor,
        documents_BL: Tensor | DocumentMask | None = None,
        *,
        project: bool = True,
    ) -> Tensor:
        """Return logits `[B, L, V]` for integer tokens `[B, L]`; position l sees 0..l.

        Args:
            tokens_BL: Token ids.
            documents_BL: Document numbers `[B, L]`, negative for padding, or what
                `tenfold.attention.document_mask` made of them: position l then sees only what
                belongs to its document. Compiled models want the mask.
            project: Whether to go on to the logits; otherwise the normalised states `[B, L, D]`
                are returned, of which `head` makes logits.
        """
        if isinstance(documents_BL, Tensor):
            documents_BL = document_mask(documents_BL)
        x_BLD = self.embedding(tokens_BL)
        rotation = rotary_table(
            tokens_BL.shape[1],
            self.config.dim // self.config.heads,
            self.config.rope_theta,
            device=tokens_BL.device,
        )
        for block in self.blocks:
            x_BLD = block(x_BLD, rotation, documents_BL)
        x_BLD = self.norm(x_BLD)
        return self.head(x_BLD) if project else x_BLD


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream and added to it."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, index)
        self.feed_forward_norm = LayerNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config, index)

    def forward(
        self, x_BLD: Tensor, rotation: tuple[Tensor, Tensor], mask: DocumentMask | None = None
    ) -> Tensor:
        """Return the stream `[B, L, D]` after this block."""
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), rotation, mask)
        return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD))


class Attention(nn.Module):
    """Causal self-attention whose queries and keys are normalised before the heads are split."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        norm = LayerNorm if config.qk_norm else nn.Identity
        self.q_norm = norm(config.dim, config.norm_eps)
        self.k_norm = norm(config.dim, config.norm_eps)
        truncated_normal_(self.qkv.weight, 1 / sqrt(config.dim))
        truncated_normal_(self.out.weight, 1 / sqrt(config.dim) / sqrt(2 * (index + 1)))

    def forward(
        self, x_BLD: Tensor, rotation: tuple[Tensor, Tensor], mask: DocumentMask | None = None
    ) -> Tensor:
        """Return `[B, L, D]`."""
        q_BLD, k_BLD, v_BLD = self.qkv(x_BLD).chunk(3, dim=-1)
        q_BHLK = rotate(self._split(self.q_norm(q_BLD)), rotation)
        k_BHLK = rotate(self._split(self.k_norm(k_BLD)), rotation)
        v_BHLK = self._split(v_BLD)
        mixed_BHLK = attention(q_BHLK, k_BHLK, v_BHLK, causal=True, documents_BL=mask)
        return self.out(mixed_BHLK.transpose(1, 2).flatten(2))

    def _split(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.gate_and_up = nn.Linear(config.dim, 2 * config.hidden_dim, bias=False)
        self.down = nn.Linear(config.hidden_dim, config.dim, bias=False)
        truncated_normal_(self.gate_and_up.weight, 1 / sqrt(config.dim))
        truncated_normal_(self.down.weight, 1 / sqrt(config.hidden_dim) / sqrt(2 * (index + 1)))

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return `[B, L, D]`."""
        gate_BLF, up_BLF = self.gate_and_up(x_BLD).chunk(2, dim=-1)
        return self.down(F.silu(gate_BLF) * up_BLF)


class LayerNorm(nn.Module):
    """LayerNorm with a gain and no bias that stays in the input's precision.

    Autocast would run it in fp32; OpenLM's models are trained with the low-precision form.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return the normalised `[B, L, D]`, dtype of the input or of autocast."""
        device = x_BLD.device.type
        if torch.is_autocast_enabled(device):
            x_BLD = x_BLD.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            weight = self.weight.to(x_BLD.dtype)
            return F.layer_norm(x_BLD, weight.shape, weight, None, self.eps)


def rotary_table(
    length: int, head_dim: int, theta: float, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `[L, K]` in fp32; made anew for each length, so none is too long."""
    exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles_LK = torch.outer(positions, theta**-exponents).repeat(1, 2)
    return angles_LK.cos(), angles_LK.sin()


def rotate(x_BHLK: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (k, k + K/2) of `[B, H, L, K]` by its position's angle (rotate-half form)."""
    cosine_LK, sine_LK = (table.to(x_BHLK.dtype) for table in rotation)
    first, second = x_BHLK.chunk(2, dim=-1)
    return x_BHLK * cosine_LK + torch.cat((-second, first), dim=-1) * sine_LK


def truncated_normal_(weight: Tensor, std: float) -> None:
    """Fill `weight` from a normal distribution cut at three standard deviations."""
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)
