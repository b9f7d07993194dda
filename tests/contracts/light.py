"""What a paper's command line answers without importing torch, asked in one subprocess."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.tree import Member

QUESTIONS = (["--help"], ["recipes"], ["no-such-verb"])
HEAVY = ("torch", "lightning", "ray", "transformers")

_PROBE = """
import contextlib, io, json, sys
from importlib import import_module
cli = import_module(sys.argv[1])
answers = []
for question in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.APP.main(question)
        except SystemExit as exit_request:
            code = exit_request.code
    answers.append([code, out.getvalue(), err.getvalue()])
heavy = [name for name in json.loads(sys.argv[3]) if name in sys.modules]
print(json.dumps({"answers": answers, "verbs": cli.APP.verb_names(), "heavy": heavy}))
"""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one paper answered to `QUESTIONS`.

    Args:
        answers: Exit code, stdout and stderr of each question.
        verbs: The verbs that the application knows.
        heavy: Heavy packages that were imported on the way.
    """

    answers: Sequence[tuple[int, str, str]]
    verbs: Sequence[str]
    heavy: Sequence[str]


def ask(paper: Member) -> Answers:
    """Ask a paper's command line in a fresh interpreter that sees its sources first."""
    words = [f"{paper.import_name}.cli", json.dumps(QUESTIONS), json.dumps(HEAVY)]
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(paper.folder / "src")},
    )
    assert done.returncode == 0, done.stderr
    return Answers(**json.loads(done.stdout.splitlines()[-1]))


def check_light(paper: Member) -> list[str]:
    """Help, recipes and a wrong verb answer rightly, in one line where it is an error, no torch."""
    found = ask(paper)
    (help_code, help_text, _), (recipe_code, recipes, _), (wrong_code, _, wrong) = found.answers
    shipped = sorted(path.stem for path in paper.folder.glob("recipes/*.yaml"))
    rules = {
        f"imports {', '.join(found.heavy)} for help": not found.heavy,
        f"--help exits with {help_code}": help_code == 0,
        "--help does not list every verb": all(verb in help_text for verb in found.verbs),
        f"recipes exits with {recipe_code}": recipe_code == 0,
        f"recipes does not list {shipped}": all(name in recipes for name in shipped),
        f"an unknown verb exits with {wrong_code}, expected 2": wrong_code == 2,
        f"an unknown verb is answered by {wrong!r}": wrong.startswith("error: ")
        and wrong.count("\n") == 1,
    }
    return [f"{paper.name}: {what}" for what, holds in rules.items() if not holds]


def readme_dry_runs(paper: Member) -> list[list[str]]:
    """Return the README's commands of this paper that carry `--dry_run`, without `uv run NAME`."""
    from contracts.readme import commands

    found = (command.words for command in commands(paper.folder / "README.md"))
    return [w[3:] for w in found if w[:3] == ["uv", "run", paper.name] and "--dry_run" in w]
