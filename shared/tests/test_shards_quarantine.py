"""Bad samples and shards in a running `ShardStream`."""

import json
import tarfile
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from foreign_tars import write_tar
from numbered_shards import SCHEMA, TOTAL, classes, make_stream, take

from tenfold.atomic import sha256_file
from tenfold.shards import (
    DecodeLimits,
    SampleSchema,
    ShardEntry,
    ShardError,
    ShardLoader,
    ShardStream,
    TarMembers,
    write_index,
    write_shard,
)
from tenfold.shards.quarantine import Quarantine
from tenfold.shards.samples import UnwantedSampleError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def spoiled(tmp_path: Path, members: list[tuple[str, bytes]], bad: list[tuple[str, bytes]]) -> Path:
    """Write a folder whose second and last shard ends with `bad` members."""
    folder = tmp_path / "spoiled"
    write_shard(folder / "0.tar", [{"__key__": f"a{i}", "txt": "fine"} for i in range(8)])
    write_tar(folder / "1.tar", members + bad)
    return folder


def entry_of(path: Path, count: int) -> ShardEntry:
    return ShardEntry(path.name, count, path.stat().st_size, sha256_file(path))


GOOD = [(f"b{i}.txt", b"good") for i in range(3)]
HUGE = b'"' + b"x" * 200 + b'"'


@pytest.mark.parametrize(
    ("bad", "key", "member", "reason"),
    [
        ([("x.jpg", b"?")], "x", None, "required 'txt' is missing, has jpg"),
        ([("x.txt", b"\xff")], "x", "x.txt", "cannot decode: UnicodeDecodeError"),
        ([("x.json", HUGE), ("x.txt", b"")], "x", "x.json", "json of 202 bytes is over the limit"),
        ([("x.txt", b"y" * 2000)], "x", "x.txt", "2000 bytes are over the limit of 1000"),
        ([("x.jpg", b"broken"), ("x.txt", b"")], "x", "x.jpg", "cannot decode: Unidentified"),
        ([("x.TXT", b"")], "x", "x.TXT", "extensions are lower case: 'txt'"),
        ([("x.pyd", b""), ("x.txt", b"")], "x", "x.pyd", "pickled data can run code"),
        ([("x.flac", b""), ("x.txt", b"")], "x", "x.flac", "list it in `ignored`"),
        ([("x.txt", b""), ("x.txt", b"")], "x", "x.txt", "appears twice"),
        ([("x.cls", b""), ("y.txt", b""), ("x.txt", b"")], "x", "x.txt", "lies apart"),
    ],
)
def test_bad_sample_is_quarantined_and_replaced(tmp_path, bad, key, member, reason):
    folder = spoiled(tmp_path, GOOD, bad)
    count = len({name.split(".")[0] for name, _ in GOOD + bad})
    entries = [entry_of(folder / "0.tar", 8), entry_of(folder / "1.tar", count)]
    write_index(folder, entries)
    schema = SampleSchema(
        required=("txt",),
        optional=("jpg", "json"),
        limits=DecodeLimits(max_text_bytes=100, max_bytes=1000),
    )
    options: dict[str, Any] = {"batch_size": 1, "max_bad_fraction": 0.5, "mix_shards": 1}

    def keys(**more: Any) -> list[str]:
        loader = ShardLoader(
            ShardStream(folder, schema, **options, **more),
            collate_fn=lambda batch: [sample["__key__"] for sample in batch],
        )
        return [key for batch in take(loader, 3 * (8 + count)) for key in batch]

    seen = keys()
    recorded = lines(folder / "quarantine.jsonl")
    assert len(recorded) == 1
    assert recorded[0]["shard"] == "1.tar"
    assert (recorded[0]["key"], recorded[0]["member"]) == (key, member)
    assert reason in recorded[0]["reason"]
    assert key not in seen
    counts = Counter(seen)
    assert sum(counts[f"a{i}"] for i in range(8)) == 24  # substitutes come from the same shard
    assert keys() == seen
    assert len(lines(folder / "quarantine.jsonl")) == 1


