"""Compare every shard and held-out file with the SHA-256 that was written with it."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from dataset_decomposition.manifest import bucket_folders, read_manifest
from dataset_decomposition.records import read_info
from tenfold import atomic

_log = logging.getLogger(__name__)

NAMED = 5
"""So many changed files are named in the error."""


class _Stated(NamedTuple):
    path: Path
    sha256: str | None


def check_sha256(data: Path) -> None:
    """Read a prepared data set once and refuse it if a byte of it has changed.

    Args:
        data: Folder that `prepare` made.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file has another SHA-256 than its record says, or the record says none.
    """
    files = list(chain(_shards(data), _heldout_files(data)))
    if unknown := [file.path for file in files if file.sha256 is None]:
        raise ValueError(
            f"{unknown[0]} has no SHA-256 on record, nor have {len(unknown) - 1} other files of "
            f"{data}; prepare anew, or check sizes only"
        )
    _log.info("reading %d files of %s to compare their SHA-256", len(files), data)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        found = pool.map(atomic.sha256_file, (file.path for file in files))
        changed = [f.path for f, digest in zip(files, found, strict=True) if digest != f.sha256]
    if changed:
        names = ", ".join(str(path) for path in changed[:NAMED])
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise ValueError(
            f"{len(changed)} of {len(files)} files have another SHA-256 than when they were "
            f"written: {names}{more}; restore them or prepare anew"
        )


def _shards(data: Path) -> Iterator[_Stated]:
    for folder in bucket_folders(data).values():
        for shard in read_manifest(folder):
            yield _Stated(folder / f"{shard.shard}.tar", shard.sha256)


def _heldout_files(data: Path) -> Iterator[_Stated]:
    heldout = read_info(data)["heldout"]
    for name, stated in (heldout or {}).get("files", {}).items():
        yield _Stated(data / name, stated["sha256"])
