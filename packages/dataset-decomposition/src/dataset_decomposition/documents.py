"""What comes out of an input file: a document, or what could not be used as one and why."""

from typing import Literal, NamedTuple

BadKind = Literal[
    "blank_line",
    "corrupt_file",
    "empty_text",
    "invalid_json",
    "invalid_utf8",
    "missing_text",
    "not_string",
    "special_member",
    "truncated_file",
    "unknown_member",
]


class TextDocument(NamedTuple):
    """A document and where it stands (`file:line`, or the file's name alone)."""

    text: str
    place: str


class BadDocument(NamedTuple):
    """What could not be used as a document, why, and where it stands."""

    kind: BadKind
    place: str


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
