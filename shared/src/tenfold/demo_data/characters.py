"""What Unicode says about each character that the faces of `glyph_faces` draw."""

import contextlib
import unicodedata
from dataclasses import dataclass
from functools import cache

from tenfold import keyed
from tenfold.demo_data import glyph_faces, timeline, unicode_tables

_HELD_OUT_ONE_IN = 20
_CASES = {"Lu": "upper", "Ll": "lower", "Lt": "title"}


@dataclass(frozen=True)
class Character:
    """One character with its labels; a label that does not apply is the empty string.

    Attributes:
        text: The character itself.
        caption: Its Unicode name in lower case.
        script: Unicode script, e.g. `Latin`; `Common` for most symbols.
        block: Unicode block, e.g. `Latin Extended-A`.
        category: General category, e.g. `Ll`.
        base: The one letter it is made from, in lower case: `e` for `É`, `∅` has none.
        diacritic: What its name adds to that letter: `acute`, `stroke and acute`.
        case: `upper`, `lower`, `title` or empty.
        year: Year of the Unicode version that brought it.
        held_out: Whether no training split shows it, in any face.
    """

    text: str
    caption: str
    script: str
    block: str
    category: str
    base: str
    diacritic: str
    case: str
    year: int
    held_out: bool


def describe(text: str) -> Character:
    """Return the labels of one character.

    Raises:
        ValueError: `text` is not one character with a Unicode name.
    """
    if len(text) != 1 or not unicodedata.name(text, ""):
        raise ValueError(f"expected one character with a Unicode name, got {text!r}")
    name = unicodedata.name(text)
    category = unicodedata.category(text)
    base = _base(text, name)
    return Character(
        text=text,
        caption=name.lower(),
        script=unicode_tables.script(text),
        block=unicode_tables.block(text),
        category=category,
        base=base,
        diacritic=name.partition(" WITH ")[2].lower() if base else "",
        case=_CASES.get(category, ""),
        year=timeline.year(text),
        held_out=keyed.one_in(_HELD_OUT_ONE_IN, "held-out character", ord(text)),
    )


@cache
def alphabet() -> tuple[Character, ...]:
    """Return every character of all faces by code point; its index is the character id.

    Raises:
        FileNotFoundError: matplotlib is not installed or lacks a face.
    """
    texts = {text for face in glyph_faces.FACES for text in glyph_faces.drawable(face.name)}
    return tuple(describe(text) for text in sorted(texts))


@cache
def character_ids() -> dict[str, int]:
    """Return the index in `alphabet` of each character."""
    return {character.text: index for index, character in enumerate(alphabet())}


def _base(text: str, name: str) -> str:
    # Decomposition misses strokes and hooks (no canonical parts), the name has them all.
    stem = name.partition(" WITH ")[0]
    with contextlib.suppress(KeyError):
        text = unicodedata.lookup(stem)
    parts = unicodedata.normalize("NFKD", text)
    letters = [part for part in parts if unicodedata.category(part).startswith("L")]
    return letters[0].lower() if len(letters) == 1 else ""
