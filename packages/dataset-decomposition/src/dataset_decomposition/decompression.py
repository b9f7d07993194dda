"""Files and streams as decompressed chunks and lines, in constant memory.

The stream readers of gzip and zstandard are not used: the former loses what it read in the call
that meets the damage, the latter takes a truncated file for a short one.
"""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Protocol

CHUNK_BYTES = 1 << 16
"""Small, because a chunk of a highly compressed file can grow a thousandfold."""


class DamagedError(Exception):
    """A compressed stream ends early or is not one."""

    def __init__(self, kind: Literal["truncated_file", "corrupt_file"]) -> None:
        super().__init__(kind)
        self.kind: Literal["truncated_file", "corrupt_file"] = kind


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's decompressed content; what precedes any damage comes out before the error.

    Raises:
        DamagedError: The file is compressed, and truncated or corrupt.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        yield from decompress(iter(lambda: file.read(CHUNK_BYTES), b""), path.name)


def decompress(stored: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Undo the compression that the end of a file's name tells.

    Raises:
        DamagedError: The stream is truncated or corrupt.
    """
    match Path(name).suffix.lower():
        case ".gz":
            yield from _members(stored, gzipped=True)
        case ".zst":
            yield from _members(stored, gzipped=False)
        case _:
            yield from stored


def _members(stored: Iterable[bytes], *, gzipped: bool) -> Iterator[bytes]:
    """Decompress the gzip members or Zstandard frames that stand one after the other."""
    import zstandard

    current: _Decompressor | None = None
    try:
        for chunk in stored:
            rest = chunk
            while rest:
                if current is None:
                    current = _new_decompressor(gzipped=gzipped)
                yield current.decompress(rest)
                rest = b""
                if current.eof:
                    # gzip files may be padded with zero bytes.
                    rest = current.unused_data.lstrip(b"\0") if gzipped else current.unused_data
                    current = None
    except (zlib.error, zstandard.ZstdError):
        raise DamagedError("corrupt_file") from None
    if current is not None:
        raise DamagedError("truncated_file")


def _new_decompressor(*, gzipped: bool) -> _Decompressor:
    import zstandard

    if gzipped:
        return zlib.decompressobj(wbits=31)
    # Files written with `zstd --long` need windows beyond the default limit.
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split into lines without their newline; linear also when one line spans many chunks."""
    parts: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        parts.append(first)
        if others:
            yield b"".join(parts)
            yield from others[:-1]
            parts = [others[-1]]
    if last := b"".join(parts):
        yield last
