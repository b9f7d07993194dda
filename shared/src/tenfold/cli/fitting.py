"""`fit` and its like: run folder, callbacks, resume, and how a run ends."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from tenfold import checkpoints
from tenfold.callbacks import (
    AtomicCheckpointIO,
    LossCurve,
    MetricsFile,
    NanGuard,
    NonFiniteError,
    Preempted,
    ProgressBar,
    ProgressLines,
    RunCheckpoint,
    StepSeed,
    Throughput,
)
from tenfold.cli.training import TrainingCLI
from tenfold.runs import RunFolder, log_to_file, new_run, newest_run

log = logging.getLogger(__name__)

# Lightning starts the other ranks with the same command; this tells them rank 0's choice.
_RUN_OF_RANK_ZERO = "TENFOLD_RUN"


def fit(cli: TrainingCLI) -> int:
    """Train and return the exit code: 0 done, 1 stopped by the NaN guard, 128 + signal.

    Raises:
        ValueError: No number of steps, or a wrong option.
        FileExistsError: The run folder is in use.
        CheckpointError: Nothing to resume from.
    """
    if cli.config.trainer.max_steps < 1:
        raise ValueError(f"trainer.max_steps must be set, got {cli.config.trainer.max_steps}")
    if cli.config.dry_run:
        from tenfold.cli.dry_run import dry_run

        return dry_run(cli)
    run, checkpoint = _open_run(cli)
    handler = log_to_file(run.log)
    try:
        return _fit_in(cli, run, checkpoint)
    except Exception:
        log.debug("the run ended with an error", exc_info=True)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        os.environ.pop(_RUN_OF_RANK_ZERO, None)


def _fit_in(cli: TrainingCLI, run: RunFolder, checkpoint: Path | None) -> int:
    cli.build()
    if _is_rank_zero():
        if checkpoint is not None:
            _warn_of_changes(run.config, cli.resolved_config())
            log.info("resuming from %s", checkpoint)
        run.record(cli.resolved_config(), sys.argv)
    log.info("run folder: %s", run.path)
    trainer = cli.make_trainer(
        logger=_loggers(cli, run, checkpoint),
        callbacks=_callbacks(cli, run),
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=_shows_bar(cli),
        enable_model_summary=False,
        default_root_dir=str(run.path),
    )
    try:
        trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except Preempted as stop:
        log.warning("%s; go on with:\n  %s", stop, _resume_command(cli, run))
        return stop.exit_code
    except NonFiniteError as error:
        log.error("%s; the newest checkpoint is clean", error)
        return 1
    if trainer.is_global_zero:
        _print_summary(run, {name: float(v) for name, v in trainer.callback_metrics.items()})
    return 0


def _open_run(cli: TrainingCLI) -> tuple[RunFolder, Path | None]:
    """Settle the run folder and the checkpoint to start from, the same on every rank."""
    if told := os.environ.get(_RUN_OF_RANK_ZERO):
        choice = json.loads(told)
        return RunFolder(Path(choice["run"])), choice["checkpoint"] and Path(choice["checkpoint"])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and cli.config.run_dir is None:
        raise ValueError("--run_dir must be given when a launcher starts the ranks")
    run, checkpoint = _choose_run(cli)
    if checkpoint is None and _is_rank_zero():
        run.create()
    choice = {"run": str(run.path), "checkpoint": checkpoint and str(checkpoint)}
    os.environ[_RUN_OF_RANK_ZERO] = json.dumps(choice)
    return run, checkpoint


def _choose_run(cli: TrainingCLI) -> tuple[RunFolder, Path | None]:
    resume, run_dir, runs_dir = cli.config.resume, cli.config.run_dir, cli.config.runs_dir
    named = RunFolder(run_dir) if run_dir else None
    if not resume:
        return named or new_run(runs_dir, cli.recipe_name()), None
    if resume not in ("auto", "if_any"):
        checkpoint = Path(resume)
        if checkpoint.name.startswith("best-"):  # its loops stand inside a validation
            raise ValueError(f"cannot resume from {checkpoint}: take a step-*.ckpt or 'auto'")
        checkpoints.verify(checkpoint)
        return named or RunFolder(checkpoint.parent.parent), checkpoint
    try:
        run = named or newest_run(runs_dir, cli.recipe_name())
    except FileNotFoundError:
        if resume == "auto":
            raise
        return new_run(runs_dir, cli.recipe_name()), None
    if resume == "if_any" and not any(run.checkpoints.glob("step-*.ckpt")):
        log.info("no checkpoint in %s: starting at step 0", run.checkpoints)
        return run, None
    return run, checkpoints.newest(run.checkpoints)


def _callbacks(cli: TrainingCLI, run: RunFolder) -> list[Callback]:
    config, interval = cli.config_init, cli.log_interval()
    callbacks: list[Callback] = [
        StepSeed(int(cli.config.seed_everything)),
        Throughput(every_n_steps=interval),
        NanGuard(run.path, every_n_steps=interval),
        RunCheckpoint(
            run.checkpoints,
            every_n_steps=config.checkpoint.every_n_steps,
            keep=config.checkpoint.keep,
            monitor=config.checkpoint.monitor,
            mode=config.checkpoint.mode,
        ),
        LossCurve(run.metrics, run.plot),
    ]
    callbacks.append(ProgressBar() if _shows_bar(cli) else ProgressLines(every_n_steps=interval))
    return callbacks


def _shows_bar(cli: TrainingCLI) -> bool:
    return sys.stdout.isatty() and cli.config.trainer.enable_progress_bar is not False


def _loggers(cli: TrainingCLI, run: RunFolder, checkpoint: Path | None) -> list[Any]:
    resume_step = checkpoints.verify(checkpoint)["step"] if checkpoint else None
    others = cli.config_init.trainer.logger
    more = [] if others in (None, True, False) else others
    return [
        MetricsFile(run.metrics, resume_step=resume_step),
        *(more if isinstance(more, list) else [more]),
    ]


def _is_rank_zero() -> bool:
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def _warn_of_changes(stored: Path, resolved: str) -> None:
    if not stored.exists():
        return
    before, after = _flat(yaml.safe_load(stored.read_text())), _flat(yaml.safe_load(resolved))
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            log.warning("resuming with %s = %s (was %s)", name, after.get(name), before.get(name))


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _resume_command(cli: TrainingCLI, run: RunFolder) -> str:
    return f"{cli.app.name} {cli.verb} --config {run.config} --run_dir {run.path} --resume auto"


def _print_summary(run: RunFolder, metrics: dict[str, float]) -> None:
    table = Table("metric", "value", title="done")
    for name, value in sorted(metrics.items()):
        table.add_row(name, f"{value:.5g}")
    console = Console()
    console.print(table)
    newest = checkpoints.newest(run.checkpoints)
    for label, path in (("checkpoint", newest), ("loss curve", run.plot), ("metrics", run.metrics)):
        console.print(f"{label}: {path}", soft_wrap=True)
