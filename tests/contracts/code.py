"""What the syntax trees of the sources must not hold, and which metric names they may log."""

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from contracts.tree import members, parse, problem, python_files

METRIC = re.compile(r"(train|val|test|time|mem|\*)/[a-z0-9_*]+")
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLE_CALLS = {"load", "loads", "dump", "Unpickler", "Pickler", "open"}
MIN_NODES = 40  # smaller bodies are alike by nature: `return APP.main()`


def check_no_print(root: Path) -> list[str]:
    """Libraries log; they do not print."""
    return [
        problem(root, path, node.lineno, "print in a library: use logging or rich")
        for member in members(root)
        for path in python_files(member.folder / "src")
        for node in _calls(path)
        if isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def check_no_pickle(root: Path) -> list[str]:
    """Nothing unpickles or stores pickles; `weights_only=True`; `allow_pickle` never true.

    A line that ruff has been told about (`noqa: S301`) is accepted.
    """
    problems: list[str] = []
    for member in members(root):
        for path in python_files(member.folder / "src", member.folder / "benchmarks"):
            lines = path.read_text(encoding="utf-8").splitlines()
            nodes = (n for n in ast.walk(parse(path)) if isinstance(n, ast.stmt | ast.Call))
            found = (
                (node, _unpickles(node))
                for node in nodes
                if "noqa: S301" not in lines[node.lineno - 1]
            )
            problems += [problem(root, path, node.lineno, what) for node, what in found if what]
    return problems


def check_metric_names(root: Path) -> list[str]:
    """`self.log` and `self.log_dict` use `train/ val/ test/ time/ mem/` and lower case."""
    problems: list[str] = []
    for member in members(root):
        for path in python_files(member.folder / "src"):
            for line, name in logged_names(path):
                if not METRIC.fullmatch(name):
                    what = (
                        f"metric {name!r} must be train/, val/, test/, time/ or mem/ and [a-z0-9_]"
                    )
                    problems.append(problem(root, path, line, what))
    return problems


def check_duplicates(root: Path) -> list[str]:
    """No function body occurs in two members: what two papers need belongs to tenfold."""
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for member in members(root):
        for path in python_files(member.folder / "src"):
            for function in ast.walk(parse(path)):
                if isinstance(function, ast.FunctionDef) and (key := body_hash(function)):
                    place = problem(root, path, function.lineno, function.name)
                    places[key].append((member.name, place))
    return [
        f"{found[0][1]}: same body as {', '.join(place for _, place in found[1:])}"
        for found in places.values()
        if len({name for name, _ in found}) > 1
    ]


def logged_names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every logged metric; formatted parts of a name become `*`."""
    for node in _calls(path):
        if not (isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self"):
            continue
        if node.func.attr == "log" and node.args:
            names: list[ast.expr | None] = [node.args[0]]
        elif node.func.attr == "log_dict" and node.args and isinstance(node.args[0], ast.Dict):
            names = list(node.args[0].keys)
        elif node.func.attr == "log_dict" and node.args and isinstance(node.args[0], ast.DictComp):
            names = [node.args[0].key]
        else:
            continue
        yield from ((node.lineno, text) for name in names if (text := _text(name)))


def body_hash(function: ast.FunctionDef) -> str | None:
    """Hash a function's statements without docstring and places; `None` for a small body."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if sum(1 for statement in body for _ in ast.walk(statement)) < MIN_NODES:
        return None
    dump = "\n".join(ast.dump(statement) for statement in body)
    return hashlib.sha256(dump.encode()).hexdigest()


def _calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(parse(path)) if isinstance(node, ast.Call))


def _text(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "*" for p in node.values)
        return "".join(map(str, parts))
    return None


def _unpickles(node: ast.AST) -> str | None:
    if isinstance(node, ast.ImportFrom):
        found = PICKLE_CALLS.intersection(alias.name for alias in node.names)
        return f"imports {node.module}.{min(found)}" if found and node.module in PICKLES else None
    if not isinstance(node, ast.Call):
        return None
    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
    if options.get("allow_pickle", "False") != "False":
        return "allow_pickle must be False"
    module, _, name = ast.unparse(node.func).rpartition(".")
    if module in PICKLES and name in PICKLE_CALLS:
        return f"calls {module}.{name}"
    if module == "torch" and name == "load" and options.get("weights_only") != "True":
        return "torch.load needs weights_only=True"
    return None
