"""The write-ahead journal: what will be written is on disk before a column is touched (spec 3).

A record says which values come to stand in which rows, never what to add to them, so that replaying
it twice changes nothing. Layout: a head with the number of the last record before it, then records
of a CRC, their number, their length and a payload: a JSON description and the bytes of its arrays.
"""

import json
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tenfold import atomic

LOG = logging.getLogger(__name__)

_HEAD = struct.Struct("<8sQI")  # magic, base, CRC
_FRAME = struct.Struct("<4sIQQ")  # magic, CRC of what follows, number, payload bytes
_COUNTS = struct.Struct("<QQ")
_FILE_MAGIC, _MAGIC = b"FFJOURN1", b"FFR1"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Values that come to stand in rows.

    Args:
        op: What happened, for followers.
        rows: int64 `[n]`.
        columns: For each changed column the new values `[n, ...]`.
        extra: JSON values beside them: ids, reasons.
    """

    op: str
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


class Entry(NamedTuple):
    """A record as it stands in a journal, its number and where it ends."""

    sequence: int
    record: Record
    end: int


class Journal:
    """A journal that is open for appending; cuts off a record that a crash left unfinished.

    Args:
        path: Of an existing journal.

    Raises:
        ValueError: It is damaged before its end, so that records would be lost.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = read_base(path)
        self.sequence, self.num_bytes = self.base, _HEAD.size
        for entry in read_entries(path):
            self.sequence, self.num_bytes = entry.sequence, entry.end
        self._descriptor = os.open(path, os.O_RDWR)
        self._broken = False
        self._cut_tail()

    @classmethod
    def create(cls, path: Path, *, base: int) -> Self:
        """Start an empty journal after record number `base`."""
        head = _HEAD.pack(_FILE_MAGIC, base, zlib.crc32(base.to_bytes(8, "little")))
        atomic.write_bytes(path, head)
        return cls(path)

    def append(self, record: Record) -> int:
        """Write a record, durable on return, and return its number.

        Raises:
            OSError: The disk is full; the journal is as before.
        """
        if self._broken:
            raise OSError(f"{self.path} could not be restored after a failed write; open it anew")
        frame = encode(record, self.sequence + 1)
        try:
            _write_at(self._descriptor, frame, self.num_bytes)
            os.fsync(self._descriptor)
        except OSError:
            self._restore()
            raise
        self.sequence += 1
        self.num_bytes += len(frame)
        return self.sequence

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _restore(self) -> None:
        """Take back a write that failed, so that the next one does not stand behind its rest."""
        try:
            os.ftruncate(self._descriptor, self.num_bytes)
        except OSError:
            self._broken = True

    def _cut_tail(self) -> None:
        size = self.path.stat().st_size
        if size == self.num_bytes:
            return
        with self.path.open("rb") as file:
            file.seek(self.num_bytes)
            tail = file.read()
        if _holds_record(tail):
            raise ValueError(
                f"{self.path} is damaged at byte {self.num_bytes} with records after it; restore "
                "the gallery's folder from a copy"
            )
        LOG.warning("cut off %d bytes of an unfinished record in %s", len(tail), self.path)
        os.ftruncate(self._descriptor, self.num_bytes)
        os.fsync(self._descriptor)


def read_base(path: Path) -> int:
    """Return the number of the last record before a journal.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not a journal.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
    if len(head) == _HEAD.size:
        magic, base, crc = _HEAD.unpack(head)
        if magic == _FILE_MAGIC and crc == zlib.crc32(base.to_bytes(8, "little")):
            return base
    raise ValueError(f"{path} is not a gallery's journal, or damaged")


def read_entries(path: Path, *, offset: int = 0) -> Iterator[Entry]:
    """Yield whole records in order, from byte `offset` (an `Entry.end`) on; stop at a torn one."""
    with path.open("rb") as file:
        file.seek(offset or _HEAD.size)
        while (entry := _read_entry(file)) is not None:
            yield entry


def encode(record: Record, sequence: int) -> bytes:
    """Return a record's bytes."""
    arrays = {"": np.ascontiguousarray(record.rows, dtype=np.int64)}
    arrays |= {name: np.ascontiguousarray(value) for name, value in record.columns.items()}
    about = {
        "op": record.op,
        "extra": dict(record.extra),
        "arrays": [[name, value.dtype.str, value.shape] for name, value in arrays.items()],
    }
    text = json.dumps(about).encode()
    payload = b"".join(
        (len(text).to_bytes(4, "little"), text, *(value.tobytes() for value in arrays.values()))
    )
    counts = _COUNTS.pack(sequence, len(payload))
    crc = zlib.crc32(payload, zlib.crc32(counts))
    return _FRAME.pack(_MAGIC, crc, sequence, len(payload)) + payload


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _read_entry(file: IO[bytes]) -> Entry | None:
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    magic, crc, sequence, length = _FRAME.unpack(head)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if magic != _MAGIC or length > left:
        return None
    payload = file.read(length)
    if zlib.crc32(payload, zlib.crc32(_COUNTS.pack(sequence, length))) != crc:
        return None
    return Entry(sequence, _decode(payload), file.tell())


def _decode(payload: bytes) -> Record:
    start = 4 + int.from_bytes(payload[:4], "little")
    about = json.loads(payload[4:start])
    arrays = {}
    for name, text, shape in about["arrays"]:
        dtype = np.dtype(text)
        if dtype.kind not in "fiu":
            raise ValueError(f"a journal's arrays hold numbers, got {text}")
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(payload, dtype, count, start).reshape(shape)
        start += count * dtype.itemsize
    return Record(op=about["op"], rows=arrays.pop(""), columns=arrays, extra=about["extra"])


def _holds_record(tail: bytes) -> bool:
    """Return whether a whole record stands in `tail` behind the broken one that it starts with.

    Every record is durable before the next one is begun, so a crash tears the last one only.
    """
    start = tail.find(_MAGIC, 1)
    while start >= 0:
        head = tail[start : start + _FRAME.size]
        if len(head) == _FRAME.size:
            _, crc, sequence, length = _FRAME.unpack(head)
            payload = tail[start + _FRAME.size :][:length]
            if len(payload) == length:
                found = zlib.crc32(payload, zlib.crc32(_COUNTS.pack(sequence, length)))
                if found == crc:
                    return True
        start = tail.find(_MAGIC, start + 1)
    return False
