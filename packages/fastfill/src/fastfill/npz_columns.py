"""Arrays of an uncompressed `.npz` as memory maps, so that rows are read without the rest."""

import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_LOCAL_HEADER = struct.Struct("<26xHH")
_DTYPE_KINDS = "fi"


def map_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` by name, read-only maps of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, compressed, or holds something else than arrays of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return {
                member.filename.removesuffix(".npy"): _map(file, member)
                for member in archive.infolist()
            }
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, struct.error, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); make it again") from error


def _map(file: IO[bytes], member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    # The local header's extra field may be longer than the directory's.
    file.seek(member.header_offset)
    name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    file.seek(start)
    if npy.read_magic(file) != (1, 0):
        raise ValueError(f"{member.filename} has another npy version than 1.0")
    shape, by_column, dtype = npy.read_array_header_1_0(file)
    if dtype.kind not in _DTYPE_KINDS or by_column:
        raise ValueError(f"{member.filename} is no plain array of numbers")
    offset = file.tell()
    size = dtype.itemsize * int(np.prod(shape))
    if offset + size != start + member.file_size:
        raise ValueError(f"{member.filename} has {member.file_size} bytes, its header {size}")
    if not size:
        return np.zeros(shape, dtype)
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape)
