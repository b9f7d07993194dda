"""READMEs: the same headings everywhere, and only commands that exist."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path

from contracts.tree import Member, papers, problem
from contracts.verbs import stored_options

HEADINGS = [
    "What it does",
    "Quick start",
    "Data format",
    "Train",
    "Evaluate",
    "Export and use elsewhere",
    "Results against the paper",
    "Speed",
    "Deviations and known gaps",
    "Cite",
]
SHELLS = {"", "bash", "sh", "shell", "console"}
# Every block, whatever its language: the end of one must not be taken for the start of another.
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One shell command of a README.

    Args:
        path: The README.
        line: Where it starts.
        words: Its words, without leading assignments and without what follows a pipe.
    """

    path: Path
    line: int
    words: list[str]


def check_headings(root: Path) -> list[str]:
    """The second-level headings of each paper's README are the agreed ones, in order."""
    problems: list[str] = []
    for paper in papers(root):
        path = paper.folder / "README.md"
        text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        found = re.findall(r"^## (.+?) *$", text, flags=re.M)
        if found != HEADINGS:
            pairs = zip_longest(HEADINGS, found)
            wanted, got = next((want, have) for want, have in pairs if want != have)
            problems.append(problem(root, path, None, f"heading {wanted!r} expected, got {got!r}"))
    return problems


def check_commands(root: Path) -> list[str]:
    """Verbs, options, recipes and make targets that READMEs name exist."""
    known = {paper.name: paper for paper in papers(root)}
    paths = [root / "README.md", *(paper.folder / "README.md" for paper in known.values())]
    problems: list[str] = []
    for command in (c for path in paths if path.is_file() for c in commands(path)):
        words = command.words
        if words[:2] == ["uv", "run"] and len(words) > 2:
            wrong = _wrong_run(root, known, words[2:])
        elif words[0] == "make":
            wrong = _wrong_make(root, known, words[1:])
        else:
            continue
        if wrong:
            problems.append(problem(root, command.path, command.line, wrong))
    return problems


def commands(path: Path) -> Iterator[Command]:
    """Yield the commands of a README's shell blocks (a block with a language named is skipped)."""
    text = path.read_text(encoding="utf-8")
    for block in _FENCE.finditer(text):
        if block[1] not in SHELLS:
            continue
        line = text.count("\n", 0, block.start(2)) + 1
        for logical in re.split(r"(?<!\\)\n", block[2]):
            for words in _split(logical.replace("\\\n", " ").removeprefix("$ ")):
                yield Command(path, line, words)
            line += logical.count("\n") + 1


def _split(text: str) -> Iterator[list[str]]:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return  # printed output, not a command
    for part in re.split(r"\0(?:&&|;)\0", "\0".join(words)):
        kept = re.split(r"\0(?:\||>|2>)", part)[0].split("\0")
        while kept and re.fullmatch(r"[A-Z_]+=.*", kept[0]):
            kept.pop(0)
        if kept and kept[0]:
            yield kept


def _wrong_run(root: Path, known: dict[str, Member], words: list[str]) -> str | None:
    script, *rest = words
    if script not in known:
        return f"`uv run {script}` is no package of this workspace" if script != "python" else None
    if not rest or rest[0] in ("-h", "--help") or not known[script].option_names.is_file():
        return None
    options = stored_options(known[script])
    if rest[0] not in options:
        return f"{script} has no verb {rest[0]!r}"
    allowed = {*options[rest[0]], "help", "h"}
    for word in rest[1:]:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("--") and name not in allowed and not name.startswith("trainer."):
            return f"{script} {rest[0]} has no option --{name}"
    return _wrong_recipe(root, known[script], rest)


def _wrong_recipe(root: Path, paper: Member, words: list[str]) -> str | None:
    spread = [part for word in words for part in word.split("=", 1)]
    for option, value in pairwise(spread):
        shipped = paper.folder / "recipes" / f"{value}.yaml"
        if option == "--config" and "/" not in value and not value.endswith(".yaml"):
            if not shipped.is_file():
                return f"{paper.name} ships no recipe {value!r}"
        elif value.startswith("packages/") and not (root / value).exists():
            return f"{value} does not exist"
    return None


def _wrong_make(root: Path, known: dict[str, Member], words: list[str]) -> str | None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.M))
    patterns = re.findall(r"^([a-z][a-z-]*-)%:", makefile, flags=re.M)
    targets |= {pattern + name for pattern in patterns for name in [*known, "shared", "<name>"]}
    unknown = [word for word in words if "=" not in word and not word.startswith("-")]
    unknown = [word for word in unknown if word not in targets]
    return f"make has no target {unknown[0]!r}" if unknown else None
