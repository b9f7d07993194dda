"""`validate`, `test` and `predict` of a checkpoint, never of untrained weights."""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tenfold import atomic, checkpoints
from tenfold.callbacks import AtomicCheckpointIO
from tenfold.cli.training import TrainingCLI

PREDICTIONS = ".safetensors"

find_checkpoint = checkpoints.find


def evaluate(cli: TrainingCLI) -> int:
    """Run the verb on `--ckpt_path` and print or write what it yields.

    Raises:
        ValueError: No checkpoint is named, it has another shape than the options say, or `predict`
            has no `--out`, one of another format, or several ranks.
        CheckpointError: There is no such checkpoint, or it does not verify.
    """
    if cli.config.ckpt_path is None:
        raise ValueError(f"--ckpt_path must be given: {cli.verb} needs a trained model")
    if cli.verb == "predict":
        _check_predictions_file(cli.config.out)
    checkpoint = find_checkpoint(cli.config.ckpt_path)
    cli.build()
    trainer = cli.make_trainer(
        logger=False, plugins=[AtomicCheckpointIO()], enable_model_summary=False
    )
    if cli.verb == "predict" and trainer.world_size > 1:
        raise ValueError(f"predict runs on one device, got {trainer.world_size}: trainer.devices=1")
    answers = _run(cli, trainer, checkpoint)
    if not trainer.is_global_zero:
        return 0
    if cli.verb == "predict":
        _write_predictions(answers, cli.config.out, getattr(cli.model, "prediction_metadata", {}))
    else:
        _report(
            {name: value for answer in answers for name, value in answer.items()}, cli.config.out
        )
    return 0


def _run(cli: TrainingCLI, trainer: lightning.Trainer, checkpoint: Path) -> list[Any]:
    verb = getattr(trainer, cli.verb)
    if cli.verb != "predict":
        verb = partial(verb, verbose=False)  # our own table follows
    try:
        return verb(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except RuntimeError as error:
        if "Error(s) in loading state_dict" not in str(error):
            raise
        first = str(error).strip().splitlines()[1].strip()
        raise ValueError(
            f"{checkpoint} does not fit the model of the options ({first}); evaluate with the "
            "config.yaml of its run"
        ) from error


def config_of(ckpt_path: Path) -> Path | None:
    """Return the config of the run that a run folder or a checkpoint in it belongs to."""
    for folder in (ckpt_path, ckpt_path.parent, ckpt_path.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    return None


def _report(metrics: dict[str, float], out: Path | None) -> None:
    table = Table("metric", "value")
    for name, value in sorted(metrics.items()):
        table.add_row(name, f"{value:.5g}")
    Console().print(table)
    if out is not None:
        atomic.write_json(out, metrics)


def _check_predictions_file(out: Path | None) -> None:
    if out is None:
        raise ValueError("--out must be given: predict writes a safetensors file")
    if out.suffix != PREDICTIONS:
        raise ValueError(
            f"--out must end with {PREDICTIONS}, got {out}: predict writes tensors there and names "
            "into a .json beside it"
        )


def _write_predictions(
    batches: list[dict[str, Tensor | list[str]]], out: Path, metadata: Mapping[str, Any]
) -> None:
    """Join the batches of `predict_step`, dicts of `[B, ...]` tensors and of lists of B names.

    Tensors go to `out`; names, and what the module says of all predictions in its
    `prediction_metadata`, to a JSON file beside it.
    """
    columns: dict[str, list[Tensor]] = defaultdict(list)
    names: dict[str, list[str]] = defaultdict(list)
    for batch in batches:
        for name, values in batch.items():
            if isinstance(values, Tensor):
                columns[name].append(values.cpu())
            else:
                names[name] += values
    joined = {name: torch.cat(values) for name, values in columns.items()}
    if names or metadata:
        atomic.write_json(out.with_suffix(".json"), {**names, **metadata})
    checkpoints.save_weights(out, joined, {"format": "predictions"})
    Console().print(f"{len(next(iter(joined.values()), []))} predictions: {out}", soft_wrap=True)
