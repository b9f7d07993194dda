"""One member's command line: which verbs there are and where each one's code stands.

Every verb is named by a string (`"package.module:function"`) and imported only when it runs.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenfold.cli.errors import report_errors
from tenfold.runs import log_to_console

EVALUATION_VERBS = {
    "validate": "Measure the validation metrics of a checkpoint.",
    "test": "Measure the test metrics of a checkpoint.",
    "predict": "Write the predictions of a checkpoint.",
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A LightningModule and a LightningDataModule that are trained together.

    Args:
        module: `"package.module:Class"` of the LightningModule; its arguments are frozen
            dataclasses and become top-level option groups (`--model.dim`, `--optim.lr`).
        data: `"package.module:Class"` of the LightningDataModule (`--data.path`).
        links: Pairs of option names; the second follows the first and is not an option any more.
        about: One line for the list of verbs.
    """

    module: str
    data: str
    links: tuple[tuple[str, str], ...] = (("trainer.max_steps", "optim.total_steps"),)
    about: str = "Train a model."


@dataclass(frozen=True, kw_only=True)
class App:
    """The command line of one member.

    Args:
        name: Console script, kebab-case.
        package: Import name.
        about: One line that says what the member does.
        trainings: Verb name to training; `fit` must be there, `pretrain` and the like may follow.
        verbs: The paper's own verbs, name to `"package.module:function"`.

    Raises:
        ValueError: `fit` is missing or a name is used twice.
    """

    name: str
    package: str
    about: str
    trainings: Mapping[str, Training]
    verbs: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if "fit" not in self.trainings:
            raise ValueError(f"{self.name}: trainings must hold 'fit', got {list(self.trainings)}")
        taken = [*self.trainings, *EVALUATION_VERBS, "recipes"]
        if twice := sorted(set(taken) & set(self.verbs)):
            raise ValueError(f"{self.name}: verbs named twice: {', '.join(twice)}")

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run one verb and return the exit code: 0 done, 2 a user's mistake, 130/143 a signal."""
        arguments = list(sys.argv[1:] if argv is None else argv)
        log_to_console()
        return report_errors(lambda: self._dispatch(arguments))

    def verb_names(self) -> list[str]:
        """Return every verb in the order of the help text."""
        return [*self.trainings, *EVALUATION_VERBS, *self.verbs, "recipes"]

    def recipes_dir(self) -> Path:
        """Return the folder of the shipped recipes, in a checkout or in an installed wheel."""
        spec = importlib.util.find_spec(self.package)
        assert spec is not None, self.package
        assert spec.origin is not None, self.package
        root = Path(spec.origin).parent
        installed = root / "recipes"
        return installed if installed.is_dir() else root.parents[1] / "recipes"

    def option_names(self, verb: str) -> list[str]:
        """Return the sorted option names of `verb`, without those of Lightning and jsonargparse."""
        if verb in self.verbs:
            from tenfold.cli.functions import function_parser

            parser = function_parser(resolve(self.verbs[verb]), prog=f"{self.name} {verb}")
        elif verb == "recipes":
            return []
        else:
            from tenfold.cli.training import training_parser

            parser = training_parser(self, verb)
        words = {word for action in parser._actions for word in action.option_strings}
        names = {word.removeprefix("--") for word in words if word.startswith("--")}
        return sorted(
            name
            for name in names - {"help"}
            if not (name.endswith("+") or name.startswith(("trainer", "print_")))
        )

    def _dispatch(self, argv: list[str]) -> int:
        verb, arguments = (argv[0], argv[1:]) if argv else ("--help", [])
        if verb in ("-h", "--help"):
            sys.stdout.write(self._help())
            return 0
        if verb == "recipes":
            from tenfold.cli.recipes import recipe_table

            sys.stdout.write(recipe_table(self.recipes_dir()))
            return 0
        if verb in self.verbs:
            from tenfold.cli.functions import run_function
            from tenfold.cli.recipes import with_recipes

            if any(word.partition("=")[0] in ("--config", "-c") for word in arguments):
                arguments = with_recipes(arguments, self.recipes_dir())
            return run_function(resolve(self.verbs[verb]), arguments, prog=f"{self.name} {verb}")
        if verb in self.trainings or verb in EVALUATION_VERBS:
            from tenfold.cli.training import run_training

            return run_training(self, verb, arguments)
        known = ", ".join(self.verb_names())
        raise ValueError(f"unknown verb '{verb}', expected one of: {known}")

    def _help(self) -> str:
        lines = {name: training.about for name, training in self.trainings.items()}
        lines |= EVALUATION_VERBS
        lines |= {name: first_docstring_line(target) for name, target in self.verbs.items()}
        lines["recipes"] = "List the shipped recipes."
        width = max(map(len, lines))
        listed = "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
        return (
            f"usage: {self.name} VERB [options]\n\n{self.about}\n\nverbs:\n{listed}\n\n"
            f"`{self.name} VERB --help` shows the options of a verb.\n"
        )


def resolve(target: str) -> Any:
    """Import what `"package.module:name"` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def first_docstring_line(target: str) -> str:
    """Return the first docstring line of `"package.module:function"` without importing it."""
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None, target
    assert spec.origin is not None, target
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise AssertionError(f"{target} names no function")
