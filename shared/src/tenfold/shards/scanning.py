"""Walk the headers of a tar once: where each member lies, which samples are bad, where it breaks.

`tarfile` takes a header cut short or with a wrong checksum for the end of the archive and stays
silent. What follows the last header is therefore checked here: only zeros may.
"""

import tarfile
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from tenfold.shards.names import ShardError, is_metadata, split_name

_CHUNK = 2**20


class Extent(NamedTuple):
    """Where a member's data lies in the file, in bytes."""

    offset: int
    size: int


@dataclass
class TarScan:
    """What the headers of one tar say.

    Attributes:
        samples: Key to extension to extent, keys in order of first appearance.
        bad: Key to (member, reason) for samples with duplicate, scattered or cut members.
        damage: Why the archive as a whole is not intact, or None.
    """

    samples: dict[str, dict[str, Extent]] = field(default_factory=dict)
    bad: dict[str, tuple[str, str]] = field(default_factory=dict)
    damage: str | None = None


def scan_tar(file: BinaryIO) -> TarScan:
    """Scan an uncompressed tar.

    Raises:
        ShardError: A member has a hostile name, or is a link or a device: no honest writer of
            datasets makes those, so the shard is refused as a whole.
    """
    scan = TarScan()
    last, last_name = None, ""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= member.offset:
                    # Older versions of tarfile walk such a header in circles.
                    raise ShardError(f"member {member.name!r} has a negative size")
                if _is_data(member):
                    last, last_name = _add(scan, member, last), member.name
            scan.damage = _find_damage(file, tar.offset)
    except tarfile.TarError as error:
        scan.damage = f"broken tar: {error}"
    if scan.damage is None and not scan.samples:
        scan.damage = "holds no samples"
    if scan.damage is not None and last is not None:
        reason = "is the last before the shard breaks, others may be lost"
        scan.bad.setdefault(last, (last_name, reason))
    return scan


def _is_data(member: tarfile.TarInfo) -> bool:
    if member.isdir():
        return False
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not plain:
        raise ShardError(f"member {member.name!r} is a link, a device or sparse, not a plain file")
    return not is_metadata(member.name)


def _add(scan: TarScan, member: tarfile.TarInfo, last: str | None) -> str:
    key, extension = split_name(member.name)
    known = key in scan.samples
    sample = scan.samples.setdefault(key, {})
    if extension in sample:
        scan.bad.setdefault(key, (member.name, "appears twice"))
    elif known and key != last:
        scan.bad.setdefault(key, (member.name, "lies apart from its sample's other members"))
    else:
        sample[extension] = Extent(member.offset_data, member.size)
    return key


def _find_damage(file: BinaryIO, end: int) -> str | None:
    """Check that the archive ends at `end` with a block of zeros, and zeros only after it."""
    file.seek(end)
    first = file.read(tarfile.BLOCKSIZE)
    if len(first) < tarfile.BLOCKSIZE:
        return f"truncated: no end mark at byte {end}"
    chunk = first
    while chunk:
        if any(chunk):
            return f"broken header or stray data after byte {end}"
        chunk = file.read(_CHUNK)
    return None
