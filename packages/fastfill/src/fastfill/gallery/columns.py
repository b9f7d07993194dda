"""Columns of a gallery: memory-mapped npy files that grow in place (spec 3).

A file has a capacity of rows, of which the gallery uses the first. Growing rewrites the header, for
which numpy leaves room, and keeps the file: maps that other processes hold stay valid. Space is
reserved first, since a write through a map into a full disk kills the process.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_GROWTH = 1.25


class ColumnSpec(NamedTuple):
    """Type and width of a column; width 0 is one number a row."""

    dtype: str
    width: int = 0

    def shape(self, rows: int) -> tuple[int, ...]:
        """Return the shape of an array of `rows` rows."""
        return (rows, self.width) if self.width else (rows,)


class Columns:
    """Columns of one gallery, all of one capacity.

    Args:
        folder: Holds `<name>.npy` for every name.
        specs: Columns that must be there.
        writable: Whether they may be changed.

    Raises:
        FileNotFoundError: A column is missing.
        ValueError: A file is no npy file, or of another type or width.
    """

    def __init__(
        self, folder: Path, specs: Mapping[str, ColumnSpec], *, writable: bool = False
    ) -> None:
        self.folder, self.specs, self.writable = folder, dict(specs), writable
        self._maps: dict[str, np.memmap[Any, Any]] = {}
        self.reopen()

    def __getitem__(self, name: str) -> "np.memmap[Any, Any]":
        return self._maps[name]

    def __contains__(self, name: object) -> bool:
        return name in self._maps

    @property
    def capacity(self) -> int:
        """Rows that every column has room for."""
        return min(len(column) for column in self._maps.values())

    def reopen(self) -> None:
        """Map the files anew, as after another process has grown them."""
        mode = "r+" if self.writable else "r"
        self._maps = {
            name: _open(column_path(self.folder, name), spec, mode)
            for name, spec in self.specs.items()
        }

    def reserve(self, rows: int) -> None:
        """Make room for `rows` rows; nothing changes where there is.

        Raises:
            OSError: The disk is full; all rows that were there still are.
        """
        if rows <= self.capacity:
            return
        capacity = max(rows, int(self.capacity * _GROWTH))
        self.flush()
        for name, spec in self.specs.items():
            _grow(column_path(self.folder, name), spec, capacity, durable=True)
        self.reopen()

    def write(self, rows: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        """Write `values[name][i]` at row `rows[i]`; columns that are no more are passed over."""
        for name, value in values.items():
            if name in self._maps:
                self._maps[name][rows] = value

    def flush(self) -> None:
        """Make all writes durable."""
        for column in self._maps.values():
            column.flush()

    def drop(self, names: Sequence[str]) -> None:
        """Delete columns and their files."""
        for name in names:
            self._maps.pop(name, None)
            self.specs.pop(name, None)
            column_path(self.folder, name).unlink(missing_ok=True)


def create_columns(folder: Path, specs: Mapping[str, ColumnSpec], *, capacity: int) -> Columns:
    """Write columns full of zeros; durable after `flush`.

    Raises:
        OSError: The disk is full.
    """
    for name, spec in specs.items():
        path = column_path(folder, name)
        path.touch()
        _grow(path, spec, capacity, durable=False)
    return Columns(folder, specs, writable=True)


def column_path(folder: Path, name: str) -> Path:
    """Return the file of a column."""
    return folder / f"{name}.npy"


def _open(path: Path, spec: ColumnSpec, mode: Any) -> "np.memmap[Any, Any]":
    try:
        column = np.lib.format.open_memmap(path, mode=mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; the gallery is damaged") from None
    except ValueError as error:
        raise ValueError(f"{path} is no column of a gallery: {error}") from None
    if column.dtype != np.dtype(spec.dtype) or column.shape[1:] != spec.shape(0)[1:]:
        raise ValueError(
            f"{path} holds {column.dtype}{list(column.shape[1:])} a row, expected "
            f"{np.dtype(spec.dtype)}{list(spec.shape(0)[1:])}; the gallery is damaged"
        )
    return column


def _grow(path: Path, spec: ColumnSpec, capacity: int, *, durable: bool) -> None:
    header = _header(spec, capacity)
    row_bytes = np.dtype(spec.dtype).itemsize * max(spec.width, 1)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, len(header) + capacity * row_bytes)
        file.write(header)
        if durable:  # a header that promises more than the file has would be taken for damage
            file.flush()
            os.fsync(file.fileno())


def _header(spec: ColumnSpec, capacity: int) -> bytes:
    """Return a header whose length does not depend on the capacity."""
    fields = f"{{'descr': '{np.dtype(spec.dtype).str}', 'fortran_order': False, "
    fields += f"'shape': {spec.shape(capacity)!r}, }}"
    magic = np.lib.format.magic(1, 0)
    return magic + (118).to_bytes(2, "little") + fields.ljust(117).encode() + b"\n"
