"""Who may import whom: papers, tenfold, third parties, and the files with narrow duties."""

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

from contracts.tree import Member, imports, members, papers, problem, python_files

# `model.py` knows no training framework and no files.
NOT_IN_MODEL = {"lightning", "pytorch_lightning", "pathlib", "os", "io", "shutil", "tempfile"}


def check_neighbours(root: Path) -> list[str]:
    """Papers import neither each other nor are they imported by tenfold."""
    names = {paper.import_name for paper in papers(root)}
    problems: list[str] = []
    for member in members(root):
        foreign = names - {member.import_name}
        for path in python_files(member.folder):
            problems += [
                problem(root, path, line, f"{member.name} imports the paper {top(module)}")
                for line, module in imports(path)
                if top(module) in foreign
            ]
    return problems


def check_declared(root: Path) -> list[str]:
    """Every third-party import stands in the member's own pyproject, as dependency or extra."""
    problems: list[str] = []
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    development = distribution_names(project["dependency-groups"]["dev"])
    for member in members(root):
        declared = declared_distributions(member)
        for path in python_files(member.folder):
            in_tests = path.is_relative_to(member.folder / "tests")
            allowed = declared | (development if in_tests else set())
            local = local_modules(member, path)
            problems += [
                problem(
                    root, path, line, f"import {module}: {name} is not in {member.name}'s pyproject"
                )
                for line, module in imports(path)
                if (name := distribution(top(module), allowed)) not in allowed
                and top(module) not in sys.stdlib_module_names
                and top(module) not in local
            ]
    return problems


def check_config_imports(root: Path) -> list[str]:
    """`config.py` imports the standard library only."""
    return [
        problem(root, path, line, f"config.py imports {module}, not of the standard library")
        for path in _files_named(root, "config.py")
        for line, module in imports(path)
        if top(module) not in sys.stdlib_module_names
    ]


def check_model_imports(root: Path) -> list[str]:
    """`model.py` imports no training framework and nothing that reads files."""
    return [
        problem(root, path, line, f"model.py imports {module}")
        for path in _files_named(root, "model.py")
        for line, module in imports(path)
        if top(module) in NOT_IN_MODEL
    ]


def check_losses_imports(root: Path) -> list[str]:
    """`losses.py` knows no data."""
    return [
        problem(root, path, line, f"losses.py imports {module}")
        for path in _files_named(root, "losses.py")
        for line, module in imports(path)
        if module.endswith(".data") or module in ("webdataset", "tenfold.shards")
    ]


def top(module: str) -> str:
    """Return the first part of a dotted module name."""
    return module.partition(".")[0]


def distribution(module: str, preferred: Iterable[str]) -> str:
    """Return the distribution that ships `module`, one of `preferred` if several do."""
    names = {normalise(name) for name in _distributions().get(module, [module])}
    return next(iter(sorted(names & set(preferred)) or sorted(names)))


def declared_distributions(member: Member) -> set[str]:
    """Return the normalised names of a member's dependencies, extras and itself."""
    project = member.pyproject()["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project.get("dependencies", []), *(r for extra in extras for r in extra)]
    return distribution_names(requirements) | {member.name}


def local_modules(member: Member, path: Path) -> set[str]:
    """Return what is the member's own: its package, and for tests what lies in their folder."""
    tests = member.folder / "tests"
    inside = tests.rglob("*") if path.is_relative_to(tests) else ()
    return {member.import_name} | {other.stem for other in inside}


def distribution_names(requirements: Iterable[str]) -> set[str]:
    """Return the normalised names of requirements such as `ray[default]>=2`."""
    found = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
    return {normalise(match[0]) for match in found if match}


def normalise(name: str) -> str:
    """Return a distribution name in its canonical spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _files_named(root: Path, name: str) -> list[Path]:
    return [p for m in papers(root) for p in python_files(m.folder / "src") if p.name == name]
