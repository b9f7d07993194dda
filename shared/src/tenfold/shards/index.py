"""`index.json`: the shards of a folder with counts and checksums, written after all of them.

Its presence says that the folder is complete. The counts are the only defence against a tar that
was cut inside a header, which ordinary readers take for its end.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tenfold.atomic import remove_temporaries, write_json
from tenfold.shards.names import ShardError, unsafe_name

INDEX_NAME = "index.json"
VERSION = 1
_KIND = "tenfold.shards"


@dataclass(frozen=True)
class ShardEntry:
    """One shard of an index.

    Attributes:
        name: File name relative to the index's folder, with `/` between parts.
        num_samples: Distinct sample keys in the tar.
        num_bytes: Size of the file.
        sha256: Hex digest of the file's content.
    """

    name: str
    num_samples: int
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        reason = unsafe_name(self.name)
        if reason is not None:
            raise ShardError(f"shard name {self.name!r} {reason}")
        if self.num_samples < 1 or self.num_bytes < 1:
            raise ShardError(
                f"{self.name}: num_samples and num_bytes must be at least 1, "
                f"got {self.num_samples} and {self.num_bytes}"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ShardError(f"{self.name}: sha256 must be 64 hex digits, got {self.sha256!r}")


@dataclass(frozen=True)
class ShardIndex:
    """The shards below a folder, in order, with free metadata of whoever wrote them."""

    folder: Path
    entries: tuple[ShardEntry, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if not names:
            raise ShardError(f"{self.folder}: an index needs at least one shard")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ShardError(f"{self.folder}: shard {twice!r} is listed twice")

    @property
    def num_samples(self) -> int:
        """Samples of all shards."""
        return sum(entry.num_samples for entry in self.entries)

    @property
    def sha256(self) -> str:
        """Digest of names, counts and contents of the shards; metadata does not count."""
        rows = [asdict(entry) for entry in self.entries]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def write_index(folder: Path | str, entries: Iterable[ShardEntry], **metadata: Any) -> ShardIndex:
    """Write `index.json`; call it last, when no writer is at work in the folder any more.

    Left-over temporary files of killed writers are removed. `metadata` must be JSON-able.

    Raises:
        ShardError: A listed shard is absent or has another size.
    """
    folder = Path(folder)
    index = ShardIndex(folder, tuple(entries), metadata)
    for entry in index.entries:
        path = folder / entry.name
        size = path.stat().st_size if path.is_file() else None
        if size != entry.num_bytes:
            found = "is absent" if size is None else f"has {size} bytes"
            raise ShardError(f"{path} {found}, its entry says {entry.num_bytes} bytes")
        remove_temporaries(path.parent)
    write_json(
        folder / INDEX_NAME,
        {
            "kind": _KIND,
            "version": VERSION,
            "shards": [asdict(entry) for entry in index.entries],
            "metadata": dict(metadata),
        },
    )
    return index


def read_index(folder: Path | str) -> ShardIndex:
    """Read the index of a folder.

    Raises:
        FileNotFoundError: The folder has no `index.json`.
        ShardError: The file is not an index, or of another version.
    """
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; finish writing the shards, or, where a pattern of tars is "
            f"taken, give '{folder}/*.tar' (in Python: tenfold.shards.index_folder)"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, version = content.get("kind"), content.get("version")
        if (kind, version) != (_KIND, VERSION):
            raise ShardError(f"{path}: expected {_KIND} version {VERSION}, got {kind} {version}")
        entries = tuple(ShardEntry(**row) for row in content["shards"])
        return ShardIndex(Path(folder), entries, content["metadata"])
    except ShardError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path} is not an index of shards: {error!r}") from error
