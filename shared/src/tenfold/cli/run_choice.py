"""Which run folder a training uses, and which checkpoint it starts from, the same on every rank."""

import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

from lightning.fabric.utilities.rank_zero import rank_zero_only

from tenfold import checkpoints
from tenfold.cli.training import TrainingCLI
from tenfold.runs import RunFolder, new_run, newest_run

log = logging.getLogger(__name__)

# Lightning starts the other ranks with the same command; this tells them rank 0's choice.
RUN_OF_RANK_ZERO = "TENFOLD_RUN"


class RunChoice(NamedTuple):
    """A run folder, and the checkpoint to go on from, if any."""

    run: RunFolder
    checkpoint: Path | None


def this_rank() -> int:
    """Return this process's rank, as launchers and SLURM say."""
    return getattr(rank_zero_only, "rank", None) or 0


def choose_run(cli: TrainingCLI) -> RunChoice:
    """Follow `--run_dir` and `--resume`; nothing is written.

    Raises:
        ValueError: A launcher starts the ranks and no folder is named, there is nothing left to
            train, or the checkpoint is one where no run can go on.
        FileExistsError: The named folder has a run in it.
        FileNotFoundError: There is no run to resume.
        CheckpointError: No checkpoint verifies.
    """
    if told := os.environ.get(RUN_OF_RANK_ZERO):
        choice = json.loads(told)
        checkpoint = choice["checkpoint"]
        return RunChoice(RunFolder(Path(choice["run"])), Path(checkpoint) if checkpoint else None)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and cli.config.run_dir is None:
        raise ValueError("--run_dir must be given when a launcher starts the ranks")
    resume = cli.config.resume
    if not resume:
        return RunChoice(_fresh(cli), None)
    if resume in ("auto", "if_any"):
        return _newest(cli, only_if_any=resume == "if_any")
    return _named_checkpoint(cli, Path(resume))


def tell_other_ranks(choice: RunChoice) -> None:
    """Leave the choice where the processes that Lightning starts find it."""
    checkpoint = str(choice.checkpoint) if choice.checkpoint else None
    told = {"run": str(choice.run.path), "checkpoint": checkpoint}
    os.environ[RUN_OF_RANK_ZERO] = json.dumps(told)


def _fresh(cli: TrainingCLI) -> RunFolder:
    if cli.config.run_dir is None:
        return new_run(cli.config.runs_dir, cli.recipe_name())
    run = RunFolder(cli.config.run_dir)
    if run.is_used and this_rank() == 0:
        raise FileExistsError(
            f"run folder {run.path} is not empty: go on with --resume auto or name another"
        )
    return run


def _newest(cli: TrainingCLI, *, only_if_any: bool) -> RunChoice:
    named = cli.config.run_dir is not None
    run = RunFolder(cli.config.run_dir) if named else _newest_of_recipe(cli, only_if_any)
    if only_if_any and not any(run.checkpoints.glob("step-*.ckpt")):
        log.info("no checkpoint in %s: starting at step 0", run.checkpoints)
        return RunChoice(run, None)
    checkpoint = checkpoints.newest(run.checkpoints)
    step, steps = checkpoints.step_of(checkpoint), cli.config.trainer.max_steps
    if step < steps:
        return RunChoice(run, checkpoint)
    if only_if_any and not named:
        return RunChoice(new_run(cli.config.runs_dir, cli.recipe_name()), None)
    raise ValueError(
        f"nothing left to train: {run.path} is at step {step} of {steps}; raise trainer.max_steps "
        "or start a new run"
    )


def _newest_of_recipe(cli: TrainingCLI, only_if_any: bool) -> RunFolder:
    try:
        return newest_run(cli.config.runs_dir, cli.recipe_name())
    except FileNotFoundError:
        if not only_if_any:
            raise
        return new_run(cli.config.runs_dir, cli.recipe_name())


def _named_checkpoint(cli: TrainingCLI, checkpoint: Path) -> RunChoice:
    if checkpoint.name.startswith("best-"):  # its loops stand inside a validation
        raise ValueError(f"cannot resume from {checkpoint}: take a step-*.ckpt or 'auto'")
    checkpoints.verify(checkpoint)
    run_dir = cli.config.run_dir or checkpoint.parent.parent
    return RunChoice(RunFolder(run_dir), checkpoint)
