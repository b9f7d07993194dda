"""Verbs: the common ones are there, their option names are stored, their code exists."""

import ast
import json
import re
from pathlib import Path

from contracts.tree import Member, papers, parse, problem

REQUIRED_VERBS = {"fit", "validate", "test", "predict", "recipes", "reproduce"}


def check_verbs(root: Path) -> list[str]:
    """Every paper has the common verbs, and its option names are stored."""
    problems: list[str] = []
    for paper in papers(root):
        if not paper.option_names.is_file():
            what = f"is missing; run `python scripts/option_names.py {paper.name}`"
            problems.append(problem(root, paper.option_names, None, what))
        elif missing := sorted(REQUIRED_VERBS - set(stored_options(paper))):
            problems.append(
                problem(root, paper.option_names, None, f"no verb {', '.join(missing)}")
            )
    return problems


def check_verb_targets(root: Path) -> list[str]:
    """Every `"package.module:name"` in a `cli.py` names a function or class that exists."""
    problems: list[str] = []
    for paper in papers(root):
        path = paper.source / "cli.py"
        if not path.is_file():
            problems.append(problem(root, path, None, "is missing"))
            continue
        for node in ast.walk(parse(path)):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            is_target = re.fullmatch(r"[a-z_][\w.]*:[A-Za-z_]\w*", node.value)
            if is_target and not _defines(root, paper.folder / "src", node.value):
                problems.append(problem(root, path, node.lineno, f"{node.value} does not exist"))
    return problems


def stored_options(paper: Member) -> dict[str, list[str]]:
    """Return the stored option names, verb to names."""
    return json.loads(paper.option_names.read_text(encoding="utf-8"))


def _defines(root: Path, source: Path, target: str) -> bool:
    module, _, name = target.partition(":")
    relative = Path(*module.split("."))
    for base in (source, root / "shared" / "src"):
        for path in ((base / relative).with_suffix(".py"), base / relative / "__init__.py"):
            if path.is_file():
                defined = (
                    n for n in parse(path).body if isinstance(n, ast.FunctionDef | ast.ClassDef)
                )
                return any(node.name == name for node in defined)
    return False
