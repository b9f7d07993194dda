"""Whether the files of a store are those that `store.json` records. Torch-free."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dataset_reinforcement.store.info import Part, ShardInfo
from tenfold import atomic

_NAMED_AT_MOST = 5


def shard_problem(folder: Path, shard: ShardInfo, *, hashed: bool) -> str | None:
    """Return what is wrong with the file of a shard, None for nothing.

    Args:
        folder: The store's folder.
        shard: What is recorded of it.
        hashed: Whether to read the file and compare its hash; else its size alone is compared.
    """
    path = folder / shard.file
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if shard.bytes is not None and size != shard.bytes:
        return f"has {size} bytes, store.json says {shard.bytes}"
    if hashed and shard.sha256 is not None and atomic.sha256_file(path) != shard.sha256:
        return "is damaged: its sha256 is not that of store.json"
    return None


def written_shards(parts: Iterable[Part]) -> list[ShardInfo]:
    """Return the shards that are recorded as written, not only planned."""
    return [shard for part in parts for shard in part.shards if shard.sha256 is not None]


def lost_shards(folder: Path, parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return the parts that lack files or have cut ones, each with those shards alone."""
    lost: list[Part] = []
    for part in parts:
        shards = [s for s in written_shards([part]) if shard_problem(folder, s, hashed=False)]
        if shards:
            lost.append(replace(part, shards=tuple(shards)))
    return tuple(lost)


def require_whole(folder: Path, parts: Iterable[Part]) -> None:
    """Hash the shards of some parts.

    Raises:
        ValueError: Files are missing or damaged; names them.
    """
    found = [
        f"{folder / shard.file} {problem}"
        for shard in written_shards(parts)
        if (problem := shard_problem(folder, shard, hashed=True))
    ]
    if found:
        more = f" and {len(found) - _NAMED_AT_MOST} more" if len(found) > _NAMED_AT_MOST else ""
        raise ValueError(
            f"{'; '.join(found[:_NAMED_AT_MOST])}{more}: copy the store again, or delete what is "
            "damaged and give the store's generate command, without append, to restore it"
        )
