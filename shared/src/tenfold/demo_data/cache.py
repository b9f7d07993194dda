"""Build once, keep under the user's cache directory, rebuild when the bytes are damaged.

An entry is a folder `<name>-<fingerprint>` with one data file and `manifest.json` (facts, size and
SHA-256). It appears by one rename, so that two processes may build the same entry at once: the
first rename wins and the other process reads the winner's files.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import platformdirs

from tenfold import atomic
from tenfold.demo_data import libraries

_LOG = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_STALE_S = 24 * 3600

ENVIRONMENT_VARIABLE = "TENFOLD_CACHE"

T = TypeVar("T")


class DamagedEntryError(Exception):
    """A cache entry is not what its manifest says; it never leaves this module."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the bytes of a cache entry.

    Attributes:
        name: Folder name of the entry, before the fingerprint.
        file_name: Name of the data file in the entry.
        version: Raised by hand whenever the builder changes its output.
        libraries: Distributions whose installed versions matter.
        parameters: JSON-able arguments of the builder.
    """

    name: str
    file_name: str
    version: int
    libraries: tuple[str, ...]
    parameters: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        """Return what the fingerprint covers.

        Raises:
            FileNotFoundError: One of the libraries is not installed.
        """
        return {
            "name": self.name,
            "version": self.version,
            "libraries": {name: libraries.version(name) for name in self.libraries},
            "parameters": dict(self.parameters),
        }

    def fingerprint(self) -> str:
        """Return the hex SHA-256 of the facts."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()


def root() -> Path:
    """Return the cache folder: `$TENFOLD_CACHE`, or the user's cache directory for tenfold."""
    override = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(override) if override else Path(platformdirs.user_cache_dir("tenfold"))


def fetch(
    recipe: Recipe, *, build: Callable[[IO[bytes]], None], read: Callable[[Path], T]
) -> tuple[T, str]:
    """Return `read(data file)` and the fingerprint, building the entry first where needed.

    `build` writes the data to an open binary file and must be deterministic. An entry whose size or
    hash differs from its manifest is logged, removed and built again.
    """
    fingerprint = recipe.fingerprint()
    folder = root() / "demo_data"
    entry = folder / f"{recipe.name}-{fingerprint[:16]}"
    if entry.exists():
        try:
            return read(_verified(entry, recipe, fingerprint)), fingerprint
        except DamagedEntryError as damage:
            _LOG.warning("rebuilding the cache entry %s: %s", entry, damage)
            _remove(entry)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    _build(entry, recipe, fingerprint, build)
    return read(_verified(entry, recipe, fingerprint)), fingerprint


def progress(items: Iterable[T], *, total: int, title: str) -> Iterator[T]:
    """Yield `items` under a progress bar on a terminal, or after one log line elsewhere."""
    if not sys.stderr.isatty():
        _LOG.info("%s (%d)", title, total)
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, description=title, total=total, console=console, transient=True)


def _build(
    entry: Path, recipe: Recipe, fingerprint: str, build: Callable[[IO[bytes]], None]
) -> None:
    temporary = entry.with_name(f".{entry.name}{atomic.TEMPORARY}{uuid.uuid4().hex[:12]}")
    temporary.mkdir()
    try:
        data = temporary / recipe.file_name
        with atomic.open_atomic(data) as file:
            build(file)
        manifest = {
            "fingerprint": fingerprint,
            "facts": recipe.facts(),
            "bytes": data.stat().st_size,
            "sha256": atomic.sha256_file(data),
        }
        atomic.write_json(temporary / _MANIFEST, manifest)
        try:
            temporary.rename(entry)
        except OSError:
            # A folder cannot replace a folder that is not empty: another process was first.
            if not entry.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    atomic.fsync_dir(entry.parent)


def _verified(entry: Path, recipe: Recipe, fingerprint: str) -> Path:
    data = entry / recipe.file_name
    try:
        manifest = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
        expected = (manifest["fingerprint"], manifest["bytes"], manifest["sha256"])
        found = (fingerprint, data.stat().st_size, atomic.sha256_file(data))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedEntryError(f"{type(error).__name__}: {error}") from error
    for name, want, have in zip(("fingerprint", "size", "sha256"), expected, found, strict=True):
        if want != have:
            raise DamagedEntryError(f"its {name} is {have}, the manifest says {want}")
    return data


def _remove(entry: Path) -> None:
    # Renamed first: nobody may see a half-deleted entry under its own name.
    graveyard = entry.with_name(f".{entry.name}{atomic.TEMPORARY}{uuid.uuid4().hex[:12]}")
    try:
        entry.rename(graveyard)
    except FileNotFoundError:
        return
    shutil.rmtree(graveyard, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    # What a killed builder left; younger ones may belong to a builder at work.
    for left_over in folder.glob(f".*{atomic.TEMPORARY}*"):
        try:
            age = time.time() - left_over.stat().st_mtime
        except FileNotFoundError:
            continue
        if age > _STALE_S:
            shutil.rmtree(left_over, ignore_errors=True)
