"""Ranges of three Unicode properties that `unicodedata` lacks: block, script and age.

The tables are facts of the Unicode Character Database, one range a line.
"""

from bisect import bisect_right
from functools import cache
from importlib import resources
from typing import NamedTuple


class _Ranges(NamedTuple):
    first: list[int]
    last: list[int]
    values: list[str]

    def find(self, character: str) -> str | None:
        code_point = ord(character)
        index = bisect_right(self.first, code_point) - 1
        return self.values[index] if index >= 0 and code_point <= self.last[index] else None


def block(character: str) -> str:
    """Return the Unicode block, e.g. `Latin Extended-A`, or `No_Block`."""
    return _ranges("blocks.tsv").find(character) or "No_Block"


def script(character: str) -> str:
    """Return the Unicode script, e.g. `Arabic`; symbols are `Common`, the rest is `Unknown`."""
    return _ranges("scripts.tsv").find(character) or "Unknown"


def year(character: str) -> int | None:
    """Return the year of the Unicode version that brought a character, None if unassigned."""
    value = _ranges("unicode_age.tsv").find(character)
    return None if value is None else int(value)


@cache
def _ranges(file_name: str) -> _Ranges:
    text = resources.files("tenfold.demo_data").joinpath(file_name).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    # The value stands in the last column (the age table has the version before the year).
    return _Ranges(
        first=[int(row[0], 16) for row in rows],
        last=[int(row[1], 16) for row in rows],
        values=[row[-1] for row in rows],
    )
