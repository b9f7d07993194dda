"""The columns of one shard as plain arrays, and their layout (spec of the store, version 1).

A shard holds the views `first .. first + V - 1` of a run of images. Dense columns have the leading
dimensions `[images, views]`. What few views have (an erased region, a partner) lies in sparse
tables: entries in order of image and view, found through the start of each image, so that a lookup
touches some tens of bytes. Columns that no view of the shard needs are absent.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FLIP = 1
OPS = 2
ERASE = 4
MIX = 8
MIXUP = 16
CUTMIX = 32
"""Bits of the flags: what a view, or (MIXUP, CUTMIX) an entry of the mix table, has."""

Arrays = Mapping[str, NDArray[Any]]

# Letters are dimensions that must agree: n images, v views, k classes, o operations, entries e, m.
LAYOUT: dict[str, tuple[tuple[str, ...], str]] = {
    "classes": (("uint16",), "n v k"),
    "probabilities": (("float16", "float32"), "n v k"),
    "entropy": (("float16",), "n v"),
    "flags": (("uint8",), "n v"),
    "crop": (("int16",), "n v 4"),
    "ops": (("uint8",), "n v o"),
    "levels": (("int8",), "n v o"),
    "magnitude": (("int8",), "1"),
    "erase.start": (("uint32",), "n+1"),
    "erase.view": (("uint16",), "e"),
    "erase.box": (("int16",), "e 4"),
    "mix.start": (("uint32",), "n+1"),
    "mix.view": (("uint16",), "m"),
    "mix.partner": (("uint32",), "m"),
    "mix.weight": (("float32",), "m"),
    "mix.cutmix": (("int16",), "m 4"),
    "mix.flags": (("uint8",), "m"),
    "mix.crop": (("int16",), "m 4"),
    "mix.ops": (("uint8",), "m o"),
    "mix.levels": (("int8",), "m o"),
    "mix.erase": (("int16",), "m 4"),
}
_DENSE = frozenset({"classes", "probabilities", "entropy", "flags"})
_ERASE = frozenset({"erase.start", "erase.view", "erase.box"})
_MIX = frozenset({"mix.start", "mix.view", "mix.partner", "mix.weight", "mix.cutmix", "mix.flags"})


@dataclass(frozen=True)
class ViewColumns:
    """What was drawn for views, own ones `[n, v]` or partners' `[m]`.

    Attributes:
        flags: uint8 `[...]`.
        crop: int16 `[..., 4]`.
        ops: uint8 `[..., o]`, see `opcodes`.
        levels: int8 `[..., o]`, where the levels are not all the shard's `magnitude`.
    """

    flags: NDArray[np.uint8]
    crop: NDArray[np.int16] | None
    ops: NDArray[np.uint8] | None
    levels: NDArray[np.int8] | None


@dataclass(frozen=True)
class SparseTable:
    """Values that only some views have.

    Attributes:
        start: uint32 `[n + 1]`, where the entries of each image begin.
        view: uint16 `[entries]`, rising within an image.
        columns: Name to values `[entries, ...]`.
    """

    start: NDArray[np.uint32]
    view: NDArray[np.uint16]
    columns: dict[str, NDArray[Any]]

    def find(self, row: int, view: int) -> int:
        """Return the entry of a view, which must have one."""
        low, high = int(self.start[row]), int(self.start[row + 1])
        entry = bisect_left(self.view, view, low, high)
        if entry == high or self.view[entry] != view:
            raise ValueError(f"row {row}, view {view} has no entry: the shard is damaged")
        return entry


@dataclass(frozen=True)
class ShardColumns:
    """The columns of one shard.

    Attributes:
        classes: uint16 `[n, v, k]`.
        probabilities: float16 or float32 `[n, v, k]`, falling.
        entropy: float16 `[n, v]`, nats.
        own: What was drawn for the views themselves.
        magnitude: Size of every level that is not 0, unless there are `levels`.
        erase: Entries with a `box`.
        mix: Entries with `partner`, `weight`, `cutmix`, `erase`.
        partner: What was drawn for the partners of the entries of `mix`.
    """

    classes: NDArray[np.uint16]
    probabilities: NDArray[np.floating]
    entropy: NDArray[np.float16]
    own: ViewColumns
    magnitude: int
    erase: SparseTable | None
    mix: SparseTable | None
    partner: ViewColumns | None

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        """Take named arrays.

        Raises:
            ValueError: A column is missing, unknown, or of another type or shape than the layout.
        """
        check_layout(arrays)
        mix = _table(arrays, "mix")
        return cls(
            classes=arrays["classes"],
            probabilities=arrays["probabilities"],
            entropy=arrays["entropy"],
            own=_views(arrays, ""),
            magnitude=int(arrays["magnitude"][0]) if "magnitude" in arrays else 0,
            erase=_table(arrays, "erase"),
            mix=mix,
            partner=None if mix is None else _views(arrays, "mix."),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, views, classes a view."""
        images, views, top_k = self.classes.shape
        return images, views, top_k


def check_layout(arrays: Arrays) -> None:
    """Compare names, types and shapes with the layout.

    Raises:
        ValueError: They differ; names the column.
    """
    if unknown := sorted(set(arrays) - set(LAYOUT)):
        raise ValueError(f"column {unknown[0]!r} is unknown, expected some of {sorted(LAYOUT)}")
    groups = [_DENSE, *(group for group in (_ERASE, _MIX) if group & set(arrays))]
    if missing := sorted(frozenset().union(*groups) - set(arrays)):
        raise ValueError(f"column {missing[0]!r} is missing")
    sizes: dict[str, int] = {}
    for name, (dtypes, dimensions) in LAYOUT.items():
        if name in arrays:
            _check_column(name, arrays[name], dtypes, dimensions, sizes)


def _check_column(
    name: str,
    array: NDArray[Any],
    dtypes: tuple[str, ...],
    dimensions: str,
    sizes: dict[str, int],
) -> None:
    letters = dimensions.split()
    expected: list[int] = []
    for letter, size in zip(letters, array.shape, strict=False):
        if letter.isdigit():
            expected.append(int(letter))
        elif letter == "n+1":
            expected.append(sizes["n"] + 1)
        else:
            expected.append(sizes.setdefault(letter, size))
    if (
        array.dtype.name not in dtypes
        or array.ndim != len(letters)
        or list(array.shape) != expected
    ):
        raise ValueError(
            f"column {name!r} is {array.dtype.name} {list(array.shape)}, "
            f"expected {' or '.join(dtypes)} [{', '.join(letters)}] with {sizes}"
        )


def _views(arrays: Arrays, prefix: str) -> ViewColumns:
    names = ("crop", "ops", "levels")
    optional = {name: arrays.get(prefix + name) for name in names}
    return ViewColumns(flags=arrays[prefix + "flags"], **optional)


def _table(arrays: Arrays, name: str) -> SparseTable | None:
    start = arrays.get(f"{name}.start")
    if start is None:
        return None
    prefix = f"{name}."
    values = {key.removeprefix(prefix): array for key, array in arrays.items() if prefix in key}
    values.pop("start")
    view = values.pop("view")
    if (
        int(start[0]) != 0
        or int(start[-1]) != len(view)
        or (np.diff(start.astype(np.int64)) < 0).any()
    ):
        raise ValueError(f"column '{name}.start' does not rise from 0 to {len(view)}")
    return SparseTable(start, view, values)