def test_substitute_is_the_same_for_all_ranks_and_workers(tmp_path):
    folder = spoiled(tmp_path, GOOD, [("x.txt", b"\xff"), ("y.txt", b"\xff")])
    write_index(folder, [entry_of(folder / "0.tar", 8), entry_of(folder / "1.tar", 5)])
    schema = SampleSchema(required=("txt",))

    def run(**options: Any) -> list[list[str]]:
        workers = options.pop("num_workers", 0)
        stream = ShardStream(folder, schema, num_batches=20, max_bad_fraction=0.5, **options)
        return list(ShardLoader(stream, collate_fn=names, num_workers=workers))

    alone = [key for batch in run(batch_size=2) for key in batch]
    ranks = [run(batch_size=1, rank=rank, world_size=2, num_workers=2 * rank) for rank in range(2)]
    assert [key for pair in zip(*ranks, strict=True) for b in pair for key in b] == alone
    assert {line["key"] for line in lines(folder / "quarantine.jsonl")} == {"x", "y"}
    assert len(lines(folder / "quarantine.jsonl")) == 2


class Wanted(SampleSchema):
    """Takes no sample whose text is `small`."""

    def read(self, members: TarMembers, key: str) -> dict[str, Any]:
        sample = super().read(members, key)
        if sample["txt"] == "small":
            raise UnwantedSampleError("too small")
        return sample


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unwanted_sample_is_replaced_but_neither_noted_nor_counted(tmp_path, num_workers):
    unwanted = [(f"{key}.txt", b"small") for key in "xyz"]
    folder = spoiled(tmp_path, GOOD, unwanted)
    write_index(folder, [entry_of(folder / "0.tar", 8), entry_of(folder / "1.tar", 6)])
    stream = ShardStream(folder, Wanted(("txt",)), batch_size=1, max_bad_fraction=0.0)
    taken = Counter(s["__key__"] for b in ShardLoader(stream, num_workers=num_workers) for s in b)
    assert taken.total() == 14
    assert set(taken) >= {f"a{i}" for i in range(8)} | {"b0", "b1", "b2"}
    assert not set(taken) & set("xyz")
    assert not (folder / "quarantine.jsonl").exists()


def test_a_shard_of_unwanted_samples_alone_is_an_error(tmp_path):
    folder = spoiled(tmp_path, [("x.txt", b"small")], [])
    write_index(folder, [entry_of(folder / "1.tar", 1)])
    with pytest.raises(ShardError, match=r"1\.tar: no good sample at all; too small"):
        take(ShardLoader(ShardStream(folder, Wanted(("txt",)), batch_size=1)), 1)


def names(batch: list[dict[str, Any]]) -> list[str]:
    return [sample["__key__"] for sample in batch]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_bad_samples_end_the_run_on_one_line(tmp_path, num_workers):
    folder = spoiled(tmp_path, GOOD, [("x.txt", b"\xff"), ("y.txt", b"\xff")])
    write_index(folder, [entry_of(folder / "0.tar", 8), entry_of(folder / "1.tar", 5)])
    stream = ShardStream(folder, SampleSchema(("txt",)), batch_size=1, max_bad_fraction=0.1)
    loader = ShardLoader(stream, num_workers=num_workers)
    with pytest.raises(ShardError) as caught:
        take(loader, 26)
    message = str(caught.value)
    assert message.startswith("2 of 13 samples are bad, more than max_bad_fraction=0.1; the latest")
    assert "\n" not in message
    assert message.endswith("quarantine.jsonl; mend them or raise max_bad_fraction")
    # The list outlives the process: a new run ends at its first bad sample.
    with pytest.raises(ShardError, match="2 of 13 samples"):
        take(ShardLoader(stream), 26)
    assert len(lines(folder / "quarantine.jsonl")) == 2


@pytest.mark.parametrize(("num_bad", "ends"), [(2, False), (3, True)])
def test_default_budget_is_one_percent(tmp_path, num_bad, ends):
    samples = [
        {"__key__": f"{i:03d}", "cls": b"bad" if i < num_bad else b"%d" % i} for i in range(200)
    ]
    write_index(tmp_path, [write_shard(tmp_path / "0.tar", samples)])
    stream = ShardStream(tmp_path, SCHEMA, batch_size=10, quarantine=tmp_path / "run" / "bad.jsonl")
    if ends:
        with pytest.raises(ShardError, match=r"3 of 200 samples are bad.*run/bad\.jsonl"):
            take(ShardLoader(stream), 20)
    else:
        assert len(take(ShardLoader(stream), 20)) == 20
    assert len(lines(tmp_path / "run" / "bad.jsonl")) == num_bad


