"""Documents of tars of JSON Lines, as DCLM has them, and of webdataset's one `key.json` a document.

A tar, plain or compressed, is read front to back. Nothing is written to disk, and no path is made
of a member's name. `tarfile` takes a header cut short or with a wrong checksum for the end of the
archive and stays silent, so what follows the last member is checked here: only zeros may.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dataset_decomposition.decompression import CHUNK_BYTES, DamagedError, decompress, file_chunks
from dataset_decomposition.documents import BadDocument, TextDocument
from dataset_decomposition.inputs import is_hidden, is_json_lines
from dataset_decomposition.json_lines import json_documents

_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


class _BrokenTarError(Exception):
    """The archive itself is damaged, not one member's content; says how."""


def tar_documents(path: Path, *, text_key: str) -> Iterator[TextDocument | BadDocument]:
    """Yield the documents of a tar's JSON Lines members, each with its place `tar:member:line`.

    Links, devices and sparse members (`special_member`) and members of other kinds
    (`unknown_member`) are bad documents; folders and hidden members are left out, as in a folder.

    Raises:
        ValueError: The tar is truncated or damaged, so that nobody knows what is missing; the
            documents before come out first.
        OSError: The file cannot be opened.
    """
    stream = _ForwardFile(file_chunks(path))
    last = "its beginning"
    try:
        for member in _members(stream):
            last = _printable(member.name)
            if not member.isdir() and not _is_left_out(member.name):
                yield from _member_documents(stream, member, f"{path}:{last}", text_key)
    except _BrokenTarError as error:
        raise ValueError(
            f"the tar {path} {error} (last seen: {last}); copy it again or leave it out"
        ) from error


def _members(stream: "_ForwardFile") -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                # The list of all members would grow; typeshed does not know it.
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                yield member
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        # Hostile headers meet int(), decode() and recursion in tarfile.
        raise _BrokenTarError(f"is truncated or damaged: {error}") from error
    stream.check_end()


def _member_documents(
    stream: "_ForwardFile", member: tarfile.TarInfo, place: str, text_key: str
) -> Iterator[TextDocument | BadDocument]:
    if member.type not in _PLAIN or member.issparse():
        yield BadDocument("special_member", place)
    elif not is_json_lines(member.name):
        yield BadDocument("unknown_member", place)
    else:
        stream.seek(member.offset_data)
        content = decompress(stream.take(member.size), member.name)
        yield from json_documents(content, place, text_key=text_key)


def _is_left_out(name: str) -> bool:
    return any(is_hidden(part) for part in PurePosixPath(name).parts if part not in (".", ".."))


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


class _ForwardFile(io.BufferedIOBase):
    """Chunks as a file for `tarfile` that is read and skipped, never turned back."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._position = 0
        self._last = b""

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or offset < self._position:
            raise tarfile.StreamError("a header points backwards")
        for _ in self._parts(offset - self._position):
            pass
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None, "tarfile asks for blocks"
        self._last = b"".join(self._parts(size))
        return self._last

    def take(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes in chunks."""
        end = self._position + size
        yield from map(bytes, self._parts(size))
        if self._position < end:
            raise _BrokenTarError("is truncated inside a member")

    def check_end(self) -> None:
        """Check that the block read last is the end mark and that only zeros follow."""
        if len(self._last) < tarfile.BLOCKSIZE:
            raise _BrokenTarError("is truncated: it has no end mark")
        if any(self._last):
            raise _BrokenTarError("is damaged: a header is broken")
        while rest := self.read(CHUNK_BYTES):
            if any(rest):
                raise _BrokenTarError("is damaged: data stands behind its end mark")

    def _parts(self, size: int) -> Iterator[memoryview]:
        while size > 0 and (self._rest or self._fill()):
            part, self._rest = self._rest[:size], self._rest[size:]
            self._position += len(part)
            size -= len(part)
            yield part

    def _fill(self) -> bool:
        try:
            chunk = next(filter(None, self._chunks), b"")
        except DamagedError as damage:
            # Not a member's own damage, which its reader counts.
            what = "truncated" if damage.kind == "truncated_file" else "corrupt"
            raise _BrokenTarError(f"is {what}") from None
        self._rest = memoryview(chunk)
        return bool(chunk)
