"""Which files there may be, how long, and what no committed text may say."""

import re
from pathlib import Path

from contracts.tree import members, papers, problem, python_files, repository_files

MAX_LINES = 400
EMPTY_NAMES = {"utils.py", "common.py", "helpers.py", "misc.py"}
BINARY = {
    ".pt",
    ".pth",
    ".ckpt",
    ".safetensors",
    ".npy",
    ".npz",
    ".tar",
    ".parquet",
    ".onnx",
    ".pkl",
}
RECIPE_NAME = re.compile(r"[a-z0-9]+([_.-][a-z0-9]+)*\.yaml")
# Put together so that this file does not say them itself.
_FOLDERS = "|".join(["work", "root", "tmp", "home", "Users"])
MACHINE_PATH = re.compile(rf"(?<![\w.$}}\])*-])/(?:{_FOLDERS})/[\w.]")
REGISTRY_HOST = re.compile(
    "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "anaconda" + r"\.org"])
)


def check_file_names(root: Path) -> list[str]:
    """No file whose name says nothing, no `_v2`, no notebook, no data or weights."""
    problems: list[str] = []
    for path in repository_files(root):
        if path.name in EMPTY_NAMES:
            problems.append(problem(root, path, None, "name the idea, not a drawer"))
        elif re.search(r"_v\d+\.py$", path.name):
            problems.append(problem(root, path, None, "replace the old version instead"))
        elif path.suffix == ".ipynb" or path.suffix in BINARY:
            problems.append(problem(root, path, None, f"{path.suffix} files do not belong in git"))
        elif path.name == "__init__.py" and _holds_tests(path.parent):
            problems.append(problem(root, path, None, "tests are no package (importlib mode)"))
    return problems


def _holds_tests(folder: Path) -> bool:
    return folder.name == "tests" or any(folder.glob("test_*.py"))


def check_file_sizes(root: Path) -> list[str]:
    """No Python file is longer than 400 lines."""
    problems: list[str] = []
    for path in python_files(
        *(member.folder for member in members(root)), root / "scripts", root / "tests"
    ):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            problems.append(
                problem(root, path, None, f"{lines} lines, more than {MAX_LINES}: split by idea")
            )
    return problems


def check_recipes(root: Path) -> list[str]:
    """Each paper ships `tiny_cpu` and `h200`; each recipe starts with a comment line."""
    problems: list[str] = []
    for paper in papers(root):
        folder = paper.folder / "recipes"
        missing = [name for name in ("tiny_cpu.yaml", "h200.yaml") if not (folder / name).is_file()]
        problems += [problem(root, folder, None, f"{name} is missing") for name in missing]
        for path in sorted(folder.rglob("*.y*ml")):
            if not path.read_text(encoding="utf-8").startswith("# "):
                problems.append(
                    problem(root, path, 1, "the first line must be a comment: what it trains")
                )
            if not RECIPE_NAME.fullmatch(path.name):
                problems.append(
                    problem(root, path, None, "name it <model>_<data>[_<variant>].yaml")
                )
    return problems


def check_texts(root: Path) -> list[str]:
    """No committed text names a folder of somebody's machine or a package registry's host."""
    problems: list[str] = []
    for path in repository_files(root):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # an image
        for number, line in enumerate(lines, start=1):
            if match := MACHINE_PATH.search(line) or REGISTRY_HOST.search(line):
                problems.append(problem(root, path, number, f"names {match[0]!r}"))
    return problems
