"""Whole folders of shards: index what others wrote, and verify what an index promises."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tenfold.atomic import sha256_file
from tenfold.shards.decoding import DecodeLimits, Decoder, default_decoders
from tenfold.shards.index import INDEX_NAME, ShardEntry, ShardIndex, read_index, write_index
from tenfold.shards.members import TarMembers
from tenfold.shards.names import ShardError
from tenfold.shards.samples import decode_member

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardReport:
    """What `verify` found; `problems` are single lines that name shard, sample and member."""

    num_shards: int
    num_samples: int
    num_bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def index_folder(folder: Path | str) -> ShardIndex:
    """Scan all `*.tar` of a folder, as img2dataset leaves them, and write its `index.json`.

    Every file is read once in full for its checksum. Nothing is decoded; see `verify`.

    Raises:
        FileExistsError: The folder has an index already.
        ShardError: Some tars are not intact; all of them are named, and nothing is written.
    """
    folder = Path(folder)
    if (folder / INDEX_NAME).exists():
        raise FileExistsError(f"{folder / INDEX_NAME} exists; delete it to index the folder anew")
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .tar files to index")
    entries: list[ShardEntry] = []
    broken: list[str] = []
    for path in paths:
        try:
            entries.append(_scan_entry(path))
        except ShardError as error:
            broken.append(str(error))
    if broken:
        raise ShardError(
            f"{len(broken)} of {len(paths)} shards are not intact; delete or write them again: "
            + "; ".join(broken)
        )
    logger.info("indexed %d shards in %s", len(entries), folder)
    return write_index(folder, entries, indexed_by="index_folder")


def _scan_entry(path: Path) -> ShardEntry:
    members = TarMembers(path)
    members.close()
    return ShardEntry(path.name, len(members), path.stat().st_size, sha256_file(path))


def verify(
    folder: Path | str, *, deep: bool = False, decoders: Mapping[str, Decoder] | None = None
) -> ShardReport:
    """Compare the shards of a folder with its index: presence, size, checksum, samples.

    With `deep` every member is decoded too, by the default table extended with `decoders`.

    Raises:
        FileNotFoundError: The folder has no index.
        ShardError: The index cannot be read.
    """
    index = read_index(folder)
    problems = [
        problem for entry in index.entries for problem in _entry_problems(index.folder, entry)
    ]
    if deep:
        table = {**default_decoders(), **(decoders or {})}
        for entry in index.entries:
            problems.extend(_decode_problems(index.folder / entry.name, table))
    listed = {index.folder / entry.name for entry in index.entries}
    strays = sorted(set(index.folder.glob("*.tar")) - listed)
    problems.extend(f"{path}: not listed in {INDEX_NAME}" for path in strays)
    return ShardReport(
        num_shards=len(index.entries),
        num_samples=index.num_samples,
        num_bytes=sum(entry.num_bytes for entry in index.entries),
        problems=tuple(problems),
    )


def _entry_problems(folder: Path, entry: ShardEntry) -> Iterator[str]:
    path = folder / entry.name
    if not path.is_file():
        yield f"{path}: missing"
        return
    size = path.stat().st_size
    if size != entry.num_bytes:
        yield f"{path}: {size} bytes, the index says {entry.num_bytes}"
    elif sha256_file(path) != entry.sha256:
        yield f"{path}: sha256 differs from the index"
    try:
        members = TarMembers(path, strict=False)
    except ShardError as error:
        yield str(error)
        return
    if members.damage is not None:
        yield f"{path}: {members.damage}"
    for key, (member, reason) in members.bad.items():
        yield f"{path}: sample {key!r}: member {member!r} {reason}"
    if len(members) != entry.num_samples:
        yield f"{path}: {len(members)} samples, the index says {entry.num_samples}"


def _decode_problems(path: Path, decoders: Mapping[str, Decoder]) -> Iterator[str]:
    try:
        members = TarMembers(path, strict=False)
    except (FileNotFoundError, ShardError):
        return  # Named by the comparison with the index.
    limit = DecodeLimits().max_bytes
    for key in members.keys:
        for extension in members.extensions(key):
            try:
                decode_member(members, key, extension, decoders=decoders, max_bytes=limit)
            except ShardError as error:
                yield f"{path}: sample {key!r}: {error}"
