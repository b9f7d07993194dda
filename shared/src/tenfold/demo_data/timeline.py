"""The year in which each character entered Unicode: a true timeline for continual training."""

from collections.abc import Iterable
from dataclasses import dataclass

from tenfold.demo_data import unicode_tables


@dataclass(frozen=True)
class Step:
    """A span of years, both ends included."""

    first_year: int
    last_year: int

    def __str__(self) -> str:
        """Return e.g. `1999` or `2003-2005`."""
        if self.first_year == self.last_year:
            return str(self.first_year)
        return f"{self.first_year}-{self.last_year}"


# Cut so that each step brings some hundred new characters of `glyphs`.
STEPS = (
    Step(1993, 1998),
    Step(1999, 1999),
    Step(2000, 2001),
    Step(2002, 2002),
    Step(2003, 2005),
    Step(2006, 2008),
    Step(2009, 2014),
)


def year(character: str) -> int:
    """Return the year of the Unicode version that brought `character`.

    Raises:
        ValueError: `character` is not one character, or Unicode has not assigned it.
    """
    if len(character) != 1:
        raise ValueError(f"expected one character, got {character!r}")
    found = unicode_tables.year(character)
    if found is None:
        raise ValueError(f"Unicode has not assigned U+{ord(character):04X}: it has no year")
    return found


def step(character: str) -> int:
    """Return the index in `STEPS` of the span in which `character` came.

    Raises:
        ValueError: `character` has no year, or came after the last step.
    """
    came = year(character)
    for index, span in enumerate(STEPS):
        if span.first_year <= came <= span.last_year:
            return index
    raise ValueError(f"U+{ord(character):04X} came in {came}, after the last step ({STEPS[-1]})")


def counts(characters: Iterable[str]) -> list[int]:
    """Return how many of the characters came in each of `STEPS`."""
    totals = [0] * len(STEPS)
    for character in characters:
        totals[step(character)] += 1
    return totals
