"""The verb `evaluate`: held-out loss and tasks of a checkpoint (spec section 4)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dataset_decomposition.averages import averages
from dataset_decomposition.claim import TOKENIZER
from dataset_decomposition.evaluation_report import plot_by_position, report
from dataset_decomposition.heldout import Heldout, read_heldout
from dataset_decomposition.heldout_loss import HeldoutLoss, heldout_loss
from dataset_decomposition.module import load_decoder
from dataset_decomposition.records import DATASET, read_info
from dataset_decomposition.scoring import Row, Scorer
from dataset_decomposition.task_scores import TaskScore, score_task
from dataset_decomposition.tasks import find_tasks, read_task
from dataset_decomposition.tokenizer import Tokenizer, TokenizerSpec, find_tokenizer
from dataset_decomposition.trained_length import trained_length
from tenfold import atomic, checkpoints
from tenfold.cli.evaluating import find_checkpoint

SCHEMA = 1

_log = logging.getLogger(__name__)


def evaluate(
    checkpoint: Path,
    data: Path,
    *,
    contexts: list[int] | None = None,
    position_bands: list[int] | None = None,
    max_documents: int | None = None,
    max_tokens: int | None = None,
    tasks: Path | None = None,
    shots: int | None = None,
    tokenizer: str | None = None,
    batch_tokens: int = 16384,
    device: str = "auto",
    bf16: bool = False,
    out: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Score a checkpoint on held-out documents, each alone, and on local tasks.

    Args:
        checkpoint: Checkpoint or run folder.
        data: Folder that `prepare` made, with held-out documents.
        contexts: Even context lengths; the documents are scored in windows of each as well.
        position_bands: Positions at which a new band begins; by default 64 and 256.
        max_documents: Score so many documents, spread evenly over the held-out ones.
        max_tokens: Score at most so many tokens of a document; by default whole documents.
        tasks: Folder of `<task>.jsonl` files in llm-foundry's forms.
        shots: Solved examples before each question, from the file's first lines; by default the
            paper's number for its tasks and none for others.
        tokenizer: The data's tokenizer, where the folder does not hold it: `tokenizer.json` or
            transformers folder.
        batch_tokens: Padded tokens of a batch.
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`.
        bf16: Run the model under bfloat16 autocast.
        out: JSON file of all figures.
        plot: PNG of the loss by position.

    Raises:
        FileNotFoundError: Data, tasks or tokenizer are missing.
        ValueError: An option is impossible, the checkpoint does not fit the data, or a task's line
            is unusable.
    """
    _check_options(max_documents, max_tokens, batch_tokens=batch_tokens)
    info = read_info(data)
    task_files = [] if tasks is None else find_tasks(tasks)
    read_tasks = [read_task(path, shots=shots) for path in task_files]
    loaded_tokenizer = load_tokenizer(data, info, tokenizer) if read_tasks else None
    held_out = _open_heldout(data, info, has_tasks=bool(read_tasks))
    if held_out is None and plot is not None:
        raise ValueError(f"--plot shows the held-out loss, but {data} has no held-out documents")
    scorer = load_scorer(checkpoint, info, batch_tokens=batch_tokens, device=device, bf16=bf16)
    loss = None
    if held_out is not None:
        documents = select_documents(held_out, max_documents, max_tokens)
        loss = heldout_loss(
            scorer,
            documents,
            position_bands=(64, 256) if position_bands is None else position_bands,
            contexts=contexts or (),
        )
    scores: list[TaskScore] = []
    for task in read_tasks:
        assert loaded_tokenizer is not None
        scores.append(score_task(scorer, loaded_tokenizer, task))
        _log.info("%s: %.1f %%", task.name, 100 * scores[-1].score)
    Console().print(report(loss, scores))
    if out is not None:
        atomic.write_json(out, _figures(info, loss, scores))
    if plot is not None:
        assert loss is not None, "checked before the work"
        plot_by_position(loss, plot)


