"""Columns joined along images or along views, without a detour through single reinforcements."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_reinforcement.store.opcodes import spell_levels
from dataset_reinforcement.store.tables import LAYOUT, Arrays

_Columns = dict[str, NDArray[Any]]

_TABLES = ("erase", "mix")


def take_rows(arrays: Arrays, first: int, last: int) -> _Columns:
    """Return the columns of the rows `first .. last - 1` of a shard."""
    taken: _Columns = {}
    for name, array in arrays.items():
        table = _table_of(name)
        if table is None:
            taken[name] = array if name == "magnitude" else array[first:last]
            continue
        start = arrays[f"{table}.start"]
        low, high = int(start[first]), int(start[last])
        is_start = name == f"{table}.start"
        taken[name] = start[first : last + 1] - start[first] if is_start else array[low:high]
    return taken


def join_rows(pieces: Sequence[Arrays]) -> _Columns:
    """Join shards that hold the same views of different images, in order.

    Raises:
        ValueError: Their types or shapes do not fit together.
    """
    return _join(pieces, axis=0)


def join_views(pieces: Sequence[Arrays]) -> _Columns:
    """Join shards that hold different views of the same images, in order.

    Raises:
        ValueError: Their types or shapes do not fit together.
    """
    return _join(pieces, axis=1)


def _join(pieces: Sequence[Arrays], *, axis: int) -> _Columns:
    pieces = _equal_columns(_equal_levels(pieces))
    joined: _Columns = {}
    for name in pieces[0]:
        if name == "magnitude":
            joined[name] = pieces[0][name]
        elif _table_of(name) is None:
            joined[name] = np.concatenate([piece[name] for piece in pieces], axis=axis)
    for table in _TABLES:
        if f"{table}.start" in pieces[0]:
            joined |= _join_table(table, pieces, axis=axis)
    return joined


def _join_table(table: str, pieces: Sequence[Arrays], *, axis: int) -> _Columns:
    """Join the entries of a table and put them into order of image and view."""
    num_rows, num_views = 0, 0
    rows: list[NDArray[np.int64]] = []
    views: list[NDArray[np.int64]] = []
    for piece in pieces:
        counts = np.diff(piece[f"{table}.start"].astype(np.int64))
        rows.append(np.repeat(np.arange(len(counts)), counts) + (num_rows if axis == 0 else 0))
        views.append(piece[f"{table}.view"].astype(np.int64) + (num_views if axis == 1 else 0))
        num_rows += len(counts)
        num_views += piece["flags"].shape[1]
    total = num_rows if axis == 0 else num_rows // len(pieces)
    row, view = np.concatenate(rows), np.concatenate(views)
    if view.size and view.max() > 65535:
        raise ValueError(f"a part would have view {view.max()}, expected at most 65535")
    order = np.lexsort((view, row))
    names = [name for name in pieces[0] if name.startswith(f"{table}.")]
    joined = {
        name: np.concatenate([piece[name] for piece in pieces])[order]
        for name in names
        if name not in (f"{table}.start", f"{table}.view")
    }
    start = np.searchsorted(row[order], np.arange(total + 1))
    joined[f"{table}.start"] = start.astype(np.uint32)
    joined[f"{table}.view"] = view[order].astype(np.uint16)
    return joined


def _equal_levels(pieces: Sequence[Arrays]) -> list[_Columns]:
    """Give all pieces the same magnitude, or spell out their levels."""
    magnitudes = {int(piece["magnitude"][0]) for piece in pieces if "magnitude" in piece}
    if len(magnitudes) == 1 and not any(_has_levels(piece) for piece in pieces):
        magnitude = np.array([magnitudes.pop()], dtype=np.int8)
        return [{**piece, "magnitude": magnitude} for piece in pieces]
    if not magnitudes:
        return [dict(piece) for piece in pieces]
    return [_spell(piece) for piece in pieces]


def _spell(piece: Arrays) -> _Columns:
    spelt = dict(piece)
    magnitude = int(spelt.pop("magnitude", np.zeros(1))[0])
    for codes, levels in (("ops", "levels"), ("mix.ops", "mix.levels")):
        if codes in spelt and levels not in spelt:
            spelt[levels] = spell_levels(spelt[codes], magnitude=magnitude)
    return spelt


def _has_levels(piece: Arrays) -> bool:
    return "levels" in piece or "mix.levels" in piece


def _equal_columns(pieces: Sequence[_Columns]) -> list[_Columns]:
    """Add columns that some pieces lack: of zeros, since no flag there points to them."""
    templates = {name: array for piece in pieces for name, array in piece.items()}
    return [
        {name: piece.get(name, _filler(name, array, piece)) for name, array in templates.items()}
        for piece in pieces
    ]


def _filler(name: str, template: NDArray[Any], piece: Arrays) -> NDArray[Any]:
    rows, views = piece["flags"].shape
    entries = {table: len(piece.get(f"{table}.view", ())) for table in _TABLES}
    sizes = {
        "n": rows,
        "v": views,
        "n+1": rows + 1,
        "e": entries["erase"],
        "m": entries["mix"],
    }
    letters = LAYOUT[name][1].split()
    shape = [sizes.get(letter, template.shape[axis]) for axis, letter in enumerate(letters)]
    return np.zeros(shape, dtype=template.dtype)


def _table_of(name: str) -> str | None:
    table, dot, _ = name.partition(".")
    return table if dot else None
