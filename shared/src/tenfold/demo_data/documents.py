"""Real documents of heavy-tailed length: docstrings and source files of installed libraries.

A corpus is bound to the installed versions (see `fingerprint`). Its split is made by the CRC32 of
the file's path below site-packages, so that the documents of one file never straddle it.
"""

import ast
import json
import tokenize
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, get_args

from tenfold import atomic
from tenfold.demo_data import libraries as installed
from tenfold.demo_data.cache import Recipe, fetch, progress

Kind = Literal["docstrings", "sources"]
Split = Literal["train", "heldout", "all"]

LIBRARIES: dict[str, tuple[str, ...]] = {
    "docstrings": ("scikit-learn", "scipy", "numpy", "networkx", "scikit-image"),
    "sources": (
        "torch",
        "matplotlib",
        "scikit-learn",
        "scipy",
        "numpy",
        "networkx",
        "scikit-image",
    ),
}

_BUILDER_VERSION = 1
_HELD_OUT_ONE_IN = 20


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        path: File below site-packages, with forward slashes.
        name: Dotted name of the module, class or function.
        text: The docstring (indentation cleaned) or the whole file.
    """

    path: str
    name: str
    text: str


def load(
    kind: Kind = "docstrings", split: Split = "train", *, libraries: Sequence[str] | None = None
) -> list[Document]:
    """Return a corpus in a fixed order (library, path, place in the file), without duplicate texts.

    `docstrings` are parsed once and then come from the cache; `sources` are read where they lie.
    Files in folders named `tests` are left out.

    Args:
        kind: What a document is.
        split: `train` (95 % of the files), `heldout` (5 %) or `all`.
        libraries: Distributions to read instead of `LIBRARIES[kind]`.

    Raises:
        FileNotFoundError: One of the libraries is not installed.
        ValueError: `kind` or `split` is unknown, or no library is named.
    """
    _choice("kind", kind, get_args(Kind))
    _choice("split", split, get_args(Split))
    names = _library_names(kind, libraries)
    if kind == "sources":
        documents = list(_sources(names))
    else:
        documents, _ = fetch(
            _recipe(kind, names),
            build=lambda file: _write_lines(file, _docstrings(names)),
            read=_read_lines,
        )
    return [document for document in documents if split in ("all", split_of(document.path))]


def split_of(path: str) -> Literal["train", "heldout"]:
    """Return the split of a file, given its path below site-packages."""
    return "heldout" if zlib.crc32(path.encode()) % _HELD_OUT_ONE_IN == 0 else "train"


def fingerprint(kind: Kind = "docstrings", *, libraries: Sequence[str] | None = None) -> str:
    """Return a hex SHA-256 that changes with the libraries' versions and with the extraction."""
    _choice("kind", kind, get_args(Kind))
    return _recipe(kind, _library_names(kind, libraries)).fingerprint()


def write_jsonl(
    path: Path | str,
    *,
    kind: Kind = "docstrings",
    split: Split = "train",
    libraries: Sequence[str] | None = None,
) -> int:
    """Write a corpus atomically as JSON lines (`path`, `name`, `text`); return the documents."""
    documents = load(kind, split, libraries=libraries)
    with atomic.open_atomic(path) as file:
        _write_lines(file, documents)
    return len(documents)


def _recipe(kind: str, names: tuple[str, ...]) -> Recipe:
    return Recipe(
        name=f"documents-{kind}",
        file_name="documents.jsonl",
        version=_BUILDER_VERSION,
        libraries=names,
        parameters={"order": list(names)},
    )


def _docstrings(names: Sequence[str]) -> Iterator[Document]:
    seen: set[str] = set()
    files = list(_files(names))
    for path, relative in progress(files, total=len(files), title="extracting docstrings"):
        with warnings.catch_warnings():
            # Invalid escapes in other people's sources (a SyntaxWarning from Python 3.12 on).
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(_text(path))
        for name, text in _walk(tree, _module_name(relative)):
            if text not in seen:
                seen.add(text)
                yield Document(relative, name, text)


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}")
        else:
            yield from _walk(child, name)


def _sources(names: Sequence[str]) -> Iterator[Document]:
    seen: set[str] = set()
    for path, relative in _files(names):
        text = _text(path)
        if text.strip() and text not in seen:
            seen.add(text)
            yield Document(relative, _module_name(relative), text)


def _files(names: Sequence[str]) -> Iterator[tuple[Path, str]]:
    for library in names:
        folder = installed.folder(library)
        relative = {
            path: path.relative_to(folder.parent).as_posix() for path in folder.rglob("*.py")
        }
        for path in sorted(relative, key=relative.__getitem__):
            if "tests" not in Path(relative[path]).parts:
                yield path, relative[path]


def _text(path: Path) -> str:
    # Honours the encoding that a source file declares.
    with tokenize.open(path) as file:
        return file.read()


def _module_name(relative: str) -> str:
    return relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _write_lines(file: IO[bytes], documents: Iterator[Document] | list[Document]) -> None:
    for document in documents:
        file.write(json.dumps(asdict(document), ensure_ascii=False).encode() + b"\n")


def _read_lines(path: Path) -> list[Document]:
    with path.open("rb") as file:
        return [Document(**json.loads(line)) for line in file]


def _library_names(kind: str, libraries: Sequence[str] | None) -> tuple[str, ...]:
    names = LIBRARIES[kind] if libraries is None else tuple(libraries)
    if not names:
        raise ValueError("libraries is empty: name at least one, e.g. 'numpy', or leave it out")
    return names


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
