"""Writing and indexing shards."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from tenfold.shards import (
    ShardEntry,
    ShardError,
    TarMembers,
    default_decoders,
    read_index,
    write_index,
    write_shard,
)
from tenfold.shards.decoding import decode
from tenfold.testing import numbered_sample, tiny_shards


def test_members_come_back_as_they_were_written(tmp_path):
    arrays = {"file": np.arange(6.0).reshape(2, 3), "ids": np.array([1, 2], dtype=np.int16)}
    sample = {
        "__key__": "sub/one",
        "__url__": "left out",
        "bin": b"\0\1",
        "cls": 7,
        "json": {"text": "ö", "n": [1, None]},
        "npz": arrays,
        "scores.npy": np.float32([[0.5, -1]]),
        "txt": "line\n",
    }
    entry = write_shard(tmp_path / "a.tar", [sample])
    members = TarMembers(tmp_path / "a.tar")
    assert members.extensions("sub/one") == ("bin", "cls", "json", "npz", "scores.npy", "txt")
    assert members.read("sub/one", "bin") == b"\0\1"
    table = default_decoders()
    for name in ("cls", "json", "txt"):
        assert decode(name, members.read("sub/one", name), table) == sample[name]
    read = decode("scores.npy", members.read("sub/one", "scores.npy"), table)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, sample["scores.npy"])
    decoded = decode("npz", members.read("sub/one", "npz"), table)
    assert decoded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert decoded[name].dtype == array.dtype
        np.testing.assert_array_equal(decoded[name], array)
    content = (tmp_path / "a.tar").read_bytes()
    assert entry == ShardEntry("a.tar", 1, len(content), hashlib.sha256(content).hexdigest())


def test_bytes_depend_on_samples_only(tmp_path):
    sample = {"__key__": "k", "txt": "t", "npz": {"b": np.ones(2), "a": np.zeros(3)}, "json": {}}
    turned = {**dict(reversed(sample.items())), "npz": dict(reversed(sample["npz"].items()))}
    first = write_shard(tmp_path / "a.tar", [sample])
    time.sleep(1.1)  # a time stamp anywhere would differ by now
    second = write_shard(tmp_path / "b.tar", [turned])
    assert first.sha256 == second.sha256
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no samples"),
        ([{"txt": "a"}], "'__key__' must be a str, got None"),
        ([{"__key__": "a"}], "sample 'a' has no members"),
        ([{"__key__": "a", "txt": "x"}, {"__key__": "a", "txt": "y"}], "'a' appears twice"),
        ([{"__key__": "../evil", "txt": "x"}], "climbs out"),
        ([{"__key__": "/etc/x", "txt": "x"}], "absolute"),
        ([{"__key__": "a b", "txt": "x"}], "characters outside"),
        ([{"__key__": "a.b", "txt": "x"}], "dot in its last part"),
        ([{"__key__": "__meta__/a", "txt": "x"}], "metadata"),
        ([{"__key__": "a", "JPG": b"x"}], "lower case"),
        ([{"__key__": "a", "pkl": b"x"}], "pickle"),
        ([{"__key__": "a", "feat.pth": b"x"}], "pickle"),
        ([{"__key__": "a", "flac": [1]}], "no encoder for list under 'flac'"),
        ([{"__key__": "a", "txt": 3}], "sample 'a': cannot encode int as 'txt'"),
        ([{"__key__": "a", "cls": True}], "expected int"),
        ([{"__key__": "a", "json": {"x": float("nan")}}], "cannot encode dict as 'json'"),
        ([{"__key__": "a", "npy": np.array([{}])}], "dtype object"),
        ([{"__key__": "a", "npz": {"x": np.array([None])}}], "dtype object"),
        ([{"__key__": "a" * 300, "txt": "x"}], "does not fit the ustar format"),
    ],
)
def test_writer_refuses(tmp_path, samples, message):
    with pytest.raises(ShardError, match=message) as caught:
        write_shard(tmp_path / "bad.tar", samples)
    assert "bad.tar" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_failing_source_leaves_the_old_shard(tmp_path):
    write_shard(tmp_path / "a.tar", map(numbered_sample, range(2)))
    before = (tmp_path / "a.tar").read_bytes()

    def broken():
        yield from map(numbered_sample, range(1))
        raise RuntimeError("source gone")

    with pytest.raises(RuntimeError, match="source gone"):
        write_shard(tmp_path / "a.tar", broken())
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == before


WRITER = """
import sys
from pathlib import Path
from tenfold.shards import write_index, write_shard
assert "torch" not in sys.modules and "webdataset" not in sys.modules
print("ready", flush=True)
folder = Path(sys.argv[1])
def samples(shard):
    for i in range(40):
        yield {"__key__": f"{shard}-{i}", "txt": f"{i} " * 2000, "cls": i}
