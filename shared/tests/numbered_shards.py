"""Shards whose samples carry their number in the folder as class, and streams that read them."""

from pathlib import Path
from typing import Any

from tenfold.shards import SampleSchema, ShardLoader, ShardStream
from tenfold.testing import tiny_shards

SIZES = (7, 5, 9, 1, 8)
TOTAL = sum(SIZES)
SCHEMA = SampleSchema(required=("cls",))


def write_numbered(folder: Path) -> Path:
    """Write the shards; with one member a sample, sample n of a shard begins at byte 1024 n."""
    tiny_shards(folder, SIZES, sample=lambda number: {"__key__": f"{number:03d}", "cls": number})
    return folder


def classes(batch: list[dict[str, Any]]) -> list[int]:
    return [sample["cls"] for sample in batch]


def make_stream(folder: Path, **options: Any) -> ShardStream:
    return ShardStream(folder, SCHEMA, **{"batch_size": 2, "mix_shards": 2, **options})


def take(loader: ShardLoader, count: int) -> list[Any]:
    """Take `count` batches, beginning iterations anew as often as that needs."""
    taken: list[Any] = []
    while len(taken) < count:
        for batch in loader:
            taken.append(batch)
            if len(taken) == count:
                break
    return taken


def sequence(folder: Path, count: int, **options: Any) -> list[int]:
    """Return the global sequence of samples, from one rank without workers."""
    loader = ShardLoader(make_stream(folder, batch_size=1, **options), collate_fn=classes)
    return [number for batch in take(loader, count) for number in batch]
