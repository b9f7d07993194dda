"""The repository as the contract checks see it: members, their files, parsed sources.

Every check is a function from a root folder to a list of problems (`"path:line: what is wrong"`),
so that it runs on the repository and on small bad trees alike.
"""

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

NOT_OURS = {".git", ".venv", ".uv", "build", "dist", "runs", "data", "__pycache__"}


@dataclass(frozen=True)
class Member:
    """One workspace member: `tenfold` in `shared/`, or a paper in `packages/<name>/`.

    Args:
        folder: The folder that holds its `pyproject.toml`.
        name: Its distribution name, kebab-case.
    """

    folder: Path
    name: str

    @property
    def import_name(self) -> str:
        """The name that Python code imports."""
        return self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        """The import package's folder."""
        return self.folder / "src" / self.import_name

    @property
    def option_names(self) -> Path:
        """The stored option names of every verb."""
        return self.folder / "tests" / "option_names.json"

    def pyproject(self) -> dict[str, Any]:
        """Return the parsed `pyproject.toml`."""
        return tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))


def papers(root: Path) -> list[Member]:
    """Return the members below `packages/`, sorted by name."""
    folders = sorted(path.parent for path in root.glob("packages/*/pyproject.toml"))
    return [Member(folder, folder.name) for folder in folders]


def members(root: Path) -> list[Member]:
    """Return `tenfold` (where the root has it) and the papers."""
    shared = root / "shared"
    return [Member(shared, "tenfold")] * shared.is_dir() + papers(root)


def python_files(*folders: Path) -> Iterator[Path]:
    """Yield the Python files below each folder, sorted."""
    for folder in folders:
        yield from sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def repository_files(root: Path) -> list[Path]:
    """Return what is or would be committed: git's answer, else every file outside build folders."""
    call = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
    if (root / ".git").exists():
        names = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split("\0")
        files = [root / name for name in names if name]
    else:
        files = [p for p in root.rglob("*") if NOT_OURS.isdisjoint(p.relative_to(root).parts)]
    return sorted(path for path in files if path.is_file())


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return _parse(path, path.stat().st_mtime_ns)


@cache
def _parse(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def problem(root: Path, path: Path, line: int | None, what: str) -> str:
    """Word one problem with the place where it stands."""
    place = path.relative_to(root).as_posix()
    return f"{place}:{line}: {what}" if line else f"{place}: {what}"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full module name of every absolute import, nested ones included."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