def load_scorer(
    checkpoint: Path,
    info: Mapping[str, Any],
    *,
    batch_tokens: int = 16384,
    device: str = "auto",
    bf16: bool = False,
) -> Scorer:
    """Load a checkpoint's model to score data of `info` (`dataset.json`).

    The scorer warns of rows beyond the longest bucket that the checkpoint's run has trained on.

    Args:
        checkpoint: Checkpoint or run folder.
        info: Says the vocabulary of the data to score.
        batch_tokens: Padded tokens of a batch.
        device: `auto` takes the GPU where there is one.
        bf16: Run the model under bfloat16 autocast.

    Raises:
        ValueError: No such device, a checkpoint that does not verify, or a model with fewer ids
            than the data's tokenizer.
    """
    place = find_device(device)
    state = checkpoints.load(find_checkpoint(checkpoint))
    decoder = load_decoder(state)
    ids = state["hyper_parameters"]["model"]["vocab_size"]
    if info["vocab_size"] > ids:
        raise ValueError(
            f"the checkpoint's model has {ids} token ids, the data's tokenizer {info['vocab_size']}"
            "; use the data it was trained on"
        )
    return Scorer(
        decoder.to(place),
        trained_length=_trained_length(state, info),
        batch_tokens=batch_tokens,
        device=place,
        bf16=bf16,
    )


def _trained_length(state: Mapping[str, Any], info: Mapping[str, Any]) -> int:
    """Return the longest bucket among those that the run has used, by its data module's state."""
    used = state.get("DecompositionData", {}).get("used")
    if used:
        return trained_length(used)
    length = 1 << info["max_bucket"]
    _log.warning(
        "the checkpoint does not say which buckets it was trained on: the longest of the data to "
        "score, %d tokens, is taken for trained",
        length,
    )
    return length


def load_tokenizer(data: Path, info: Mapping[str, Any], name: str | None = None) -> Tokenizer:
    """Load the tokenizer that a data set was prepared with.

    Args:
        data: Folder that `prepare` made; holds the tokenizer only if it was trained there.
        info: The content of `dataset.json`.
        name: Where it is otherwise.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is needed and not named, or another one.
    """
    wanted = info["tokenizer"]
    if name is not None:
        spec = find_tokenizer(name)
    elif (data / TOKENIZER).is_file():
        spec = TokenizerSpec(wanted["name"], str(data / TOKENIZER))
    elif wanted["name"] == "bytes":
        spec = TokenizerSpec("bytes", None)
    else:
        raise ValueError(
            f"{data} does not hold its tokenizer {wanted['name']}; name it with --tokenizer"
        )
    tokenizer = spec.load()
    if wanted["sha256"] is None:
        _check_ids(tokenizer, info)
    elif tokenizer.fingerprint != wanted["sha256"]:
        raise ValueError(
            f"the tokenizer {spec.name} is not the one that {data / DATASET} names "
            f"({wanted['name']}); give that one with --tokenizer"
        )
    return tokenizer


def _check_ids(tokenizer: Tokenizer, info: Mapping[str, Any]) -> None:
    """Check what can be checked where the data does not say what its tokenizer was."""
    if tokenizer.eot_id != info["eot_id"] or tokenizer.vocab_size > info["vocab_size"]:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids and end of text {tokenizer.eot_id}, the "
            f"data has {info['vocab_size']} and {info['eot_id']}; give the one it was made with"
        )


def select_documents(
    held_out: Heldout, max_documents: int | None = None, max_tokens: int | None = None
) -> list[Row]:
    """Return documents in their order, evenly spread when only some are wanted, cut when long.

    Args:
        held_out: All documents.
        max_documents: How many; None for all.
        max_tokens: Longest number of targets of a document; None for all.
    """
    count = held_out.num_documents
    wanted = count if max_documents is None else min(count, max_documents)
    end = None if max_tokens is None else max_tokens + 1
    return [held_out.document(place * count // wanted)[:end] for place in range(wanted)]


def find_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        ValueError: torch does not know it, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: torch sees {torch.cuda.device_count()} GPUs")
    return device


def _check_options(max_documents: int | None, max_tokens: int | None, *, batch_tokens: int) -> None:
    limits = {
        "max_documents": max_documents,
        "max_tokens": max_tokens,
        "batch_tokens": batch_tokens,
    }
    for name, value in limits.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _open_heldout(data: Path, info: Mapping[str, Any], *, has_tasks: bool) -> Heldout | None:
    if info["heldout"] is None and has_tasks:
        _log.warning("%s has no held-out documents: only the tasks are scored", data)
        return None
    return read_heldout(data)


def _figures(
    info: Mapping[str, Any], loss: HeldoutLoss | None, scores: Sequence[TaskScore]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "tokenizer": info["tokenizer"],
        "heldout": None if loss is None else loss.to_json(),
        "tasks": {score.name: asdict(score) for score in scores},
        "averages": averages({score.name: score.score for score in scores}),
    }
