"""Reading of a card's JSON: every entry there, none unknown, each of its type, in one line."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any


def entries(
    cls: type, value: Mapping[str, Any] | str, *, optional: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the entries of a dataclass's JSON, given as an object or as text.

    Raises:
        ValueError: One is missing or unknown.
    """
    what = f"a {cls.__name__}"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a JSON object, got {value!r:.40}")
    names = {field.name for field in fields(cls)}
    if missing := sorted(names - value.keys() - set(optional)):
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    if unknown := sorted(str(name) for name in value.keys() - names):
        raise ValueError(
            f"{what} has unknown entries: {', '.join(unknown)}; known: {sorted(names)}"
        )
    return dict(value)


def require_text(value: object, name: str) -> None:
    """Refuse what is no text, or an empty one."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a card's {name} must be text, got {value!r:.40}")


def require_count(value: object, name: str, *, least: int) -> None:
    """Refuse what is no integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"a card's {name} must be an integer >= {least}, got {value!r:.40}")


def require_flag(value: object, name: str) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"a card's {name} must be true or false, got {value!r:.40}")


def require_numbers(values: object, name: str) -> tuple[float, ...]:
    """Return finite numbers as a tuple and refuse anything else."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if plain and all(math.isfinite(v) for v in values):
            return tuple(float(v) for v in values)
    raise ValueError(f"a card's {name} must be finite numbers, got {values!r:.40}")
