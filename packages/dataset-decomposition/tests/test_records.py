import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_decomposition import mapped
from dataset_decomposition.bucket_reader import BucketReader, parse_openlm
from dataset_decomposition.manifest import read_manifest, write_manifest
from dataset_decomposition.records import open_dataset, shard_name, write_rows
from tenfold.bucketing import BadRecordError
from tenfold.shards import ShardError, write_shard


def make_bucket(
    folder: Path, rows: np.ndarray, *, per_shard: int, per_record: int, form: Any = "packed"
) -> Path:
    shards = [
        write_rows(
            folder / f"{shard_name(number)}.tar",
            rows[start : start + per_shard],
            number=number,
            rows_per_record=per_record,
            format=form,
        )
        for number, start in enumerate(range(0, len(rows), per_shard))
    ]
    write_manifest(folder, shards)
    return folder


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1 << 16, (50, 9)).astype(np.uint16)


@pytest.mark.parametrize("form", ["packed", "openlm"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_any_rows_in_any_order(tmp_path: Path, rows: np.ndarray, form: str, dtype: type):
    rows = rows.astype(dtype)
    per_record = 4 if form == "packed" else 1
    folder = make_bucket(tmp_path / "D_3", rows, per_shard=18, per_record=per_record, form=form)
    reader = BucketReader(folder)
    assert (reader.num_rows, len(reader), reader.seq_len, reader.bucket) == (50, 50, 8, 3)
    assert reader.dtype == (np.uint32 if form == "openlm" else dtype)
    order = np.random.default_rng(1).permutation(50)
    for numbers in (order, [49], [], [7, 7, 0]):
        found = reader.read(numbers)
        assert found.shape == (len(numbers), 9)
        np.testing.assert_array_equal(found, rows[np.asarray(numbers, dtype=int)])


def test_manifest_says_what_the_shards_hold(tmp_path: Path, rows: np.ndarray):
    folder = make_bucket(tmp_path / "D_3", rows, per_shard=20, per_record=8)
    shards = read_manifest(folder)
    assert [(s.num_records, s.num_sequences) for s in shards] == [(3, 20), (3, 20), (2, 10)]
    for shard in shards:
        path = folder / f"{shard.shard}.tar"
        assert shard.bytes == path.stat().st_size
        with tarfile.open(path) as tar:
            assert len(tar.getnames()) == shard.num_records


def read_in_child(reader: BucketReader, numbers: list[int]) -> list[list[int]]:
    return reader.read(numbers).tolist()


def test_readers_travel_by_pickle_and_by_fork(tmp_path: Path, rows: np.ndarray):
    reader = BucketReader(make_bucket(tmp_path / "D_3", rows, per_shard=18, per_record=4))
    reader.read(np.arange(50))
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301
    np.testing.assert_array_equal(copy.read([3, 40]), rows[[3, 40]])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(read_in_child, [(reader, [i, 49 - i]) for i in range(10)])
        pool.close()
        pool.join()
    assert found == [rows[[i, 49 - i]].tolist() for i in range(10)]


def test_few_shards_stay_open(tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mapped, "MAX_OPEN", 3)
    reader = BucketReader(make_bucket(tmp_path / "D_3", rows, per_shard=5, per_record=2))
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(reader.read(order), rows[order])
    assert len(reader._cache._open) == 3


@pytest.mark.parametrize("numbers", [[50], [-1], [0, 99]])
def test_rows_out_of_range(tmp_path: Path, rows: np.ndarray, numbers: list[int]):
    reader = BucketReader(make_bucket(tmp_path / "D_3", rows, per_shard=50, per_record=4))
    with pytest.raises(IndexError, match="were asked of 50"):
        reader.read(numbers)
    with pytest.raises(ValueError, match="1-D array"):
        reader.read([[1, 2]])


def test_official_shards_and_manifests_are_read_as_they_are(tmp_path: Path):
    """Follow the published form: printed lists, end of text as a string, bare manifest lines."""
    tokens = [[5, 6, 7, 8, "<|endoftext|>"], [1, 2, 3, 4, 5]]
    for bucket, items in ((2, tokens), (1, [[9, 9, "<|endoftext|>"]])):
        folder = tmp_path / f"D_{bucket}"
        samples = [{"__key__": f"{i:012d}", "txt": str(item)} for i, item in enumerate(items)]
        write_shard(folder / "shard-0000000.tar", samples)
        line = {"shard": "shard-0000000", "num_sequences": len(items)}
        (folder / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    data = open_dataset(tmp_path, eot_id=50_256)
    assert list(data.buckets) == [1, 2]
    assert data.buckets[2].read([0, 1]).tolist() == [[5, 6, 7, 8, 50_256], [1, 2, 3, 4, 5]]
    assert data.buckets[1].read([0]).tolist() == [[9, 9, 50_256]]
    assert data.info["buckets"]["2"] == {"sequences": 2, "tokens": 8, "shards": 1}
    with pytest.raises(FileNotFoundError, match="give their eot_id"):
        open_dataset(tmp_path)
    with pytest.raises(BadRecordError, match="writes end of text as a string"):
        BucketReader(tmp_path / "D_2").read([0])


def test_official_manifests_that_repeat_themselves_are_refused(tmp_path: Path):
    line = json.dumps({"shard": "shard-0000000", "num_sequences": 4}) + "\n"
    (tmp_path / "D_2").mkdir()
    (tmp_path / "D_2/manifest.jsonl").write_text(line * 5)
    with pytest.raises(ValueError, match="lists 5 shards but only 1 differ"):
        read_manifest(tmp_path / "D_2")


@pytest.mark.parametrize("data", [b"", b"[1, 2", b"{}", b"7", b"[1.5]", b"[true]", b"[[1]]"])
def test_text_that_is_no_list_of_ids(data: bytes):
    with pytest.raises(ShardError, match=r"x\.txt is not a list of token ids"):
        parse_openlm(data, eot_id=0, place="x.txt")


@pytest.mark.parametrize(
    "text", ["[1, 2, 3]", "[1, 2, 3, 4, 4294967296]", "[1, 2, 3, 4, -1]", "[]"]
)
def test_text_rows_of_the_wrong_length_or_range(tmp_path: Path, text: str):
    folder = tmp_path / "D_2"
    good = {"__key__": "0", "txt": "[1, 2, 3, 4, 5]"}
    write_shard(folder / "a.tar", [good, {"__key__": "1", "txt": text}])
    (folder / "manifest.jsonl").write_text('{"shard": "a", "num_sequences": 2}\n')
    reader = BucketReader(folder)
    assert reader.read([0]).tolist() == [[1, 2, 3, 4, 5]]
    with pytest.raises(BadRecordError, match=r"a\.tar: member 1\.txt has") as caught:
        reader.read([0, 1])
    assert caught.value.row == 1


def test_a_damaged_record_is_named_and_spares_its_neighbours(tmp_path: Path, rows: np.ndarray):
    folder = make_bucket(tmp_path / "D_3", rows, per_shard=16, per_record=4)
    path = folder / "shard-0000001.tar"
    content = bytearray(path.read_bytes())
    position = content.index(b"NUMPY", content.index(b"NUMPY") + 1)  # its second record
    content[position] ^= 1
    path.write_bytes(bytes(content))
    reader = BucketReader(folder)
    np.testing.assert_array_equal(reader.read([16, 19, 24]), rows[[16, 19, 24]])
    with pytest.raises(BadRecordError, match=r"member 000000100001\.tok\.npy is not") as caught:
        reader.read([16, 21, 22])
    assert caught.value.row == 21


def test_a_shard_that_is_not_its_manifest(tmp_path: Path, rows: np.ndarray):
    folder = make_bucket(tmp_path / "D_3", rows, per_shard=50, per_record=4)
    path = folder / "shard-0000000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:-512])
    with pytest.raises(ValueError, match=r"has \d+ bytes, but its manifest says"):
        BucketReader(folder)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    lines[0] |= {"num_sequences": 40, "num_records": 10, "bytes": len(whole)}
    (folder / "manifest.jsonl").write_text(json.dumps(lines[0]) + "\n")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="has 13 samples, but its manifest says 10"):
        BucketReader(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is missing, but its manifest lists it"):
        BucketReader(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "manifest.jsonl:1 is not a shard's line"),
        ("{}", "manifest.jsonl:1"),
        ('{"shard": "../../x", "num_sequences": 1}', "not plain letters"),
        ('{"shard": "a", "num_sequences": 0}', "at least 1"),
        ('{"shard": "a", "num_sequences": "many"}', "manifest.jsonl:1"),
    ],
)
def test_malformed_manifests(tmp_path: Path, line: str, message: str):
    (tmp_path / "D_2").mkdir()
    (tmp_path / "D_2/manifest.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "D_2")


def test_folders_that_hold_no_data_set(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is no prepared data set; make one with prepare"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="its name must be D_<exponent>"):
        BucketReader(tmp_path)
    (tmp_path / "D_4").mkdir()
    with pytest.raises(FileNotFoundError, match="preparation is not finished"):
        BucketReader(tmp_path / "D_4")
    (tmp_path / "dataset.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match="has schema 99, expected 1"):
        open_dataset(tmp_path)
