"""Documents of JSON Lines, and of a file that is one indented JSON object."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from dataset_decomposition.decompression import DamagedError, lines
from dataset_decomposition.documents import BadDocument, TextDocument, check_text

_Record = dict[str, Any] | Literal["blank_line", "invalid_utf8", "invalid_json"]


def json_documents(
    chunks: Iterable[bytes], name: str, *, text_key: str
) -> Iterator[TextDocument | BadDocument]:
    """Yield the documents of a JSON Lines stream, each with its place `name:line`.

    A stream whose first line is a lone `{`, as no JSON Lines have it, may also be one object over
    several lines. A damaged stream ends in one `BadDocument`.
    """
    number = 0
    try:
        for number, record in enumerate(_records(lines(chunks)), start=1):
            place = f"{name}:{number}"
            if isinstance(record, str):
                yield BadDocument(record, place)
            else:
                yield check_text(record.get(text_key), place)
    except DamagedError as damage:
        yield BadDocument(damage.kind, f"{name}:{number + 1}")


def _records(found: Iterator[bytes]) -> Iterator[_Record]:
    first = next(found, None)
    if first is None:
        return
    if first.strip() == b"{":
        whole = [first, *found]
        record = _parse(b"\n".join(whole))
        if isinstance(record, dict):
            yield record
            return
        found = iter(whole[1:])
    yield _parse(first)
    yield from map(_parse, found)


def _parse(line: bytes) -> _Record:
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
