"""The verb `export`: a checkpoint as a folder that transformers loads, compared beforehand."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dataset_decomposition.model_card import DataFacts, model_card
from tenfold import atomic

if TYPE_CHECKING:
    from torch import Tensor

    from dataset_decomposition.llama import LlamaDecoder
    from dataset_decomposition.model import Decoder

LARGEST_DIFFERENCE = 1e-5
"""Of the logits in fp32, as a share of the largest logit. Both sides do the same operations."""
COMPARED_ROWS, COMPARED_LENGTH = 2, 64

_log = logging.getLogger(__name__)


def export(checkpoint: Path, out: Path, *, data: Path | None = None) -> None:
    """Write a checkpoint as a Hugging Face model folder.

    `AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)` loads it without network.
    The folder appears only after it has been loaded and its logits have been compared.

    Args:
        checkpoint: A checkpoint, or a run folder (its newest).
        out: Folder to write; new or empty.
        data: Folder that `prepare` made, whose tokenizer, end-of-text id and longest length go
            along.

    Raises:
        ValueError: `out` holds something, the checkpoint is of another model, the data's vocabulary
            is larger than the model's, or the written model gives other logits.
        FileNotFoundError: The checkpoint, the data or its tokenizer is missing.
    """
    _require_transformers()
    from dataset_decomposition.module import load_decoder
    from tenfold import checkpoints
    from tenfold.cli.evaluating import find_checkpoint

    out = Path(out).expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another one")
    path = find_checkpoint(Path(checkpoint))
    loaded = checkpoints.load(path)
    decoder = load_decoder(loaded).float()
    facts = _data_facts(Path(data), decoder.config.vocab_size) if data else DataFacts()
    card = model_card(loaded, decoder.config, facts, source=path.name, name=out.name)
    del loaded
    with _temporary_folder(out) as folder:
        atomic.write_text(folder / "README.md", card)
        difference, largest = _write_model(decoder, facts, folder)
        if data and facts.knows_tokenizer:
            _write_tokenizer(Path(data), folder)
        _publish(folder, out)
    Console(soft_wrap=True).print(
        f"{out}: loads in transformers; largest difference of logits {difference:.3g}, "
        f"largest logit {largest:.3g}"
    )


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401 - only asked whether it is there
    except ImportError as error:
        raise ValueError(
            "export needs the extra 'transformers': install dataset-decomposition[transformers]"
        ) from error


def _data_facts(data: Path, vocab_size: int) -> DataFacts:
    from dataset_decomposition.records import read_info

    info = read_info(data)
    if info["vocab_size"] > vocab_size:
        raise ValueError(
            f"{data} has a vocabulary of {info['vocab_size']}, the model one of {vocab_size}; name "
            "the data that the model was trained on"
        )
    knows_tokenizer = info["tokenizer"]["sha256"] is not None
    if not knows_tokenizer:
        _log.warning("%s was imported and knows no tokenizer: none goes along", data)
    return DataFacts(info["eot_id"], 1 << info["max_bucket"], knows_tokenizer)


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """Make a hidden folder beside `out`, and remove it and what killed exports left."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for left_over in out.parent.glob(f".{out.name}{atomic.TEMPORARY}*"):
        shutil.rmtree(left_over)
    temporary = atomic.temporary_name(out)
    # The name inside stays that of `out`: transformers files the modelling code under it.
    folder = temporary / out.name
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_model(
    decoder: "Decoder | LlamaDecoder", facts: DataFacts, folder: Path
) -> tuple[float, float]:
    """Write shape, code and weights; return largest difference of logits and largest logit."""
    from dataset_decomposition.hf_config import write_config
    from tenfold import checkpoints

    weights = write_config(decoder, facts, folder)
    checkpoints.save_weights(folder / "model.safetensors", weights, {"format": "pt"})
    tokens = _sample_tokens(decoder.config.vocab_size)
    expected = _logits(decoder, tokens)
    return _difference(folder, tokens, expected), expected.abs().max().item()


def _sample_tokens(vocab_size: int) -> "Tensor":
    import numpy as np
    import torch

    draws = np.random.Generator(np.random.Philox(key=0))
    return torch.from_numpy(draws.integers(0, vocab_size, (COMPARED_ROWS, COMPARED_LENGTH)))


def _logits(decoder: Any, tokens: "Tensor") -> "Tensor":
    import torch

    with torch.inference_mode():
        return decoder(tokens)


def _difference(folder: Path, tokens: "Tensor", expected: "Tensor") -> float:
    """Load the folder as a user would and return the largest difference of logits."""
    import transformers

    progress = transformers.utils.logging
    shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True
        )
    finally:
        if shown:
            progress.enable_progress_bar()
    found = _logits(lambda ids: model(ids).logits, tokens)
    difference = (found - expected).abs().max().item()
    if not difference <= LARGEST_DIFFERENCE * expected.abs().max().item():
        raise ValueError(
            f"the written model gives other logits than the checkpoint: they differ by "
            f"{difference:.3g}; nothing was exported"
        )
    return difference


def _write_tokenizer(data: Path, folder: Path) -> None:
    from dataset_decomposition.hf_tokenizer import check_tokenizer, data_tokenizer, write_tokenizer

    spec = data_tokenizer(data)
    write_tokenizer(spec, folder)
    check_tokenizer(folder, spec.load())


def _publish(folder: Path, out: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    atomic.fsync_dir(folder)
    folder.replace(out)
    atomic.fsync_dir(out.parent)
