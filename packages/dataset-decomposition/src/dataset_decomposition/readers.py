"""Stream documents out of input files, and name what could not be read.

JSON Lines, Parquet and plain text, each plain or compressed (gzip, Zstandard). Nothing is dropped
in silence: whatever is not a usable text comes out as a `BadDocument` with its kind and place.
Memory is one line or one Parquet batch.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from dataset_decomposition.inputs import Source, demo_selection

CHUNK_BYTES = 1 << 20
PARQUET_ROWS = 512

BadKind = Literal[
    "blank_line",
    "corrupt_file",
    "empty_text",
    "invalid_json",
    "invalid_utf8",
    "missing_text",
    "not_string",
    "truncated_file",
]


class TextDocument(NamedTuple):
    """A document and where it stands (`file:line`, or the file's name alone)."""

    text: str
    place: str


class BadDocument(NamedTuple):
    """What could not be used as a document, why, and where it stands."""

    kind: BadKind
    place: str


class _DamagedError(Exception):
    """A compressed stream ends early or is not one."""

    def __init__(self, kind: Literal["truncated_file", "corrupt_file"]) -> None:
        super().__init__(kind)
        self.kind: Literal["truncated_file", "corrupt_file"] = kind


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def read_documents(
    source: Source, *, text_key: str = "text"
) -> Iterator[TextDocument | BadDocument]:
    """Yield the documents of `source` in file order, each good or bad.

    A truncated or corrupt compressed file yields what stands before the damage and then one
    `BadDocument`.

    Raises:
        ValueError: A Parquet file has no column `text_key`.
        OSError: The file cannot be opened.
    """
    path = Path(source.path)
    match source.kind:
        case "demo":
            return (check_text(text, source.name) for text in demo_documents(source.path))
        case "parquet":
            return _parquet_documents(path, text_key)
        case "jsonl":
            return _json_documents(path, text_key)
        case "text":
            return iter([_text_document(path)])


def demo_documents(name: str) -> list[str]:
    """Return the texts that a `demo:documents...` name selects."""
    from tenfold.demo_data import documents

    kind, split = demo_selection(name)
    match split:
        case "train":
            found = documents.load(kind, "train")
        case "heldout":
            found = documents.load(kind, "heldout")
        case _:
            found = documents.load(kind, "all")
    return [document.text for document in found]


def _json_documents(path: Path, text_key: str) -> Iterator[TextDocument | BadDocument]:
    number = 0
    try:
        for number, line in enumerate(_lines(_chunks(path)), start=1):
            place = f"{path}:{number}"
            record = _parse_line(line)
            if isinstance(record, str):
                yield BadDocument(record, place)
            else:
                yield check_text(record.get(text_key), place)
    except _DamagedError as damage:
        yield BadDocument(damage.kind, f"{path}:{number + 1}")


def _parse_line(
    line: bytes,
) -> dict[str, Any] | Literal["blank_line", "invalid_utf8", "invalid_json"]:
    if not line.strip():
        return "blank_line"
    try:
        # json.loads on bytes would guess UTF-16 and UTF-32 too.
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "invalid_utf8"
    except (json.JSONDecodeError, RecursionError):
        return "invalid_json"
    return record if isinstance(record, dict) else "invalid_json"


def check_text(value: object, place: str) -> TextDocument | BadDocument:
    """Accept a non-empty string that can be written as UTF-8."""
    if value is None:
        return BadDocument("missing_text", place)
    if not isinstance(value, str):
        return BadDocument("not_string", place)
    if not value:
        return BadDocument("empty_text", place)
    try:
        value.encode()
    except UnicodeEncodeError:
        # JSON can escape half a surrogate pair, which no tokenizer accepts.
        return BadDocument("invalid_utf8", place)
    return TextDocument(value, place)


def _text_document(path: Path) -> TextDocument | BadDocument:
    try:
        content = b"".join(_chunks(path))
    except _DamagedError as damage:
        return BadDocument(damage.kind, str(path))
    try:
        return check_text(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return BadDocument("invalid_utf8", f"{path}:{line}")


def _parquet_documents(path: Path, text_key: str) -> Iterator[TextDocument | BadDocument]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow.names, text_key)
            for batch in file.iter_batches(PARQUET_ROWS, columns=[text_key], use_threads=False):
                for value in batch.column(0):
                    number += 1
                    yield _parquet_text(value, f"{path}:row {number}")
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's or the user's trouble, not the file's content
        yield BadDocument("corrupt_file", f"{path}:row {number + 1}")


def _check_column(path: Path, columns: list[str], text_key: str) -> None:
    if text_key not in columns:
        raise ValueError(
            f"{path} has no column {text_key!r}; name one of {', '.join(columns)} with --text_key"
        )


def check_text_column(source: Source, *, text_key: str) -> None:
    """Look into a Parquet file's header before the work begins; damage is counted later.

    Raises:
        ValueError: The file has no column `text_key`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        columns = parquet.read_schema(source.path).names
    except (pa.ArrowInvalid, OSError):
        return
    _check_column(Path(source.path), columns, text_key)


def _parquet_text(value: Any, place: str) -> TextDocument | BadDocument:
    try:
        found = value.as_py()
        return check_text(found.decode() if isinstance(found, bytes) else found, place)
    except UnicodeDecodeError:
        return BadDocument("invalid_utf8", place)


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's decompressed content; what precedes any damage comes out before the error."""
    with path.open("rb") as file:
        stored = iter(lambda: file.read(CHUNK_BYTES), b"")
        match path.suffix.lower():
            case ".gz":
                yield from _decompress(stored, gzipped=True)
            case ".zst":
                yield from _decompress(stored, gzipped=False)
            case _:
                yield from stored


def _decompress(stored: Iterable[bytes], *, gzipped: bool) -> Iterator[bytes]:
    """Undo compression, member after member.

    The stream readers of gzip and zstandard are not used: the former loses what it read in the call
    that meets the damage, the latter takes a truncated file for a short one.
    """
    import zstandard

    current: _Decompressor | None = None
    try:
        for chunk in stored:
            rest = chunk
            while rest:
                if current is None:
                    current = _new_decompressor(gzipped=gzipped)
                yield current.decompress(rest)
                rest = b""
                if current.eof:
                    # gzip files may be padded with zero bytes.
                    rest = current.unused_data.lstrip(b"\0") if gzipped else current.unused_data
                    current = None
    except (zlib.error, zstandard.ZstdError):
        raise _DamagedError("corrupt_file") from None
    if current is not None:
        raise _DamagedError("truncated_file")


def _new_decompressor(*, gzipped: bool) -> _Decompressor:
    import zstandard

    if gzipped:
        return zlib.decompressobj(wbits=31)
    # Files written with `zstd --long` need windows beyond the default limit.
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split into lines without their newline; linear also when one line spans many chunks."""
    parts: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        parts.append(first)
        if others:
            yield b"".join(parts)
            yield from others[:-1]
            parts = [others[-1]]
    if last := b"".join(parts):
        yield last
