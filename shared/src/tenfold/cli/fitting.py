"""`fit` and its like: a run's callbacks and loggers, what a resume may change, how it ends."""

import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from rich.console import Console
from rich.table import Table

from tenfold import checkpoints
from tenfold.callbacks import (
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
from tenfold.cli.errors import USER_ERRORS
from tenfold.cli.run_choice import (
    RUN_OF_RANK_ZERO,
    RunChoice,
    choose_run,
    tell_other_ranks,
    this_rank,
)
from tenfold.cli.training import TrainingCLI
from tenfold.runs import RunFolder, log_to_file

log = logging.getLogger(__name__)


def fit(cli: TrainingCLI) -> int:
    """Train and return the exit code: 0 done, 1 stopped by the NaN guard, 128 + signal.

    Raises:
        ValueError: No number of steps, or a wrong option.
        FileExistsError: The run folder is in use.
        CheckpointError: Nothing to resume from.
    """
    for name in ("max_steps", "accumulate_grad_batches"):
        if cli.config.trainer[name] < 1:
            raise ValueError(f"trainer.{name} must be >= 1, got {cli.config.trainer[name]}")
    if cli.config.dry_run:
        from tenfold.cli.dry_run import dry_run

        return dry_run(cli)
    choice = choose_run(cli)
    if choice.checkpoint is not None:
        _check_changes(cli, choice.run.config)
    cli.build()  # a wrong option shows before anything is written
    is_new = this_rank() == 0 and not choice.run.path.exists()
    choice.run.create()
    tell_other_ranks(choice)
    handler = log_to_file(choice.run.log_of_rank(this_rank()))
    try:
        return _train(cli, choice)
    except Exception as error:
        log.debug("the run ended with an error", exc_info=True)
        if is_new and isinstance(error, USER_ERRORS) and not choice.run.is_used:
            shutil.rmtree(choice.run.path, ignore_errors=True)  # a mistake leaves no run behind
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        os.environ.pop(RUN_OF_RANK_ZERO, None)


def _train(cli: TrainingCLI, choice: RunChoice) -> int:
    run, checkpoint = choice
    log.info("run folder: %s", run.path)
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    saver = _run_checkpoint(cli, run)
    trainer = cli.make_trainer(
        logger=_loggers(cli, run, checkpoint),
        callbacks=[*_callbacks(cli, run), saver],
        plugins=[saver.io],
        enable_progress_bar=_shows_bar(cli),
        enable_model_summary=False,
        default_root_dir=str(run.path),
    )
    _check_strategy(trainer, checkpoint)
    try:
        trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except Preempted as stop:
        log.warning("%s; go on with:\n  %s", stop, _next_command(cli, run, stop.checkpoint))
        return stop.exit_code
    except NonFiniteError as error:
        log.error("%s", error)
        return 1
    except SystemExit as left:
        # Lightning leaves a Ctrl-C before the first step with exit code 1.
        if isinstance(left.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from left
        raise
    finally:
        saver.signals.uninstall()
    if trainer.is_global_zero:
        _print_summary(run, {name: float(v) for name, v in trainer.callback_metrics.items()})
    return 0


def _run_checkpoint(cli: TrainingCLI, run: RunFolder) -> RunCheckpoint:
    config = cli.config_init.checkpoint
    return RunCheckpoint(
        run.checkpoints,
        every_n_steps=config.every_n_steps,
        keep=config.keep,
        monitor=config.monitor,
        mode=config.mode,
    )


def _callbacks(cli: TrainingCLI, run: RunFolder) -> list[Callback]:
    interval = cli.log_interval()
    callbacks: list[Callback] = [
        _Record(cli, run),
        StepSeed(int(cli.config.seed_everything)),
        Throughput(every_n_steps=interval),
        NanGuard(run.path, every_n_steps=interval),
        LossCurve(run.metrics, run.plot),
    ]
    if _shows_bar(cli):
        callbacks.append(ProgressBar())
    callbacks.append(ProgressLines(every_n_steps=interval))
    return callbacks


class _Record(Callback):
    """Write the run's record not earlier than this: a refused resume must leave it as it was."""

    def __init__(self, cli: TrainingCLI, run: RunFolder) -> None:
        self.cli = cli
        self.run = run

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write config and environment."""
        if trainer.is_global_zero:
            self.run.record(self.cli.resolved_config(), sys.argv)


def _shows_bar(cli: TrainingCLI) -> bool:
    return sys.stdout.isatty() and cli.config.trainer.enable_progress_bar is not False


def _loggers(cli: TrainingCLI, run: RunFolder, checkpoint: Path | None) -> list[Any]:
    resume_step = checkpoints.step_of(checkpoint) if checkpoint else None
    others = cli.config_init.trainer.logger
    more = [] if others in (None, True, False) else others
    return [
        MetricsFile(run.metrics, resume_step=resume_step),
        *(more if isinstance(more, list) else [more]),
    ]


def _check_strategy(trainer: lightning.Trainer, checkpoint: Path | None) -> None:
    """Keep strategies that read checkpoints on their own away from unpickling.

    Raises:
        ValueError: The strategy writes folders of shards, which have no manifest.
        CheckpointError: The checkpoint holds more than tensors and plain values.
    """
    strategy = trainer.strategy
    sharded = isinstance(strategy, FSDPStrategy) and strategy._state_dict_type == "sharded"  # pyright: ignore[reportPrivateUsage]
    if sharded or isinstance(strategy, ModelParallelStrategy):
        raise ValueError(
            "trainer.strategy writes checkpoints as folders of shards, which cannot be verified; "
            "use FSDPStrategy with state_dict_type: full"
        )
    if isinstance(strategy, FSDPStrategy) and checkpoint is not None:
        # FSDPStrategy unpickles it; whatever loads here has nothing in it to execute.
        checkpoints.load(checkpoint)


def _check_changes(cli: TrainingCLI, stored: Path) -> None:
    """Compare the options with those of the interrupted run.

    Raises:
        ValueError: Model, loss, optimiser or seed differ: their state in the checkpoint would win.
    """
    if not stored.exists():
        return
    before = _flat(yaml.safe_load(stored.read_text(encoding="utf-8")))
    after = _flat(yaml.safe_load(cli.resolved_config()))
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        if name.partition(".")[0] in {*cli.module_arguments, "seed_everything"}:
            raise ValueError(
                f"{name} is {now}, the interrupted run has {was}: a resumed run keeps its model, "
                "loss, optimiser and seed; restore the option or start a new run"
            )
        log.warning("resuming with %s = %s (was %s)", name, now, was)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _next_command(cli: TrainingCLI, run: RunFolder, checkpoint: Path | None) -> str:
    words = [cli.app.name, cli.verb, "--config", str(run.config), "--run_dir", str(run.path)]
    return shlex.join([*words, *(["--resume", "auto"] if checkpoint else [])])


def _print_summary(run: RunFolder, metrics: dict[str, float]) -> None:
    table = Table("metric", "value", title="done")
    for name, value in sorted(metrics.items()):
        table.add_row(name, f"{value:.5g}")
    console = Console()
    console.print(table)
    last = sorted(run.checkpoints.glob("step-*.ckpt"))[-1]
    for label, path in (("checkpoint", last), ("loss curve", run.plot), ("metrics", run.metrics)):
        console.print(f"{label}: {path}", soft_wrap=True)
