"""Named channels: which row of a table of parameters belongs to which channel.

A network keeps parameters for the channels it was trained on; any others run with neutral ones.
Not here: names and units of recordings (`signals.py`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

UNKNOWN = -1


def row_numbers(known: Sequence[str], channels: Sequence[str]) -> list[int]:
    """Return for each channel its row in a table of the `known`, -1 where it has none.

    Raises:
        ValueError: A channel is named twice.
    """
    if len(set(channels)) != len(channels):
        raise ValueError(f"channels must be named once each, got {', '.join(channels)}")
    place = {name: row for row, name in enumerate(known)}
    return [place.get(name, UNKNOWN) for name in channels]


def select_rows(table: Tensor, rows: Tensor, *, neutral: float = 0.0) -> Tensor:
    """Return rows of `table` `[K, ...]` as `[C, ...]`, filled with `neutral` where `rows` is -1."""
    filler = torch.full_like(table[:1], neutral)
    return torch.cat([table, filler])[rows % (len(table) + 1)]


def copy_rows(
    saved: Tensor, known: Sequence[str], wanted: Sequence[str], *, neutral: float = 0.0
) -> Tensor:
    """Return the table of the `wanted` channels from one of the `known`, by name."""
    rows = torch.tensor(row_numbers(known, wanted))
    return select_rows(saved, rows, neutral=neutral).clone()
