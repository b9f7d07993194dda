"""Shards of a `ShardStream` that come from elsewhere."""

import pytest
from numbered_shards import SCHEMA, TOTAL, classes, sequence, take

from tenfold.shards import (
    RemoteSource,
    ShardError,
    ShardLoader,
    ShardStream,
    index_folder,
    read_index,
)


def test_remote_shards_are_fetched_once_and_checked(shards, tmp_path):
    index = read_index(shards)
    log = tmp_path / "log"
    root = f"pipe:echo {{name}} >> {log}; cat {shards}/{{name}}"
    source = RemoteSource(index, root=root, cache=tmp_path / "cache", allow_pipe=True)
    expected = sequence(shards, TOTAL)
    stream = ShardStream(source, SCHEMA, batch_size=1, mix_shards=2)
    for _ in range(2):
        stream.position = 0
        batches = take(ShardLoader(stream, collate_fn=classes), TOTAL)
        assert [n for batch in batches for n in batch] == expected
    assert sorted(log.read_text().split()) == [entry.name for entry in index.entries]
    (shards / "0.tar").write_bytes(b"x" * 10240)
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
def test_addresses_are_checked(shards, tmp_path, root, message):
    with pytest.raises(ValueError, match=message):
        RemoteSource(read_index(shards), root=root, cache=tmp_path / "cache")


def test_folder_indexed_afterwards_gives_the_same_stream(shards):
    expected = sequence(shards, TOTAL)
    (shards / "index.json").unlink()
    index = index_folder(shards)
    stream = ShardStream(index, SCHEMA, batch_size=1, mix_shards=2)
    assert [n for b in take(ShardLoader(stream, collate_fn=classes), TOTAL) for n in b] == expected
