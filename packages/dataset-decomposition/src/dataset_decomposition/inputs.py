"""What the user named as input, as a list of files in a fixed order, and its split into tasks.

A source's name is its path below the common folder of all inputs: random streams hang on it, so the
same corpus gives the same bytes wherever it is stored. The split into tasks depends on file sizes
only, never on the number of workers.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

DEMO = "demo:documents"
Kind = Literal["jsonl", "parquet", "text", "demo"]

COMPRESSIONS = (".gz", ".zst")
_JSON_LINES = (".jsonl", ".ndjson", ".json")
_PARQUET = (".parquet", ".pq")
_GLOB_MARKS = frozenset("*?[")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One input file, or one part of the demo documents.

    Attributes:
        path: Absolute path, or the `demo:` name as given.
        name: Path below the common folder of the inputs; the key of its random streams.
        kind: How documents are read from it.
        size: Bytes.
        version: Changes when the content does.
    """

    path: str
    name: str
    kind: Kind
    size: int
    version: str

    @property
    def identity(self) -> list[str | int]:
        """What must stay the same for finished work on this source to stay valid."""
        return [self.name, self.size, self.version]


def find_sources(inputs: Sequence[str], *, stdin: TextIO | None = None) -> list[Source]:
    """Resolve paths, globs, folders, lists and demo names into sources, each file once.

    Args:
        inputs: File or folder paths, globs, `@list.txt` (one input a line), `-` (such a list on
            standard input) or `demo:documents[/docstrings|/sources][/train|/heldout]`.
        stdin: Where `-` reads; standard input by default.

    Raises:
        ValueError: An input matches nothing, or a list holds a list.
        FileNotFoundError: A list file is missing.
    """
    names = list(_expand_lists(inputs, stdin or sys.stdin))
    if not names:
        raise ValueError("no inputs were named; give files, globs, folders or demo:documents")
    demos = [name for name in names if name.startswith("demo:")]
    named = [path for name in names if name not in demos for path in _expand_path(name)]
    files = list(dict.fromkeys(path.resolve() for path in named))
    if len(files) < len(named):
        _log.warning(
            "%d inputs were named more than once; each is used once", len(named) - len(files)
        )
    return _file_sources(files) + [_demo_source(name) for name in dict.fromkeys(demos)]


def _expand_lists(inputs: Iterable[str], stdin: TextIO) -> Iterator[str]:
    for item in inputs:
        if item == "-":
            lines = stdin.read().splitlines()
        elif item.startswith("@"):
            lines = Path(item[1:]).expanduser().read_text(encoding="utf-8").splitlines()
        else:
            yield item
            continue
        for line in filter(None, map(str.strip, lines)):
            if line == "-" or line.startswith("@"):
                raise ValueError(f"the list {item} names another list, {line!r}; lists do not nest")
            yield line


def _expand_path(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.exists():
        return _files_below(path)
    magic = next((i for i, part in enumerate(path.parts) if _GLOB_MARKS & set(part)), None)
    if magic is None:
        raise ValueError(f"no such input: {name}")
    base = Path(*path.parts[:magic])
    matches = sorted(base.glob(str(Path(*path.parts[magic:])))) if base.is_dir() else []
    found = [file for match in matches for file in _files_below(match)]
    if not found:
        raise ValueError(f"no input matches {name}")
    return found


def _files_below(path: Path) -> list[Path]:
    """Return a file itself, or a folder's files, hidden ones and Python caches left out."""
    if not path.is_dir():
        return [path]
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(_is_hidden(part) for part in file.relative_to(path).parts)
    ]
    if not files:
        raise ValueError(f"the input folder {path} holds no files")
    return files


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"


def _file_sources(files: list[Path]) -> list[Source]:
    if not files:
        return []
    common = Path(os.path.commonpath([file.parent for file in files]))
    return [_file_source(file, common) for file in files]


def _file_source(file: Path, common: Path) -> Source:
    status = file.stat()
    return Source(
        path=str(file),
        name=file.relative_to(common).as_posix(),
        kind=_kind(file),
        size=status.st_size,
        version=str(status.st_mtime_ns),
    )


def _kind(file: Path) -> Kind:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last in _JSON_LINES:
        return "jsonl"
    return "parquet" if last in _PARQUET else "text"


def demo_selection(name: str) -> tuple[Literal["docstrings", "sources"], str]:
    """Split a demo name into the kind of documents and the split.

    Raises:
        ValueError: It is not `demo:documents[/docstrings|/sources][/train|/heldout]`.
    """
    parts = name.removeprefix(DEMO).split("/")[1:] if name.startswith(DEMO) else [name]
    kind: Literal["docstrings", "sources"] = "docstrings"
    if parts and parts[0] in ("docstrings", "sources"):
        kind = "sources" if parts.pop(0) == "sources" else "docstrings"
    split = parts.pop(0) if parts and parts[0] in ("train", "heldout") else "all"
    if parts or name.removeprefix(DEMO)[:1] not in ("", "/"):
        raise ValueError(
            f"no such demo data: {name!r}; expected {DEMO}[/docstrings|/sources][/train|/heldout]"
        )
    return kind, split


def _demo_source(name: str) -> Source:
    from dataset_decomposition.readers import demo_documents

    texts = [text.encode() for text in demo_documents(name)]
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text).digest())
    return Source(name, name, "demo", sum(map(len, texts)), digest.hexdigest())


def group_sources(sources: Sequence[Source], *, task_bytes: int) -> list[tuple[Source, ...]]:
    """Group neighbouring files up to `task_bytes`; a bigger file is a task of its own."""
    groups: list[list[Source]] = []
    size = 0
    for source in sources:
        if not groups or size + source.size > task_bytes:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.size
    return [tuple(group) for group in groups]
