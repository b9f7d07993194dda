"""Shard files: mapped, deterministic, and refused when damaged."""

import json
import multiprocessing
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_stores import AUGMENTS, rows

from dataset_reinforcement.store.columns import pack
from dataset_reinforcement.store.shard import ShardReader, write_shard
from tenfold.atomic import sha256_file


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "views-00000-00006" / "shard-00000.safetensors"
    write_shard(path, pack(rows(AUGMENTS["randaug_mixing"], 0, 5, range(6))))
    return path


def test_a_shard_holds_its_columns(shard: Path) -> None:
    columns = pack(rows(AUGMENTS["randaug_mixing"], 0, 5, range(6)))
    read = ShardReader(shard).arrays
    assert set(read) == set(columns)
    for name, array in columns.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_equal_columns_give_equal_bytes(shard: Path, tmp_path: Path) -> None:
    columns = pack(rows(AUGMENTS["randaug_mixing"], 0, 5, range(6)))
    turned = dict(reversed(columns.items()))
    record = write_shard(tmp_path / "views-00000-00006" / "shard-00001.safetensors", turned)
    assert record == {
        "file": "views-00000-00006/shard-00001.safetensors",
        "bytes": shard.stat().st_size,
        "sha256": sha256_file(shard),
    }


def test_columns_without_entries_survive(tmp_path: Path) -> None:
    columns = pack(rows(AUGMENTS["rrc"], 0, 2, range(3)))
    columns |= {
        "erase.start": np.zeros(3, np.uint32),
        "erase.view": np.zeros(0, np.uint16),
        "erase.box": np.zeros((0, 4), np.int16),
    }
    write_shard(tmp_path / "shard", columns)
    read = ShardReader(tmp_path / "shard")
    assert read.arrays["erase.box"].shape == (0, 4)
    assert read.columns.shape == (2, 3, 3)


def test_a_shard_is_mapped_not_copied(shard: Path) -> None:
    array = ShardReader(shard).arrays["classes"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def _sum_of(reader: ShardReader) -> int:
    return int(reader.columns.classes.sum())


def test_processes_may_read_at_once(shard: Path) -> None:
    reader = ShardReader(shard)
    expected = _sum_of(reader)
    assert _sum_of(pickle.loads(pickle.dumps(reader))) == expected  # noqa: S301
    assert len(pickle.dumps(reader)) < 500
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_sum_of, [reader] * 4) == [expected] * 4


def _header(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return rewrite


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "truncated or damaged"),
        (lambda data: data[: len(data) // 2], "truncated or damaged"),
        (lambda data: data[:100], "truncated: 100 bytes"),
        (lambda data: data[:5], "truncated: 5 bytes"),
        (lambda data: b"", "truncated: 0 bytes"),
        (lambda data: data + b"x", "truncated or damaged"),
        (lambda data: b"\xff" * len(data), "no shard"),
        (lambda data: data[:8] + b"[" + data[9:], "truncated or damaged"),
        (_header(lambda header: header.pop("__metadata__")), "format is None"),
        (_header(lambda header: header["flags"].update(dtype="F64")), "'F64'"),
        (_header(lambda header: header["flags"].update(shape=[5, 7])), "does not fill"),
        (_header(lambda header: header["flags"].update(shape=[-5, -6])), "has shape"),
        (_header(lambda header: header.pop("flags")), "'flags' is missing"),
    ],
)
def test_damaged_shards_are_named(
    shard: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        _ = ShardReader(shard).columns
    assert str(shard) in str(caught.value)


def test_an_absent_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors does not exist"):
        ShardReader(tmp_path / "gone.safetensors")


def test_a_shard_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    columns = pack(rows(AUGMENTS["rrc"], 0, 2, range(3)))
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "shard", columns)
    assert not list(tmp_path.iterdir())
