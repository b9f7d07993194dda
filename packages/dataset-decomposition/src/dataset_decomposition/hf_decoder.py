"""The decoder of dataset decomposition (arXiv 2405.13226) for transformers, in one file.

Pre-norm blocks, LayerNorm with gain and no bias, queries and keys normalised over the whole width
before the heads are split, rotate-half RoPE, SwiGLU with fused gate and up projections, untied
head. An exported model carries a copy of this file, which therefore imports only torch and
transformers. Nothing is cached: `generate` computes the whole sequence for each new token.
Shapes: B rows, L positions, D width, H heads, K = D / H, F inner width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class DecompositionConfig(PretrainedConfig):
    """Shape of the decoder, under transformers' usual names.

    Args:
        vocab_size: Rows of the embedding and of the head.
        hidden_size: Width of the residual stream.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Attention heads.
        intermediate_size: Inner width of SwiGLU.
        rope_theta: Base of the rotary embedding.
        qk_norm: Normalise queries and keys over the whole width before the heads are split.
        layer_norm_eps: Epsilon of every LayerNorm.
        max_position_embeddings: Longest length that was trained; longer inputs are computed all
            the same. None where it is not known.
        **kwargs: What every transformers config takes.
    """

    model_type = "dataset_decomposition"

    def __init__(
        self,
        vocab_size: int = 50432,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 2048,
        rope_theta: float = 10_000.0,
        qk_norm: bool = True,
        layer_norm_eps: float = 1e-5,
        max_position_embeddings: int | None = None,
        **kwargs,
    ) -> None:
        kwargs = {"use_cache": False, "tie_word_embeddings": False, **kwargs}
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.rope_theta = rope_theta
        self.qk_norm = qk_norm
        self.layer_norm_eps = layer_norm_eps
        self.max_position_embeddings = max_position_embeddings


class DecompositionForCausalLM(PreTrainedModel, GenerationMixin):
    """Next-token logits from token ids."""

    config_class = DecompositionConfig
    base_model_prefix = ""
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: DecompositionConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple[Tensor, ...]:
        """Return logits `[B, L, V]`, and the mean loss when there are labels.

        Args:
            input_ids: Integers `[B, L]`.
            attention_mask: `[B, L]`, 0 for padding on either side. Positions are counted from a
                row's first real token.
            labels: `[B, L]`, the ids themselves; position l is scored on label l + 1, and -100 is
                not scored.
            use_cache: Accepted for `generate`; there is no cache.
            return_dict: False returns a tuple.
        """
        mask_B1LL = None if attention_mask is None else _causal_mask(attention_mask)
        positions_BL = _positions(input_ids, attention_mask)
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        rotation = rotary_table(positions_BL, head_dim, self.config.rope_theta)
        x_BLD = self.embedding(input_ids)
        for block in self.blocks:
            x_BLD = block(x_BLD, rotation, mask_B1LL)
        logits_BLV = self.head(self.norm(x_BLD))
        loss = None if labels is None else _shifted_loss(logits_BLV, labels)
        output = CausalLMOutput(loss=loss, logits=logits_BLV)
        return output.to_tuple() if return_dict is False else output

    # The base method's other arguments differ by release of transformers.
    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs
    ) -> dict[str, Tensor | None]:
        """Return the whole sequence so far, whatever `generate` would cache."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding."""
        self.embedding = value

    def get_output_embeddings(self) -> nn.Linear:
        """Return the head."""
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head."""
        self.head = new_embeddings


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream and added to it."""

    def __init__(self, config: DecompositionConfig) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x_BLD: Tensor, rotation: tuple[Tensor, Tensor], mask_B1LL: Tensor | None
    ) -> Tensor:
        """Return the stream `[B, L, D]` after this block."""
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), rotation, mask_B1LL)
        return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD))


class Attention(nn.Module):
    """Causal self-attention whose queries and keys are normalised before the heads are split."""

    def __init__(self, config: DecompositionConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        norm = LayerNorm if config.qk_norm else nn.Identity
        self.q_norm = norm(dim, config.layer_norm_eps)
        self.k_norm = norm(dim, config.layer_norm_eps)

    def forward(
        self, x_BLD: Tensor, rotation: tuple[Tensor, Tensor], mask_B1LL: Tensor | None
    ) -> Tensor:
        """Return `[B, L, D]`."""
        q_BLD, k_BLD, v_BLD = self.qkv(x_BLD).chunk(3, dim=-1)
        q_BHLK = rotate(self._split(self.q_norm(q_BLD)), rotation)
        k_BHLK = rotate(self._split(self.k_norm(k_BLD)), rotation)
        mixed_BHLK = F.scaled_dot_product_attention(
            q_BHLK, k_BHLK, self._split(v_BLD), attn_mask=mask_B1LL, is_causal=mask_B1LL is None
        )
        return self.out(mixed_BHLK.transpose(1, 2).flatten(2))

    def _split(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecompositionConfig) -> None:
        super().__init__()
        self.gate_and_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return `[B, L, D]`."""
        gate_BLF, up_BLF = self.gate_and_up(x_BLD).chunk(2, dim=-1)
        return self.down(F.silu(gate_BLF) * up_BLF)


class LayerNorm(nn.Module):
    """LayerNorm with a gain and no bias that stays in the input's precision, as in training."""

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


def rotary_table(positions_BL: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `[B, 1, L, K]` in fp32; made anew, so no length is too long."""
    steps = torch.arange(0, head_dim, 2, device=positions_BL.device, dtype=torch.float32)
    angles_BLK = positions_BL[..., None].float() * theta ** -(steps / head_dim)
    angles_B1LK = angles_BLK.repeat(1, 1, 2)[:, None]
    return angles_B1LK.cos(), angles_B1LK.sin()


def rotate(x_BHLK: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (k, k + K/2) of `[B, H, L, K]` by its position's angle (rotate-half form)."""
    cosine_B1LK, sine_B1LK = (table.to(x_BHLK.dtype) for table in rotation)
    first, second = x_BHLK.chunk(2, dim=-1)
    return x_BHLK * cosine_B1LK + torch.cat((-second, first), dim=-1) * sine_B1LK


def _positions(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return positions, `[B, L]` with a mask and `[1, L]` without."""
    if attention_mask is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def _causal_mask(attention_mask: Tensor) -> Tensor:
    """Return whether query l sees key m, bool `[B, 1, L, L]`."""
    length = attention_mask.shape[1]
    seen_LL = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
    # Padding sees itself: a query that sees nothing would be NaN.
    itself_LL = torch.eye(length, dtype=torch.bool, device=attention_mask.device)
    return ((seen_LL & attention_mask.bool()[:, None]) | itself_LL)[:, None]


def _shifted_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    logits = logits_BLV[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(logits, labels_BL[:, 1:].flatten())


# So that `save_pretrained` ships this file and names it in `auto_map`.
DecompositionConfig.register_for_auto_class()
DecompositionForCausalLM.register_for_auto_class("AutoModelForCausalLM")
