"""A memory-mapped shard, and a bounded number of them kept open."""

import mmap
from collections import OrderedDict
from pathlib import Path

from dataset_decomposition.manifest import DOCUMENTS_EXTENSION, EXTENSIONS, Shard
from tenfold.shards import ShardError
from tenfold.shards.scanning import Extent, scan_tar

MAX_OPEN = 128
"""Per bucket; a map holds a file descriptor, of which a process often has 1,024."""


class MappedShard:
    """The samples of one tar as views of its memory map, in file order."""

    def __init__(self, path: Path, shard: Shard) -> None:
        """Map and scan a shard.

        Raises:
            ShardError: The tar is damaged or holds other samples than the manifest says.
        """
        self._path = path
        self._extension = EXTENSIONS[shard.format]
        with path.open("rb") as file:
            try:
                scan = scan_tar(file)
            except ShardError as error:
                raise ShardError(f"{path}: {error}") from None
            # Not closed by hand: rows handed out may still look into it.
            self._map = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for key, (member, reason) in scan.bad.items():
            raise ShardError(f"{path}: sample {key!r}: member {member!r} {reason}")
        if scan.damage is not None:
            raise ShardError(f"{path}: {scan.damage}")
        if len(scan.samples) != shard.num_records:
            raise ShardError(
                f"{path} has {len(scan.samples)} samples, but its manifest says {shard.num_records}"
            )
        self._keys = list(scan.samples)
        self._members = list(scan.samples.values())
        for record in range(len(self._keys)):
            self._extent(record, self._extension)

    def _extent(self, record: int, extension: str) -> Extent:
        if extension not in self._members[record]:
            raise ShardError(
                f"{self._path}: sample {self._keys[record]!r} has no {extension!r} member"
            )
        return self._members[record][extension]

    def data(self, record: int, *, documents: bool = False) -> memoryview:
        """Return the bytes of a sample's tokens, or document numbers, without copying them.

        Raises:
            ShardError: The sample has no document numbers.
        """
        extension = DOCUMENTS_EXTENSION if documents else self._extension
        offset, size = self._extent(record, extension)
        return self._map[offset : offset + size]

    def describe(self, record: int, *, documents: bool = False) -> str:
        """Name a member for an error message."""
        extension = DOCUMENTS_EXTENSION if documents else self._extension
        return f"{self._path}: member {self._keys[record]}.{extension}"


class ShardCache:
    """The most recently used shards of a folder; a copy sent to another process starts empty."""

    def __init__(self, folder: Path) -> None:
        """Open nothing yet."""
        self._folder = folder
        self._open: OrderedDict[str, MappedShard] = OrderedDict()

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[Path]]:
        """Leave the maps behind."""
        return ShardCache, (self._folder,)

    def get(self, shard: Shard) -> MappedShard:
        """Return a shard, mapping it if need be."""
        if shard.shard in self._open:
            self._open.move_to_end(shard.shard)
            return self._open[shard.shard]
        mapped = MappedShard(self._folder / f"{shard.shard}.tar", shard)
        self._open[shard.shard] = mapped
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return mapped
