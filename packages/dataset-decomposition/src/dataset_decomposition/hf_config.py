"""The configuration by which transformers builds a trained body anew.

The paper's decoder has no twin in transformers (its norm of queries and keys spans all heads), so
its folder carries the modelling file `hf_decoder.py`. A Llama needs nothing.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.llama import LlamaDecoder
from dataset_decomposition.model import Decoder
from dataset_decomposition.model_card import DataFacts

ARCHITECTURE = "DecompositionForCausalLM"
AUTO_CLASS = "AutoModelForCausalLM"


def write_config(
    decoder: Decoder | LlamaDecoder, facts: DataFacts, folder: Path
) -> dict[str, Tensor]:
    """Write configuration and code into `folder`; return the weights by their names there."""
    from transformers import GenerationConfig

    eos: dict[str, Any] = {"eos_token_id": facts.eot_id}
    if isinstance(decoder, LlamaDecoder):
        config: Any = type(decoder.llama.config).from_dict(
            {**llama_shape(decoder, facts), **eos, "dtype": "float32"}
        )
        weights = decoder.llama.state_dict()
    else:
        from dataset_decomposition.hf_decoder import DecompositionConfig

        config = DecompositionConfig(
            **hf_shape(decoder.config),
            **eos,
            max_position_embeddings=facts.max_length,
            architectures=[ARCHITECTURE],
            auto_map={AUTO_CLASS: f"hf_decoder.{ARCHITECTURE}"},
            dtype="float32",
        )
        weights = decoder.state_dict()
    config.save_pretrained(folder)
    GenerationConfig(**eos, pad_token_id=facts.eot_id).save_pretrained(folder)
    return weights


def hf_shape(config: ModelConfig) -> dict[str, Any]:
    """Translate a model's shape into the names that transformers uses."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden_dim,
        "rope_theta": config.rope_theta,
        "qk_norm": config.qk_norm,
        "layer_norm_eps": config.norm_eps,
    }


def llama_shape(decoder: LlamaDecoder, facts: DataFacts) -> dict[str, Any]:
    """Return the configuration of a Llama as it was trained, its longest length where known."""
    shape = decoder.llama.config.to_dict()
    known = {} if facts.max_length is None else {"max_position_embeddings": facts.max_length}
    return {**shape, **known, "architectures": [type(decoder.llama).__name__]}
