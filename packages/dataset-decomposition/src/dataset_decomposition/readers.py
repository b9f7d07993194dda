"""Stream documents out of input files, and name what could not be read.

JSON Lines, Parquet and plain text, each plain or compressed (gzip, Zstandard), and tars of JSON
Lines. Nothing is dropped in silence: whatever is not a usable text comes out as a `BadDocument`
with its kind and place. Memory is one line or one Parquet batch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset_decomposition.decompression import DamagedError, file_chunks
from dataset_decomposition.documents import BadDocument, TextDocument, check_text
from dataset_decomposition.inputs import Source, demo_selection
from dataset_decomposition.json_lines import json_documents
from dataset_decomposition.tar_reader import tar_documents

PARQUET_ROWS = 512


def read_documents(
    source: Source, *, text_key: str = "text"
) -> Iterator[TextDocument | BadDocument]:
    """Yield the documents of `source` in file order, each good or bad.

    A truncated or corrupt compressed file yields what stands before the damage and then one
    `BadDocument`.

    Raises:
        ValueError: A Parquet file has no column `text_key`, or a tar is truncated or damaged.
        OSError: The file cannot be opened.
    """
    path = Path(source.path)
    match source.kind:
        case "demo":
            return (check_text(text, source.name) for text in demo_documents(source.path))
        case "parquet":
            return _parquet_documents(path, text_key)
        case "jsonl":
            return json_documents(file_chunks(path), str(path), text_key=text_key)
        case "tar":
            return tar_documents(path, text_key=text_key)
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


def _text_document(path: Path) -> TextDocument | BadDocument:
    try:
        content = b"".join(file_chunks(path))
    except DamagedError as damage:
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
