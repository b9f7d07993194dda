"""A shard on disk: a safetensors file of named columns, read through a memory map.

Nothing is unpickled and nothing is copied but what is asked for: opening reads the header of about
a kilobyte, a reinforcement less than 100 bytes.
"""

import hashlib
import json
import mmap
import struct
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from dataset_reinforcement.store.tables import Arrays, ShardColumns, check_layout
from tenfold import atomic

SHARD_FORMAT = "dataset-reinforcement/1"
MAX_HEADER_BYTES = 1 << 20

_DTYPES = {
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "F16": "<f2",
    "F32": "<f4",
}


def write_shard(path: Path, columns: Arrays) -> dict[str, Any]:
    """Write the columns of a shard; equal columns give equal bytes.

    Returns:
        `file` (folder and name), `bytes` and `sha256`.

    Raises:
        ValueError: The columns do not have the layout of a shard.
    """
    check_layout(columns)
    arrays = {name: np.ascontiguousarray(array) for name, array in columns.items()}
    data = save(arrays, metadata={"format": SHARD_FORMAT})
    atomic.write_bytes(path, data)
    return {
        "file": f"{path.parent.name}/{path.name}",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


class ShardReader:
    """Read access to one shard.

    The map is read-only, so forked processes and threads share it; a pickled copy opens the file
    again.

    Attributes:
        path: The file.
        arrays: Name to column, read-only views of the map.
    """

    def __init__(self, path: Path) -> None:
        """Map a shard.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated, damaged or not a shard; names it.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"shard {self.path} does not exist")
        self.arrays = _map(self.path)

    @cached_property
    def columns(self) -> ShardColumns:
        """The same columns by meaning, their layout checked."""
        try:
            return ShardColumns.of(self.arrays)
        except ValueError as error:
            raise ValueError(f"shard {self.path}: {error}") from error

    def __reduce__(self) -> tuple[type["ShardReader"], tuple[Path]]:
        return ShardReader, (self.path,)


def _map(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 8:
            raise ValueError(f"shard {path} is truncated: {size} bytes")
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    (length,) = struct.unpack("<Q", mapped[:8])
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"{path} is no shard: its header would have {length} bytes")
    if size < 8 + length:
        raise ValueError(f"shard {path} is truncated: {size} bytes, its header alone has {length}")
    try:
        header: dict[str, Any] = json.loads(bytes(mapped[8 : 8 + length]))
        found = (header.pop("__metadata__", None) or {}).get("format")
        if found != SHARD_FORMAT:
            raise ValueError(f"its format is {found!r}, expected {SHARD_FORMAT!r}")
        return _take(header, mapped[8 + length :])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"shard {path} is truncated or damaged: {error}") from error


def _take(header: dict[str, Any], data: memoryview) -> dict[str, NDArray[Any]]:
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != len(data):
        raise ValueError(f"its columns have {len(data)} bytes, its header says {end}")
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        shape = tuple(map(int, entry["shape"]))
        first, last = entry["data_offsets"]
        if min(shape, default=0) < 0 or not 0 <= first <= last:
            raise ValueError(f"column {name!r} has shape {shape} at {first}..{last}")
        if last - first != prod(shape) * dtype.itemsize:
            raise ValueError(f"column {name!r} {shape} does not fill bytes {first}..{last}")
        # numpy takes no empty buffer.
        flat = np.frombuffer(data[first:last], dtype) if last > first else np.empty(0, dtype)
        arrays[name] = flat.reshape(shape)
    return arrays
