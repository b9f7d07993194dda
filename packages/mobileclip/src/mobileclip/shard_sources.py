"""Shards named by a folder with an index, or by a pattern of tars as webdataset users write it.

A pattern needs an index too, which says how many samples each tar has: it is made once, by reading
every tar, and kept under the user's cache directory. Free of torch.
"""

import glob
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from braceexpand import braceexpand

from mobileclip.published import published
from mobileclip.schema import INFO, ReinforcementInfo, read_info
from tenfold.atomic import sha256_file, write_json
from tenfold.demo_data.cache import root
from tenfold.shards import ShardEntry, ShardError, ShardIndex, TarMembers, read_index
from tenfold.shards.index import INDEX_NAME

logger = logging.getLogger(__name__)

_SCANS = 8


def open_shards(spec: Path | str) -> ShardIndex:
    """Return the index of the shards that `spec` names.

    Args:
        spec: A folder with `index.json`, or a pattern of tars: `data/{00000..01023}.tar`,
            `data/*.tar`. Where the tars of a pattern lie in a folder with an index, its entries are
            taken; else the tars are read once, which takes as long as copying them.

    Raises:
        FileNotFoundError: There is no such folder, index or tar.
        ValueError: The pattern is malformed, or a tar is damaged.
    """
    if Path(spec).is_dir():
        return read_index(spec)
    paths = expand(str(spec))
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    if (folder / INDEX_NAME).is_file():
        return _selected(read_index(folder), paths)
    return ShardIndex(folder, _cached_entries(folder, paths))


def expand(pattern: str) -> list[Path]:
    """Return the tars that a brace or glob pattern names, absolute and in order.

    Raises:
        FileNotFoundError: There is none, or one that the braces name is not there.
        ValueError: Braces do not match.
    """
    try:
        names = list(braceexpand(pattern))
    except ValueError as error:
        raise ValueError(f"pattern {pattern!r} has unbalanced braces") from error
    paths: list[Path] = []
    for name in names:
        found = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]  # noqa: PTH207 (any root)
        paths.extend(Path(entry).absolute() for entry in found)
    missing = [path for path in paths if not path.is_file()]
    if not paths or missing:
        raise FileNotFoundError(
            f"{missing[0] if missing else pattern} does not exist ({len(missing)} of {len(paths)} "
            "tars are missing); give a folder with index.json or a pattern of tars"
        )
    return paths


def read_reinforcement(index: ShardIndex, *, release: str = "") -> ReinforcementInfo | None:
    """Return what the shards say about their reinforcement, None where they say nothing.

    Args:
        index: The shards.
        release: Name of the published data set that they are of; those have no file that tells.

    Raises:
        ValueError: Both are there, or the file is damaged, or there is no such release.
    """
    if not (index.folder / INFO).is_file():
        return published(release) if release else None
    if release:
        raise ValueError(
            f"release is {release!r}, but {index.folder / INFO} says what the shards hold; leave "
            "release out"
        )
    return read_info(index.folder)


def _selected(index: ShardIndex, paths: Sequence[Path]) -> ShardIndex:
    known = {(index.folder / entry.name).absolute(): entry for entry in index.entries}
    strays = [path for path in paths if path not in known]
    if strays:
        raise ValueError(f"{strays[0]} is not listed in {index.folder / INDEX_NAME}: index it anew")
    return ShardIndex(index.folder, tuple(known[path] for path in paths), index.metadata)


def _cached_entries(folder: Path, paths: Sequence[Path]) -> tuple[ShardEntry, ...]:
    kept = root() / "shard-indexes" / f"{_fingerprint(paths)}.json"
    if kept.is_file():
        rows = json.loads(kept.read_text(encoding="utf-8"))
        return tuple(ShardEntry(**row) for row in rows)
    logger.info("reading tars below %s once, to index them: %d", folder, len(paths))
    with ThreadPoolExecutor(_SCANS) as pool:
        entries = tuple(pool.map(lambda path: _scan(path, folder), paths))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, [asdict(entry) for entry in entries])
    return entries


def _fingerprint(paths: Sequence[Path]) -> str:
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _scan(path: Path, folder: Path) -> ShardEntry:
    members = TarMembers(path, strict=False)
    size = members.num_bytes
    members.close()
    if members.damage is not None:
        raise ShardError(f"{path}: {members.damage}; leave it out or fetch it again")
    name = path.relative_to(folder).as_posix()
    return ShardEntry(name, len(members), size, sha256_file(path))