entries = [write_shard(folder / f"{shard}.tar", samples(shard)) for shard in range(12)]
write_index(folder, entries, made_by="test")
"""


def start_writer(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)


def folder_digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_killed_writer_leaves_whole_shards_only(tmp_path):
    reference = tmp_path / "reference"
    reference.mkdir()
    with start_writer(reference) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.monotonic()
        assert process.wait() == 0
        duration = time.monotonic() - begun
    expected = folder_digest(reference)
    assert len(expected) == 13
    rng = random.Random(0)
    interrupted = 0
    for attempt in range(5):
        folder = tmp_path / f"killed{attempt}"
        folder.mkdir()
        with start_writer(folder) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.6) * duration)
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = {p.name: p for p in folder.iterdir() if not p.name.startswith(".")}
        interrupted += "index.json" not in found
        for name, path in found.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[name]
    assert interrupted > 0
    with start_writer(folder) as process:
        assert process.wait() == 0
    assert folder_digest(folder) == expected  # left-over temporary files are gone too


def test_index_round_trip(tmp_path):
    written = tiny_shards(tmp_path / "data")
    write_index(written.folder, written.entries, source="test", seed=3)
    index = read_index(tmp_path / "data")
    assert [entry.name for entry in index.entries] == ["0.tar", "1.tar"]
    assert index.num_samples == 7
    assert index.metadata == {"source": "test", "seed": 3}
    assert index.sha256 == written.sha256
    assert index.sha256 != tiny_shards(tmp_path / "other", (3, 5)).sha256


def test_index_is_refused_when_it_would_lie(tmp_path):
    entry = write_shard(tmp_path / "a.tar", map(numbered_sample, range(1)))
    with pytest.raises(ShardError, match=r"a\.tar' is listed twice"):
        write_index(tmp_path, [entry, entry])
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"a\.tar has 0 bytes, its entry says 10240"):
        write_index(tmp_path, [entry])
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ShardError, match=r"a\.tar is absent"):
        write_index(tmp_path, [entry])
    with pytest.raises(ShardError, match="at least one shard"):
        write_index(tmp_path, [])
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected tenfold.shards version 1, got tenfold.shards 2"),
        ({"kind": "other"}, "got other 1"),
        ({"shards": [{"name": "x"}]}, "not an index of shards"),
        ({"shards": []}, "at least one shard"),
        ({"shards": 3}, "not an index of shards"),
    ],
)
def test_foreign_index_is_refused(tmp_path, change, message):
    path = tiny_shards(tmp_path / "data").folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ShardError, match=message):
        read_index(path.parent)


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"'])
def test_garbled_index_is_refused(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ShardError, match="not an index of shards"):
        read_index(tmp_path)


def test_missing_index_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give '.*/\*\.tar' .*index_folder"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("../a.tar", 1, 1, "0" * 64), "climbs out"),
        (("/a.tar", 1, 1, "0" * 64), "absolute"),
        (("a.tar; rm x", 1, 1, "0" * 64), "characters outside"),
        (("a.tar", 0, 1, "0" * 64), "at least 1"),
        (("a.tar", 1, 1, "0" * 63), "64 hex digits"),
    ],
)
def test_entry_is_checked(values, message):
    with pytest.raises(ShardError, match=message):
        ShardEntry(*values)
