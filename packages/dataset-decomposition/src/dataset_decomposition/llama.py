"""`transformers.LlamaForCausalLM` as the body, with the attention and the interface of `Decoder`.

RMSNorm in place of LayerNorm, no QK-norm, transformers' own initialisation; everything else has the
same shape, so that sizes and costs compare. Nothing is downloaded.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dataset_decomposition.config import ModelConfig
from tenfold.attention import DocumentMask, attention, document_mask

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_ATTENTION = "tenfold"
_LONGEST = 8192
"""Written into the configuration for other programs; rotary embeddings here have no end."""


class LlamaDecoder(nn.Module):
    """Next-token logits from token ids by a transformers Llama.

    Args:
        config: Shape of the model; `qk_norm` must be off.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.llama = _build(config)

    @property
    def head(self) -> nn.Linear:
        """The projection to the vocabulary."""
        return self.llama.lm_head

    def forward(
        self,
        tokens_BL: Tensor,
        documents_BL: Tensor | DocumentMask | None = None,
        *,
        project: bool = True,
    ) -> Tensor:
        """Do what `Decoder.forward` does."""
        if isinstance(documents_BL, Tensor):
            documents_BL = document_mask(documents_BL)
        states = self.llama.model(tokens_BL, use_cache=False, documents=documents_BL)
        return self.head(states.last_hidden_state) if project else states.last_hidden_state


def _build(config: ModelConfig) -> "LlamaForCausalLM":
    try:
        from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "model.body llama needs transformers; install dataset-decomposition[transformers]"
        ) from error
    AttentionInterface.register(_ATTENTION, _attend)
    # From a mapping: releases of transformers differ in which of these are named arguments.
    shape: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": _LONGEST,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": _ATTENTION,
    }
    return LlamaForCausalLM(LlamaConfig(**shape))


def _attend(
    module: nn.Module,
    q_BHLK: Tensor,
    k_BHLK: Tensor,
    v_BHLK: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    documents: DocumentMask | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as the interface of transformers wants it: output `[B, L, H, K]` and no weights."""
    assert attention_mask is None, "transformers makes no mask for an attention it does not know"
    mixed_BHLK = attention(
        q_BHLK, k_BHLK, v_BHLK, causal=True, documents_BL=documents, scale=scaling
    )
    return mixed_BHLK.transpose(1, 2), None
