"""Shards of a `ShardStream` that come from elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from tenfold.shards import (
    RemoteSource,
    SampleSchema,
    ShardError,
    ShardLoader,
    ShardStream,
    index_folder,
    read_index,
    write_index,
    write_shard,
)

SIZES = (7, 5, 9, 1, 8)
TOTAL = sum(SIZES)
SCHEMA = SampleSchema(required=("cls",))


@pytest.fixture
def folder(tmp_path):
    """Samples whose class is their number in the folder."""
    path = tmp_path / "data"
    first = 0
    entries = []
    for n, size in enumerate(SIZES):
        samples = [{"__key__": f"{i:03d}", "cls": i} for i in range(first, first + size)]
        entries.append(write_shard(path / f"{n}.tar", samples))
        first += size
    write_index(path, entries)
    return path


def keep(batch: list[dict[str, Any]]) -> list[int]:
    return [sample["cls"] for sample in batch]


def make(folder: Path, **options: Any) -> ShardStream:
    return ShardStream(folder, SCHEMA, **{"batch_size": 2, "mix_shards": 2, **options})


def take(loader: ShardLoader, count: int) -> list[list[int]]:
    taken: list[list[int]] = []
    while len(taken) < count:
        for batch in loader:
            taken.append(batch)
            if len(taken) == count:
                break
    return taken


def sequence(folder: Path, count: int, **options: Any) -> list[int]:
    """Return the global sequence of samples, from one rank without workers."""
    loader = ShardLoader(make(folder, batch_size=1, **options), collate_fn=keep)
    return [number for batch in take(loader, count) for number in batch]


def test_remote_shards_are_fetched_once_and_checked(folder, tmp_path):
    index = read_index(folder)
    log = tmp_path / "log"
    root = f"pipe:echo {{name}} >> {log}; cat {folder}/{{name}}"
    source = RemoteSource(index, root=root, cache=tmp_path / "cache", allow_pipe=True)
    expected = sequence(folder, TOTAL)
    stream = ShardStream(source, SCHEMA, batch_size=1, mix_shards=2)
    for _ in range(2):
        stream.position = 0
        batches = take(ShardLoader(stream, collate_fn=keep), TOTAL)
        assert [n for batch in batches for n in batch] == expected
    assert sorted(log.read_text().split()) == [entry.name for entry in index.entries]
    (folder / "0.tar").write_bytes(b"x" * 10240)
    fresh = RemoteSource(index, root=root, cache=tmp_path / "fresh", allow_pipe=True)
    with pytest.raises(ShardError, match=r"10240 bytes with sha256 .* the index says 10240 bytes"):
        fresh.path(index.entries[0])
    assert not list((tmp_path / "fresh").rglob("*.tar"))
    with pytest.raises(OSError, match="exit 3"):
        RemoteSource(
            index, root="pipe:exit 3 # {name}", cache=tmp_path / "none", allow_pipe=True
        ).path(index.entries[0])


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("pipe:cat {name}", "pass allow_pipe=True"),
        ("PIPE:cat {name}", "pass allow_pipe=True"),
        ("s3://bucket/{name}", "scheme 's3' .* is not one of gs, hf, http, https"),
        ("file:///data/{name}", "scheme 'file'"),
        ("/data/{name}", "for a local folder pass the folder itself"),
        ("-", "scheme ''"),
        ("https://host/data", "must contain '{name}'"),
    ],
)
def test_addresses_are_checked(folder, tmp_path, root, message):
    with pytest.raises(ValueError, match=message):
        RemoteSource(read_index(folder), root=root, cache=tmp_path / "cache")


def test_folder_indexed_afterwards_gives_the_same_stream(folder):
    expected = sequence(folder, TOTAL)
    (folder / "index.json").unlink()
    index = index_folder(folder)
    stream = ShardStream(index, SCHEMA, batch_size=1, mix_shards=2)
    assert [n for b in take(ShardLoader(stream, collate_fn=keep), TOTAL) for n in b] == expected
