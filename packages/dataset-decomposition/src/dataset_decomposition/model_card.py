"""The README of an exported model; every figure in it comes from the checkpoint or its data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataset_decomposition.config import ModelConfig

_HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [dataset-decomposition]
---

# {name}

A decoder trained with `dataset-decomposition` ("Dataset Decomposition: Faster LLM Training with
Variable Sequence Length Curriculum", arXiv 2405.13226).

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{name}"{trust})
```
{code}
| | |
|---|---|
"""
_CODE = """
The architecture is in `hf_decoder.py`, which that call executes. `generate` keeps no cache: it
computes the whole sequence for each new token.
"""


@dataclass(frozen=True)
class DataFacts:
    """What a prepared data set adds to a checkpoint; None where no data set was named.

    Attributes:
        eot_id: Id of the end-of-text token.
        max_length: Longest trained length.
        knows_tokenizer: Whether the data set was made by a tokenizer that it names.
    """

    eot_id: int | None = None
    max_length: int | None = None
    knows_tokenizer: bool = False


def model_card(
    checkpoint: Mapping[str, Any],
    config: ModelConfig,
    facts: DataFacts,
    *,
    source: str,
    name: str,
) -> str:
    """Return the model card as Markdown.

    Args:
        checkpoint: What `tenfold.checkpoints.load` returned.
        config: Shape of the model.
        facts: What is known of its data.
        source: File name of the checkpoint.
        name: Name of the exported folder.
    """
    rows = {
        "body": "the paper's decoder" if config.body == "decoder" else "Llama",
        "checkpoint": f"`{source}`, step {checkpoint.get('global_step', 0):,}",
        "parameters": f"{config.num_parameters:,}",
        "vocabulary": f"{config.vocab_size:,}",
        "width, layers, heads": f"{config.dim:,}, {config.layers}, {config.heads}",
        "feed-forward width": f"{config.hidden_dim:,}",
        "RoPE base": f"{config.rope_theta:,g}",
        "QK-norm": "over the whole width" if config.qk_norm else "none",
        "epsilon of the norms": f"{config.norm_eps:g}",
        **_training_rows(checkpoint.get("hyper_parameters", {})),
    }
    if facts.max_length is not None:
        rows["longest trained length"] = f"{facts.max_length:,} tokens"
    if facts.eot_id is not None:
        rows["end-of-text id"] = f"{facts.eot_id}"
    table = "".join(f"| {what} | {value} |\n" for what, value in rows.items())
    trust, code = (", trust_remote_code=True", _CODE) if config.body == "decoder" else ("", "")
    return _HEAD.format(name=name, trust=trust, code=code) + table


def _training_rows(parameters: Mapping[str, Any]) -> dict[str, str]:
    optim, loss = parameters.get("optim", {}), parameters.get("loss", {})
    rows: dict[str, str] = {}
    if optim:
        rows["planned steps"] = f"{optim['total_steps']:,}"
        rows["learning rate"] = (
            f"{optim['lr']:g} to {optim['min_lr']:g}, {optim['warmup_steps']:,} warm-up steps"
        )
        rows["weight decay"] = f"{optim['weight_decay']:g}"
    if loss:
        rows["z-loss"] = f"{loss['z_loss']:g}"
    return rows
