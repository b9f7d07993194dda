"""Batches across samples, bad samples, and where generation may write."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from generation_files import make_pair, write_pairs
from torch import Tensor

from mobileclip.generate.batching import encode_across
from mobileclip.generate.pairs import BadPairError, Skipped, read_pair, usable
from mobileclip.generate.shard_runs import RunOptions, check_folders, check_fraction
from mobileclip.shard_sources import open_shards
from tenfold.shards import TarMembers, write_shard


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_each_sample_gets_the_rows_of_its_own_items(batch: int):
    counts = [3, 1, 0, 5, 2, 0, 0, 8, 1]
    samples = [(name, count) for name, count in enumerate(counts)]
    sizes: list[int] = []

    def encode(items: list[tuple[int, int]]) -> Tensor:
        sizes.append(len(items))
        return torch.tensor(items)

    def items(sample: tuple[int, int]) -> list[tuple[int, int]]:
        return [(sample[0], i) for i in range(sample[1])]

    found = list(encode_across(samples, items, encode, batch=batch))
    assert [sample for sample, _ in found] == samples
    for sample, rows in found:
        assert [tuple(row) for row in rows.tolist()] == items(sample)
    assert sizes[:-1] == [batch] * (len(sizes) - 1)
    assert sum(sizes) == sum(counts)


def test_samples_are_read_no_further_ahead_than_a_batch_needs():
    read: list[int] = []

    def samples() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    rows = encode_across(samples(), lambda n: [n, n], lambda part: torch.tensor(part), batch=4)
    assert next(rows)[0] == 0
    assert len(read) == 2


@pytest.mark.parametrize("threads", [1, 4])
def test_bad_samples_are_left_out_and_the_others_stay_in_order(threads: int):
    keys = [f"{number:03d}" for number in range(50)]
    bad = set(random.Random(0).sample(keys, 9))

    def read(key: str) -> str:
        if key in bad:
            raise BadPairError("it is bad")
        return key

    skipped: list[Skipped] = []
    assert list(usable(keys, read, skipped, threads=threads)) == [k for k in keys if k not in bad]
    assert skipped == [Skipped(key, "it is bad") for key in keys if key in bad]


@pytest.mark.parametrize("threads", [1, 2])
def test_other_errors_are_no_bad_samples(threads: int):
    def read(key: str) -> str:
        raise ValueError(f"a mistake in {key}")

    with pytest.raises(ValueError, match="a mistake in a"):
        list(usable(["a", "b"], read, [], threads=threads))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"png": None}, "no image among its members json, txt"),
        ({"txt": None}, "no txt among its members json, png"),
        ({"png": b"\x89PNG"}, "png: image cannot be decoded"),
        ({"png": b""}, "png: image cannot be decoded"),
        ({"txt": b"\xff"}, "txt is not UTF-8"),
        ({"txt": b""}, "captions: the real caption is empty"),
        ({"txt": b" \n"}, "captions: the real caption is empty"),
        ({"json": b"{"}, "json is no JSON"),
        ({"json": b"[1]"}, "json must be a JSON object, got list"),
    ],
)
def test_what_makes_a_pair_bad(tmp_path: Path, members: dict[str, Any], reason: str):
    sample = {name: value for name, value in (make_pair(1) | members).items() if value is not None}
    write_shard(tmp_path / "bad.tar", [sample])
    with pytest.raises(BadPairError, match=reason):
        read_pair(TarMembers(tmp_path / "bad.tar"), "000001")


def test_the_uid_stands_in_json_or_is_the_key(tmp_path: Path):
    other = {name: value for name, value in make_pair(2).items() if name != "json"}
    write_shard(tmp_path / "a.tar", [make_pair(1), other])
    tar = TarMembers(tmp_path / "a.tar")
    assert read_pair(tar, "000001")[0].uid == json.loads(tar.read("000001", "json"))["uid"]
    assert read_pair(tar, "000002")[0].uid == "000002"


def test_folders_that_hold_other_things_are_refused(tmp_path: Path):
    index = open_shards(write_pairs(tmp_path / "in", shards=1, each=1))
    check_folders(index, tmp_path / "new", "captions")
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("")
    for name, message in [
        ("in", "in holds the shards that are read"),
        ("file", "file is a file"),
        ("full", "full is not empty and was not begun by this verb"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_folders(index, tmp_path / name, "captions")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RunOptions(workers=0), "workers and threads must be >= 1, got 0 and 1"),
        (RunOptions(threads=0), "workers and threads must be >= 1, got 1 and 0"),
        (RunOptions(devices=("cpu", "cpu")), "2 devices need as many workers"),
        (RunOptions(devices=("abacus",)), "devices has 'abacus', which is not here"),
    ],
)
def test_options_that_cannot_run(options: RunOptions, message: str):
    with pytest.raises(ValueError, match=message):
        options.check()


def test_networks_are_tried_where_they_work_or_on_the_cpu():
    assert RunOptions(devices=("cuda:3",)).first_device == "cuda:3"
    assert RunOptions(devices=("cuda:3",), workers=2).first_device == "cpu"
    assert RunOptions(devices=("cuda:3",), ray_address="local").first_device == "cpu"


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_share_lies_between_nothing_and_all(fraction: float):
    with pytest.raises(ValueError, match=r"max_bad_fraction must lie in 0\.\.1"):
        check_fraction(fraction)