def test_shard_without_a_good_sample_ends_the_run(tmp_path):
    folder = spoiled(tmp_path, [], [("x.txt", b"\xff"), ("y.jpg", b"")])
    write_index(folder, [entry_of(folder / "0.tar", 8), entry_of(folder / "1.tar", 2)])
    stream = ShardStream(folder, SampleSchema(("txt",)), batch_size=1, max_bad_fraction=0.9)
    with pytest.raises(ShardError, match=r"^1\.tar: no good sample at all; "):
        take(ShardLoader(stream), 10)


def test_truncated_shard_loses_its_lost_samples_only(shards):
    """Cut inside a header: tarfile and webdataset see a shorter but whole tar."""
    path = shards / "2.tar"
    path.write_bytes(path.read_bytes()[: 6 * 1024 + 100])
    with tarfile.open(path) as tar:
        assert len(tar.getnames()) == 6
    stream = make_stream(shards, batch_size=1, max_bad_fraction=0.5)
    seen = [n for batch in take(ShardLoader(stream, collate_fn=classes), TOTAL) for n in batch]
    # Number 17 is the last before the cut and might have lost members.
    assert set(range(TOTAL)) - set(seen) >= {17, 18, 19, 20}
    assert {n for n in seen if 12 <= n < 21} <= set(range(12, 17))
    recorded = lines(shards / "quarantine.jsonl")
    assert sorted(line["sample"] for line in recorded) == [5, 6, 7, 8]
    by_sample = {line["sample"]: line for line in recorded}
    assert by_sample[5]["reason"] == "is the last before the shard breaks, others may be lost"
    assert by_sample[5]["member"] == "017.cls"
    assert by_sample[6]["key"] is None
    assert "index says 9 samples, the shard holds 6; truncated" in by_sample[6]["reason"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "2.tar: no good sample at all; missing: .* holds 0; broken tar: empty file"),
        (bytes(10240), "no good sample at all; .* holds no samples"),
    ],
)
def test_empty_shard_ends_the_run(shards, content, message):
    (shards / "2.tar").write_bytes(content)
    with pytest.raises(ShardError, match=message):
        take(ShardLoader(make_stream(shards, max_bad_fraction=0.5)), TOTAL)


def test_hostile_member_ends_the_run(shards):
    write_tar(shards / "2.tar", [("../evil.cls", b"")])
    with pytest.raises(ShardError, match=r"2\.tar: member '\.\./evil\.cls' climbs out"):
        take(ShardLoader(make_stream(shards)), TOTAL)
    assert not list(shards.parent.glob("evil*"))


@pytest.mark.parametrize(("count", "extra"), [(10, 0), (9, 20_000)])
def test_rewritten_shard_ends_the_run(shards, count, extra):
    samples = [{"__key__": str(i), "cls": i, "bin": bytes(extra)} for i in range(count)]
    write_shard(shards / "2.tar", samples)
    with pytest.raises(ShardError, match="was written again since; index the folder anew"):
        take(ShardLoader(make_stream(shards)), TOTAL)


def record_many(path: Path, barrier: Any = None) -> None:
    quarantine = Quarantine(path, data="d", num_samples=10**6)
    if barrier is not None:
        barrier.wait()
    for i in range(100):
        quarantine.record(shard="0.tar", sample=i, key=str(i), member=None, reason="test")


def test_processes_share_one_list(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    context = get_context("fork")
    barrier = context.Barrier(3)
    processes = [context.Process(target=record_many, args=(path, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(line["sample"] for line in lines(path)) == list(range(100))


def test_half_a_line_of_a_killed_writer_is_dropped(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    record_many(path)
    with path.open("ab") as file:
        file.write(b'{"data": "d", "shar')
    quarantine = Quarantine(path, data="d", num_samples=10**6)
    quarantine.record(shard="1.tar", sample=0, key="a", member="a.txt", reason="r")
    assert len(lines(path)) == len(quarantine) == 101
    other = Quarantine(path, data="other data", num_samples=100)
    other.record(shard="1.tar", sample=0, key="a", member="a.txt", reason="r")
    assert len(other) == 1


def test_unwritable_list_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    quarantine = Quarantine(tmp_path / "file" / "q.jsonl", data="d", num_samples=9)
    with pytest.raises(ShardError, match="give `quarantine` another path"):
        quarantine.record(shard="1.tar", sample=0, key=None, member=None, reason="r")
