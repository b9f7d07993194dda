"""Read `torch.save` files of plain values without running what a pickle may ask for.

A pickle is a program: it may import and call anything. Here the only names it can reach are
stand-ins of this module for numpy's numbers and arrays; every other name is refused before it is
imported. `torch.load(weights_only=True)` refuses the official files too: it does not know the
protocol that they are written with.
"""

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

MAX_PICKLE_BYTES = 1 << 30
"""Of one file; 8,000 views with 10 classes are about 1.5 MB."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

_DTYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


def load_plain(path: Path) -> Any:
    """Return the content of a `torch.save` file, zip or legacy, any pickle protocol up to 5.

    Returns:
        None, bool, int, float, str, bytes, and lists, tuples and dicts of these; numpy's numbers
        come out as Python's, its arrays as nested lists.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds anything else, or tries to import something; names
            the file and what it asked for.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            raise ValueError(f"it has more than {MAX_PICKLE_BYTES} bytes")
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _load(_pickle_of_zip(path)) if is_zip else _load_legacy(file)
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is refused: {reason}") from error


# What the unpickler and zipfile raise on hostile or damaged input.
_BROKEN = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    ImportError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def _pickle_of_zip(path: Path) -> io.BytesIO:
    with zipfile.ZipFile(path) as archive:
        members = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(members) != 1:
            raise ValueError(f"it holds {len(members)} members data.pkl, expected one")
        if members[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"its pickle has more than {MAX_PICKLE_BYTES} bytes")
        return io.BytesIO(archive.read(members[0]))


def _load_legacy(file: io.BufferedReader) -> Any:
    magic, version = _load(file), _load(file)
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
        raise ValueError("it was not written by torch.save")
    system = _load(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine")
    value, storages = _load(file), _load(file)
    if storages != []:
        raise ValueError("it holds tensors; only plain values are read")
    return value


def _load(file: io.BufferedIOBase) -> Any:
    return _Unpickler(file).load()


class _Unpickler(pickle.Unpickler):
    """Knows the stand-ins below and nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        found = _ALLOWED.get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(
                f"it asks for {module_name}.{global_name}, which plain values do not need: "
                "do not trust this file"
            )
        return found

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it holds tensors; only plain values are read")


class _Sealed:
    """Refuses state, which a pickle could otherwise set on a stand-in itself."""

    def __setstate__(self, state: object) -> None:
        raise ValueError("it changes what it must only call: do not trust this file")


class _Dtype(_Sealed):
    """Stands in for `numpy.dtype`: a plain number type and its byte order."""

    def __init__(self, name: str, *ignored: object) -> None:
        if name not in _DTYPES:
            raise ValueError(f"it holds numpy values of type {name!r}, expected plain numbers")
        self._name = name
        self._order = "<"

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"it holds numpy values of byte order {state[1]!r}")
        self._order = state[1]

    def read(self, data: bytes) -> np.ndarray:
        if not isinstance(data, bytes):
            raise ValueError("it holds numpy values that are no bytes")
        return np.frombuffer(data, self._order + self._name)


class _Array(list[Any]):
    """Stands in for `numpy.ndarray`: becomes a nested list."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise ValueError("it holds an array of unknown type")
        values = dtype.read(data).reshape(shape, order="F" if fortran else "C").tolist()
        self[:] = values if isinstance(values, list) else [values]


class _NewArray(_Sealed):
    """Stands in for numpy's `_reconstruct`."""

    def __new__(cls, *ignored: object) -> Any:
        return _Array()


class _Scalar(_Sealed):
    """Stands in for numpy's `scalar`: becomes one of Python's numbers."""

    def __new__(cls, dtype: object, data: bytes) -> Any:
        if not isinstance(dtype, _Dtype):
            raise ValueError("it holds a number of unknown type")
        return dtype.read(data)[0].item()


class _Bytes(_Sealed):
    """Stands in for `_codecs.encode`, by which protocols below 3 spell bytes."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise ValueError(f"it holds bytes encoded as {encoding!r}")
        return text.encode("latin1")


class _NoBytes(_Sealed):
    """Stands in for `bytes`, by whose empty call protocols below 3 spell no bytes at all."""

    def __new__(cls) -> Any:
        return b""


_ALLOWED: dict[tuple[str, str], type] = {
    ("__builtin__", "bytes"): _NoBytes,
    ("_codecs", "encode"): _Bytes,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    # numpy 2 moved its core; files of both are about.
    ("numpy.core.multiarray", "_reconstruct"): _NewArray,
    ("numpy._core.multiarray", "_reconstruct"): _NewArray,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}
