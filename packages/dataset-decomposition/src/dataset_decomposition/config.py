"""Options of model and loss (paper App. A, Tables 7-11; official training script)."""

from dataclasses import dataclass
from math import floor
from typing import Literal, get_args

Body = Literal["decoder", "llama"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the decoder; the defaults are the 160M model.

    Args:
        vocab_size: Rows of the embedding and of the head; GPT-NeoX's tokenizer, padded.
        dim: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads; `dim / heads` must be even for the rotary embedding.
        ffn_dim: Inner width of SwiGLU; 0 means `256 * ceil(floor(8 * dim / 3) / 256)`.
        rope_theta: Base of the rotary embedding: 10,000 in Tables 1 and 4, 100,000 in 2 and 5.
        qk_norm: Normalise queries and keys over the whole width before the heads are split.
        norm_eps: Epsilon of every LayerNorm.
        compile: Run the decoder through `torch.compile`, one graph a bucket length.
        body: `decoder`, the paper's, or `llama`, `LlamaForCausalLM` of the extra `transformers`
            with the same shape, which has no QK-norm.
    """

    vocab_size: int = 50432
    dim: int = 768
    layers: int = 12
    heads: int = 12
    ffn_dim: int = 0
    rope_theta: float = 10_000.0
    qk_norm: bool = True
    norm_eps: float = 1e-5
    compile: bool = False
    body: Body = "decoder"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be >= 1, got {getattr(self, name)}")
        if self.ffn_dim < 0:
            raise ValueError(f"model.ffn_dim must be >= 0, got {self.ffn_dim}")
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"model.dim must be a multiple of 2 * heads = {2 * self.heads}, got {self.dim}"
            )
        if self.rope_theta <= 1:
            raise ValueError(f"model.rope_theta must be > 1, got {self.rope_theta}")
        if self.body not in get_args(Body):
            raise ValueError(f"model.body must be decoder or llama, got {self.body!r}")
        if self.body == "llama" and self.qk_norm:
            raise ValueError("model.body llama has no QK-norm; set model.qk_norm to false")

    @property
    def hidden_dim(self) -> int:
        """Inner width of the feed-forward block."""
        return self.ffn_dim or 256 * -(-floor(8 * self.dim / 3) // 256)

    @property
    def num_parameters(self) -> int:
        """Parameters of either untied body, `2Vd + n(4d^2 + 3dh + 4d) + d` with QK-norm."""
        norms = (4 if self.qk_norm else 2) * self.dim
        block = 4 * self.dim**2 + 3 * self.dim * self.hidden_dim + norms
        return 2 * self.vocab_size * self.dim + self.layers * block + self.dim


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training loss.

    Args:
        z_loss: Weight of the mean squared log-partition function (official script: 1e-4).
        chunk_tokens: Targets whose logits exist at a time; they are computed again in the backward
            pass, which costs the projection once more and saves its memory. 0 is all at once.
    """

    z_loss: float = 1e-4
    chunk_tokens: int = 0

    def __post_init__(self) -> None:
        if self.z_loss < 0:
            raise ValueError(f"loss.z_loss must be >= 0, got {self.z_loss}")
        if self.chunk_tokens < 0:
            raise ValueError(f"loss.chunk_tokens must be >= 0, got {self.chunk_tokens}; 0 is off")


# Paper Tables 7-11 by width, depth and heads.
MODEL_SIZES = {
    "160m": ModelConfig(),
    "410m": ModelConfig(dim=1024, layers=24, heads=16),
    "1b": ModelConfig(dim=2048, layers=24, heads=16),
    "3b": ModelConfig(dim=2560, layers=32, heads=32),
    "7b": ModelConfig(dim=4096, layers=32, heads=32),
}
