"""Whole numbers given by users: checked once, plain `int` afterwards so that they hash the same."""

import operator
from typing import SupportsIndex


def checked_count(name: str, value: SupportsIndex, *, least: int, hint: str) -> int:
    """Return `value` as an int; numpy integers are accepted, fractions are not.

    Args:
        name: What the number is, for the message.
        value: The number.
        least: Smallest valid value.
        hint: Remedy, for the message.

    Raises:
        ValueError: It is not a whole number or too small.
    """
    try:
        count = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, got {value!r}; {hint}") from error
    if count < least:
        raise ValueError(f"{name} must be >= {least}, got {count}; {hint}")
    return count
