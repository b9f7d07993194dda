"""What the user named as input, as a list of files in a fixed order, and its split into tasks.

A source's name is its path below the common folder of all inputs: random streams hang on it, so the
same corpus gives the same bytes wherever it is stored. The split into tasks depends on file sizes
only, never on the number of workers.

A file is told from a changed one by name, size and content, of large files by both ends. The time
of the last change is left out on purpose: a corpus that was copied, checked out again or touched is
the same corpus. What escapes is a change in the middle of a large file that keeps its size;
compressed files and Parquet show theirs at the end.
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
Kind = Literal["jsonl", "parquet", "tar", "text", "demo"]

COMPRESSIONS = (".gz", ".zst")
_JSON_LINES = (".jsonl", ".ndjson", ".json")
_PARQUET = (".parquet", ".pq")
_GLOB_MARKS = frozenset("*?[")
_VERSION_DIGITS = 32
_HASHED_WHOLE = 1 << 20
_HASHED_END = 1 << 16
"""Files of up to `_HASHED_WHOLE` bytes are hashed whole, of larger ones so much at either end."""

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
    def identity(self) -> str:
        """What must stay the same for finished work on this source to stay valid, the name last."""
        return f"{self.version} {self.size} {self.name}"


def find_sources(inputs: Sequence[str], *, stdin: TextIO | None = None) -> list[Source]:
    """Resolve paths, globs, folders, lists and demo names into sources, each file once.

    Args:
        inputs: File or folder paths, globs, `@list.txt` (one input a line), `-` (such a list on
            standard input) or `demo:documents[/docstrings|/sources][/train|/heldout]`.
        stdin: Where `-` reads; standard input by default.

    Raises:
        ValueError: A name is empty, an input matches nothing or cannot be read, or a list holds a
            list.
        FileNotFoundError: A list file is missing.
    """
    names = list(_expand_lists(inputs, stdin or sys.stdin))
    if not names:
        raise ValueError("no inputs were named; give files, globs, folders or demo:documents")
    if not all(map(str.strip, names)):
        raise ValueError(
            "an input has the empty name '', as an unset shell variable gives; name files, globs, "
            "folders (. is the current one) or demo:documents"
        )
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
            if line.startswith("{"):
                raise ValueError(
                    f"the list {item} holds a document, {line[:40]!r}, where the name of an input "
                    "is expected; write the documents to a .jsonl file and name that"
                )
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
        if file.is_file() and not any(is_hidden(part) for part in file.relative_to(path).parts)
    ]
    if not files:
        raise ValueError(f"the input folder {path} holds no files")
    return files


def is_hidden(part: str) -> bool:
    """Tell whether a part of a path is left out of folders and tars."""
    return part.startswith(".") or part == "__pycache__"


def _file_sources(files: list[Path]) -> list[Source]:
    if not files:
        return []
    common = Path(os.path.commonpath([file.parent for file in files]))
    return [_file_source(file, common) for file in files]


def _file_source(file: Path, common: Path) -> Source:
    if not file.is_file():
        raise ValueError(f"the input {file} is no regular file; write its content to one first")
    try:
        size = file.stat().st_size
        version = _version(file, size)
    except OSError as error:
        raise ValueError(f"cannot read the input {file}: {error.strerror}") from error
    return Source(
        path=str(file),
        name=file.relative_to(common).as_posix(),
        kind=_kind(file),
        size=size,
        version=version,
    )


def _version(path: Path, size: int) -> str:
    """Hash a file, or both ends of a large one."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE:
            digest.update(file.read())
        else:
            digest.update(file.read(_HASHED_END))
            file.seek(size - _HASHED_END)
            digest.update(file.read(_HASHED_END))
    return digest.hexdigest()[:_VERSION_DIGITS]


def _kind(file: Path) -> Kind:
    match _format_suffix(file.name):
        case ".tar":
            return "tar"
        case suffix if suffix in _PARQUET:
            return "parquet"
        case _:
            return "jsonl" if is_json_lines(file.name) else "text"


def is_json_lines(name: str) -> bool:
    """Tell by a file's name whether it is JSON Lines, compressed or not."""
    return _format_suffix(name) in _JSON_LINES


def _format_suffix(name: str) -> str:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


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
    return Source(name, name, "demo", sum(map(len, texts)), digest.hexdigest()[:_VERSION_DIGITS])


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
