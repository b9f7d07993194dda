"""Random access to the members of an uncompressed tar, by sample key and extension."""

import io
import os
import weakref
from collections.abc import Mapping
from pathlib import Path

from tenfold.shards.names import ShardError
from tenfold.shards.scanning import scan_tar


class TarMembers:
    """The samples of one tar.

    The headers are read once when it opens. Reads do not move a shared file position, so that
    forked processes and threads may read at the same time; a pickled copy opens the file again.

    Attributes:
        path: The tar.
        keys: Sample keys in order of first appearance.
        bad: Key to (member, reason) of broken samples; empty unless `strict=False`.
        damage: Why the file as a whole is not intact; None unless `strict=False`.
    """

    def __init__(self, path: Path | str, *, strict: bool = True) -> None:
        """Open and scan a tar.

        With `strict=False` duplicate or scattered members and a truncated file are noted in `bad`
        and `damage` instead of raised.

        Raises:
            FileNotFoundError: There is no such file.
            ShardError: The tar is truncated or damaged, a sample's members are scattered or
                repeated, or a name is hostile; names the shard and the member.
        """
        self.path = Path(path)
        self._strict = strict
        if not self.path.is_file():
            raise FileNotFoundError(f"shard {self.path} does not exist")
        self._file = io.FileIO(self.path)
        self._close = weakref.finalize(self, self._file.close)
        reader = io.BufferedReader(self._file)
        try:
            scan = scan_tar(reader)
        except ShardError as error:
            raise ShardError(f"{self.path}: {error}") from None
        finally:
            reader.detach()
        self._samples = scan.samples
        self.keys = tuple(scan.samples)
        self.bad: Mapping[str, tuple[str, str]] = scan.bad
        self.damage = scan.damage
        if strict:
            self._refuse_faults()

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._samples

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self._strict)

    def close(self) -> None:
        """Close the file; happens by itself when the object goes."""
        self._close()

    @property
    def num_bytes(self) -> int:
        """Size of the open file."""
        return os.fstat(self._file.fileno()).st_size

    def extensions(self, key: str) -> tuple[str, ...]:
        """Return the extensions of a sample in file order."""
        if key not in self._samples:
            raise ShardError(f"{self.path}: no sample {key!r}")
        return tuple(self._samples[key])

    def size(self, key: str, extension: str) -> int:
        """Return a member's size in bytes, from its header."""
        if extension not in self.extensions(key):
            has = ", ".join(self._samples[key])
            raise ShardError(f"{self.path}: sample {key!r} has no {extension!r} member, only {has}")
        return self._samples[key][extension].size

    def read(self, key: str, extension: str) -> bytes:
        """Return a member's bytes.

        Raises:
            ShardError: No such member, or the file has shrunk since it was opened.
        """
        size = self.size(key, extension)
        offset = self._samples[key][extension].offset
        data = bytearray()
        while len(data) < size:
            part = os.pread(self._file.fileno(), size - len(data), offset + len(data))
            if not part:
                raise ShardError(f"{self.path}: member '{key}.{extension}' is cut short")
            if len(part) == size:
                return part
            data += part
        return bytes(data)

    def _refuse_faults(self) -> None:
        for key, (member, reason) in self.bad.items():
            why = f"; {self.damage}" if self.damage else ""
            raise ShardError(f"{self.path}: sample {key!r}: member {member!r} {reason}{why}")
        if self.damage is not None:
            raise ShardError(f"{self.path}: {self.damage}")


def _reopen(path: Path, strict: bool) -> TarMembers:
    return TarMembers(path, strict=strict)
