"""Lightning's verbs: a LightningCLI whose options read `--model.dim`, `--optim.lr`, `--data.path`.

LightningCLI nests a module's arguments below `model.`; here they stand at the top level, so that a
recipe has the groups `model`, `loss`, `optim`, `data`, `trainer`, and a message such as
`optim.lr must be > 0` names the option as it is typed. Nothing is built before the run folder is
settled, so LightningCLI is used for parsing and for making the Trainer, not for running.
"""

import sys
from argparse import SUPPRESS, ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from tenfold.cli.app import EVALUATION_VERBS, App, Training, resolve
from tenfold.cli.quiet import silence_adverts
from tenfold.cli.recipes import with_recipes
from tenfold.cli.suggestions import with_suggestions

# The Trainer has some forty options; the short help shows those that one changes from run to run.
SHOWN_TRAINER_OPTIONS = (
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "max_steps"),
    *("val_check_interval", "limit_val_batches", "log_every_n_steps"),
    *("accumulate_grad_batches", "gradient_clip_val"),
)
RUN_OPTIONS = ("config", "runs_dir", "run_dir", "resume", "dry_run", "ckpt_path", "out", "training")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When and how many checkpoints are kept.

    Args:
        every_n_steps: Optimiser steps between two checkpoints.
        keep: Number of the latest ones to retain, at least 2.
        monitor: Validation metric whose best checkpoint is kept as well, none when empty.
        mode: Whether a small or a large value of `monitor` is better.
    """

    every_n_steps: int = 500
    keep: int = 2
    monitor: str = ""
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if self.every_n_steps < 1:
            raise ValueError(f"checkpoint.every_n_steps must be >= 1, got {self.every_n_steps}")
        if self.keep < 2:
            raise ValueError(
                f"checkpoint.keep must be >= 2, got {self.keep}: the newest may turn out damaged"
            )


class TrainingCLI(LightningCLI):
    """Parsed options of one verb, and what they build.

    Args:
        app: The member.
        verb: A training's name or one of Lightning's evaluation verbs.
        argv: The words after the verb; `None` only makes the parser.
    """

    def __init__(self, app: App, verb: str, argv: Sequence[str] | None) -> None:
        self.app = app
        self.verb = verb
        self.training: Training = app.trainings[_training_name(app, verb, argv or ())]
        self.module_class: type[lightning.LightningModule] = resolve(self.training.module)
        super().__init__(
            model_class=self.module_class,
            datamodule_class=resolve(self.training.data),
            save_config_callback=None,
            trainer_defaults={"log_every_n_steps": 10, "use_distributed_sampler": False},
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "prog": f"{app.name} {verb}"},
            args=None if argv is None else list(argv),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our options first, Lightning's last."""
        if self.verb in EVALUATION_VERBS:
            _add_evaluation_options(parser, self.app, self.verb)
        else:
            _add_run_options(parser)
        parser.add_class_arguments(CheckpointConfig, "checkpoint")
        self.module_arguments = parser.add_class_arguments(self.module_class, None)
        parser.add_lightning_class_args(self._datamodule_class, "data")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{k}": v for k, v in self.trainer_defaults.items()})
        for source, target in self.training.links:
            parser.link_arguments(source, target)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; an error in a config file names the file, an unknown option the nearest one."""
        if args is None:
            self.config = Namespace(subcommand=None)
            return
        words = _words(args, self.app.recipes_dir())
        try:
            self.config = parser.parse_args(words)
        except ArgumentError as error:
            for path in _config_files(words):
                _name_the_file(parser, path)
            raise ValueError(with_suggestions(str(error), parser)) from error

    def instantiate_classes(self) -> None:
        """Build nothing yet, see `build`."""

    def _set_seed(self) -> None:
        """Seed later, right before `build`."""

    def build(self) -> None:
        """Seed and make `self.model` and `self.datamodule`.

        Raises:
            ValueError: An option is out of range.
        """
        super()._set_seed()
        self.config_init: Namespace = self.parser.instantiate(self.config)
        self.datamodule: lightning.LightningDataModule = self.config_init.data
        arguments = {name: self.config_init[name] for name in self.module_arguments}
        self.model: lightning.LightningModule = self.module_class(**arguments)

    def make_trainer(self, **changes: Any) -> lightning.Trainer:
        """Make the Trainer from `trainer.*`, `changes` on top; callbacks and plugins are joined.

        Intervals count optimiser steps (Lightning's `val_check_interval` counts micro-batches) from
        the start of the run; they may be longer than the run or what is left of it, whose last step
        is validated in any case.
        """
        options = dict(self.config_init.trainer)
        for name in ("callbacks", "plugins"):
            options[name] = [*_as_list(options.get(name)), *changes.pop(name, [])]
        if self.verb not in EVALUATION_VERBS:
            options["log_every_n_steps"] = self.log_interval()
            if type(options["val_check_interval"]) is int:
                options["val_check_interval"] *= options["accumulate_grad_batches"]
                if options["check_val_every_n_epoch"] == 1:
                    # Else Lightning counts from the start of the epoch, which may be a resume, and
                    # refuses an interval that is longer than the epoch.
                    options["check_val_every_n_epoch"] = None
        return self.trainer_class(**{**options, **changes})

    def log_interval(self) -> int:
        """Return the optimiser steps between two logged values; a short run logs its last one."""
        trainer = self.config.trainer
        return max(min(trainer.log_every_n_steps, trainer.max_steps), 1)

    def recipe_name(self) -> str:
        """Return the stem of the last config file, `default` without one."""
        files = self.config.get("config") or []
        return Path(str(files[-1])).stem if files else "default"

    def resolved_config(self) -> str:
        """Return the config as a recipe that repeats this run."""
        values = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=True))
        kept = {name: value for name, value in values.items() if name not in RUN_OPTIONS}
        return f"# {self.app.name} {self.verb}\n" + yaml.safe_dump(kept, sort_keys=False)


def training_parser(app: App, verb: str) -> LightningArgumentParser:
    """Return the parser of one of Lightning's verbs."""
    return TrainingCLI(app, verb, None).parser


def run_training(app: App, verb: str, argv: list[str]) -> int:
    """Run one of Lightning's verbs and return the exit code."""
    silence_adverts()
    if {"-h", "--help", "--trainer.help"} & set(argv):
        sys.stdout.write(_help(app, verb, everything="--trainer.help" in argv))
        return 0
    if verb in EVALUATION_VERBS:
        from tenfold.cli.evaluating import evaluate

        _check_ckpt_path(argv)
        return evaluate(TrainingCLI(app, verb, _with_config_of_run(argv)))
    cli = TrainingCLI(app, verb, argv)
    from tenfold.cli.fitting import fit

    return fit(cli)


def _with_config_of_run(argv: list[str]) -> list[str]:
    """Let the config of the checkpoint's run stand in when none is named."""
    from tenfold.cli.evaluating import config_of

    if any(word.partition("=")[0] in ("--config", "-c") for word in argv):
        return argv
    path = _ckpt_path(argv)
    config = config_of(path) if path is not None else None
    return [f"--config={config}", *argv] if config else argv


def _check_ckpt_path(argv: list[str]) -> None:
    """Refuse a path where nothing is before a missing option of its config is complained about.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    path = _ckpt_path(argv)
    if path is not None and not path.exists():
        raise FileNotFoundError(
            f"--ckpt_path {path} does not exist: name a checkpoint or a run folder"
        )


def _ckpt_path(argv: list[str]) -> Path | None:
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word.partition("=")[0] == "--ckpt_path":
            return Path(word.partition("=")[2] or following)
    return None


def _add_run_options(parser: LightningArgumentParser) -> None:
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="Where runs go.")
    parser.add_argument(
        "--run_dir", type=Path | None, default=None, help="This run's folder; default: a new one."
    )
    parser.add_argument(
        "--resume",
        type=str,
        default="",
        help="'auto': newest checkpoint that verifies (an error without one); 'if_any': the same, "
        "but start when there is none; or a checkpoint file.",
    )
    parser.add_argument(
        "--dry_run", type=bool, default=False, help="Build all, run one batch, print the sizes."
    )


def _add_evaluation_options(parser: LightningArgumentParser, app: App, verb: str) -> None:
    names = tuple(app.trainings)
    parser.add_argument(
        "--ckpt_path", type=Path, help="A checkpoint, or a run folder (its newest)."
    )
    parser.add_argument(
        "--training", type=Literal[names], default=names[0], help="Whose module and data."
    )
    what = "predictions, safetensors" if verb == "predict" else "metrics, JSON"
    parser.add_argument("--out", type=Path | None, default=None, help=f"File for the {what}.")


def _training_name(app: App, verb: str, argv: Sequence[str]) -> str:
    if verb in app.trainings:
        return verb
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word.startswith("--training"):
            name = word.partition("=")[2] or following
            if name not in app.trainings:
                raise ValueError(f"--training must be one of {list(app.trainings)}, got '{name}'")
            return name
    return "fit"


def _words(argv: Sequence[str], recipes: Path) -> list[str]:
    """Let `--dry_run` stand alone and let `--config` take a shipped recipe's name."""
    words = with_recipes(argv, recipes)
    return ["--dry_run=true" if word == "--dry_run" else word for word in words]


def _config_files(words: Sequence[str]) -> list[str]:
    return [word.partition("=")[2] for word in words if word.startswith("--config=")]


def _name_the_file(parser: LightningArgumentParser, path: str) -> None:
    try:
        parser.parse_path(path)
    except ArgumentError as error:
        raise ValueError(f"{path}: {with_suggestions(str(error), parser)}") from error


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _help(app: App, verb: str, *, everything: bool) -> str:
    parser = training_parser(app, verb)
    for action in parser._actions:
        option = next(iter(action.option_strings), "")
        shown = option.removeprefix("--trainer.") in SHOWN_TRAINER_OPTIONS
        if option.startswith("--trainer") and not shown and not everything:
            action.help = SUPPRESS
    usage = f"usage: {app.name} {verb} [--config RECIPE] [options]\n"
    text = parser.format_help()
    return (
        usage
        + text[text.index("\noptions:") :]
        + ("" if everything else "\n--trainer.help shows every option of Lightning's Trainer.\n")
    )
