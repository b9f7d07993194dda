import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from biofame.readers import find_files
from biofame.readers.npz import read_npz
from biofame.readers.parquet import read_parquet
from biofame.readers.part import SourcePart, labels_of, split_of_name
from biofame.readers.tfc import read_tfc
from biofame.readers.webdataset import read_webdataset
from tenfold.shards import write_shard


def _samples(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _only(parts: Any) -> SourcePart:
    (part,) = parts
    return part


# TF-C


def test_tfc(tmp_path: Path) -> None:
    samples = _samples(5, 1, 178)
    path = tmp_path / "val.pt"
    torch.save(
        {"samples": torch.from_numpy(samples), "labels": torch.tensor([0, 1, 1, 0, 2])}, path
    )
    part = _only(read_tfc(path, name="a/val"))
    np.testing.assert_array_equal(part.windows.samples, samples)
    assert part.windows.labels.tolist() == [0, 1, 1, 0, 2]
    assert part.windows.splits == ["val"] * 5
    assert part.windows.recordings[4] == "a/val/000004"
    assert part.windows.subjects == [""] * 5
    assert part.classes == ("0", "1", "2")
    assert (part.channels, part.units, part.rate) == (None, None, None)


def test_tfc_of_doubles_and_float_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"samples": torch.zeros(2, 3, 4).double(), "labels": torch.tensor([1.0, 0.0])}, path)
    part = _only(read_tfc(path))
    assert part.windows.samples.dtype == np.float32
    assert part.windows.labels.tolist() == [1, 0]


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path, ("never",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"samples": torch.zeros(2, 178)}, r"samples has shape \(2, 178\), expected \[windows, ch"),
        ({"samples": torch.zeros(2, 1, 0)}, r"shape \(2, 1, 0\)"),
        ({"samples": torch.zeros(2, 1, 4, dtype=torch.complex64)}, "of complex64, expected real"),
        ({"samples": torch.zeros(2, 1, 4), "labels": torch.zeros(3)}, "3 labels for 2 samples"),
        (
            {"samples": torch.zeros(2, 1, 4), "labels": torch.tensor([0, 0.5])},
            "holds 0.5, expected",
        ),
        ({"samples": "text"}, "samples is a str, expected a tensor"),
        ({"x": torch.zeros(2, 1, 4)}, "holds x, expected a dict with `samples`"),
        ([1, 2], "holds list, expected a dict"),
        ({"samples": _Code()}, "cannot be read as a dict of tensors"),
    ],
)
def test_wrong_tfc_files(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "train.pt")
    with pytest.raises(ValueError, match=message) as caught:
        list(read_tfc(tmp_path / "train.pt"))
    assert "train.pt" in str(caught.value)


def test_a_truncated_tfc_file(tmp_path: Path) -> None:
    path = tmp_path / "train.pt"
    torch.save({"samples": torch.zeros(20, 1, 100)}, path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"train.pt cannot be read .* damaged"):
        list(read_tfc(path))


# npz


def test_npz_with_all_its_keys(tmp_path: Path) -> None:
    samples = _samples(3, 2, 8)
    samples[1, :, 5:] = np.nan
    np.savez(
        tmp_path / "x.npz",
        samples=samples,
        labels=np.asarray(["b", "", "a"]),
        targets=np.asarray([1.0, 2.0, 3.0]),
        target_names=np.asarray(["pulse"]),
        subjects=np.asarray([7, 7, 8]),
        recordings=np.asarray(["p", "p", "q"]),
        onsets=np.asarray([0, 30, 0]),
        lengths=np.asarray([8, 5, 8]),
        splits=np.asarray(["train", "train", "test"]),
        channels=np.asarray(["EEG Fpz-Cz", "ECG"]),
        units=np.asarray(["µV", "mV"]),
        fs=np.asarray(250),
    )
    part = _only(read_npz(tmp_path / "x.npz"))
    windows = part.windows
    np.testing.assert_array_equal(windows.samples[[0, 2]], samples[[0, 2]])
    np.testing.assert_array_equal(windows.samples[1, :, :5], samples[1, :, :5])
    assert not windows.samples[1, :, 5:].any()
    assert windows.labels.tolist() == [1, -1, 0]
    assert part.classes == ("a", "b")
    assert windows.targets.tolist() == [[1], [2], [3]]
    assert part.targets == ("pulse",)
    assert windows.subjects == ["7", "7", "8"]
    assert windows.onsets.tolist() == [0, 30, 0]
    assert windows.lengths.tolist() == [8, 5, 8]
    assert windows.splits == ["train", "train", "test"]
    assert part.channels == ("eeg_fpz_cz", "ecg")
    assert part.units == ("uV", "mV")
    assert part.rate == 250.0


def test_npz_with_samples_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "test_1.npz", samples=_samples(2, 1, 4))
    part = _only(read_npz(tmp_path / "test_1.npz"))
    assert part.windows.labels is None
    assert part.windows.splits == ["test", "test"]
    assert part.windows.recordings == ["test_1/000000", "test_1/000001"]
    assert (part.channels, part.units, part.rate, part.classes) == (None, None, None, ())


def test_npz_with_stated_classes_and_one_unit(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz",
        samples=_samples(2, 2, 4),
        labels=np.asarray([1, 0]),
        classes=np.asarray(["wake", "sleep", "rem"]),
        unit="V",
    )
    part = _only(read_npz(tmp_path / "x.npz"))
    assert part.classes == ("wake", "sleep", "rem")
    assert part.units == ("V", "V")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"samples": np.zeros((2, 4))}, r"samples has shape \(2, 4\)"),
        ({"x": np.zeros((2, 1, 4))}, "unknown key x: known are samples, labels"),
        ({}, "no key samples"),
        ({"subject": np.zeros(2)}, "unknown key subject"),
        ({"labels": np.zeros(3, int)}, r"labels has shape \(3,\), expected 2 entries"),
        ({"labels": np.zeros((2, 2), int)}, r"labels has shape \(2, 2\), expected one label"),
        ({"labels": np.asarray([0, -3])}, "labels holds -3, expected classes 0 to 9999"),
        ({"labels": np.asarray([0, 2]), "classes": np.asarray(["a", "b"])}, "label 2 is outside"),
        ({"labels": np.asarray([0.5, 1])}, "holds 0.5, expected whole numbers"),
        ({"rate": 0.0}, "rate 0.0 is no number > 0"),
        ({"rate": "fast"}, "rate 'fast' is no number"),
        ({"channels": np.asarray(["EEG", "eeg"])}, "'EEG' and 'eeg' are both called 'eeg'"),
        ({"channels": np.asarray(["a", "b"])}, "2 channels are named and samples have 1"),
        ({"recordings": np.asarray(["a", "b"])}, "recordings but no onsets"),
        ({"samples": np.asarray([{"a": 1}])}, "holds pickled objects"),
        ({"targets": np.zeros((2, 2)), "target_names": np.asarray(["a"])}, "1 target_names and 2"),
    ],
)
def test_wrong_npz_files(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    if not {"x", "samples"} & arrays.keys() and arrays:
        arrays = {"samples": np.zeros((2, 1, 4)), **arrays}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_npz(tmp_path / "bad.npz"))
    assert "bad.npz" in str(caught.value)


def test_a_truncated_npz_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, samples=_samples(2, 1, 400))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"x.npz cannot be read .* damaged"):
        list(read_npz(path))


# parquet


def _write_parquet(path: Path, columns: dict[str, Any], **metadata: Any) -> None:
    table = pa.table(columns)
    facts = {key: json.dumps(value) for key, value in metadata.items()}
    pq.write_table(table.replace_schema_metadata(facts), path)


def test_parquet_with_channels(tmp_path: Path) -> None:
    samples = _samples(3, 2, 5)
    _write_parquet(
        tmp_path / "x.parquet",
        {
            "samples": samples.tolist(),
            "label": ["b", None, "a"],
            "subject": ["s1", "s1", None],
            "recording": ["r", "r", "q"],
            "onset": [0.0, 2.0, 0.0],
            "split": ["train", "train", None],
        },
        channels=["Acc X", "Acc Y"],
        unit="g",
        rate=10,
    )
    part = _only(read_parquet(tmp_path / "x.parquet"))
    np.testing.assert_array_equal(part.windows.samples, samples)
    assert part.windows.labels.tolist() == [1, -1, 0]
    assert part.classes == ("a", "b")
    assert part.windows.subjects == ["s1", "s1", ""]
    assert part.windows.onsets.tolist() == [0, 2, 0]
    assert part.windows.splits == ["train", "train", ""]
    assert part.channels == ("acc_x", "acc_y")
    assert part.units == ("g", "g")
    assert part.rate == 10


def test_parquet_of_one_channel_in_runs_of_one_length(tmp_path: Path) -> None:
    rows = [[1.0, 2.0], [3.0, 4.0], [5.0], [6.0, 7.0]]
    _write_parquet(tmp_path / "train-1.parquet", {"samples": rows, "label": [2, None, 0, 1]})
    parts = list(read_parquet(tmp_path / "train-1.parquet"))
    assert [part.windows.samples.tolist() for part in parts] == [
        [[[1, 2]], [[3, 4]]],
        [[[5]]],
        [[[6, 7]]],
    ]
    assert [part.windows.labels.tolist() for part in parts] == [[2, -1], [0], [1]]
    assert parts[0].windows.recordings == ["train-1/000000", "train-1/000001"]
    assert parts[2].windows.recordings == ["train-1/000003"]
    assert {part.classes for part in parts} == {("0", "1", "2")}
    assert parts[0].windows.splits == ["train", "train"]


@pytest.mark.parametrize(
    ("columns", "metadata", "message"),
    [
        ({"x": [[1.0]]}, {}, "columns x, expected `samples`"),
        ({"samples": [[1.0], []]}, {}, r"samples of row 1 has shape \(1, 0\)"),
        ({"samples": [[1.0], None]}, {}, "samples of row 1"),
        ({"samples": [[[1.0, 2.0], [1.0]]]}, {}, "row 0 have channels of different lengths"),
        ({"samples": [1.0, 2.0]}, {}, "samples is double, expected a list of numbers"),
        ({"samples": [["a"]]}, {}, "string>, expected a list of numbers"),
        ({"samples": [[1.0]], "recording": ["r"]}, {}, "column recording but no onset"),
        ({"samples": [[1.0]], "label": [0.5]}, {}, "label holds 0.5"),
        ({"samples": [[1.0]]}, {"rate": -1}, "rate -1 is no number > 0"),
    ],
)
def test_wrong_parquet_files(
    tmp_path: Path, columns: dict[str, Any], metadata: dict[str, Any], message: str
) -> None:
    _write_parquet(tmp_path / "bad.parquet", columns, **metadata)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_parquet(tmp_path / "bad.parquet"))
    assert "bad.parquet" in str(caught.value)


def test_no_parquet_file_and_no_json(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"x.parquet is no intact parquet file"):
        list(read_parquet(tmp_path / "x.parquet"))
    table = pa.table({"samples": [[1.0]]}).replace_schema_metadata({"rate": "[1"})
    pq.write_table(table, tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"y.parquet: metadata rate is no JSON"):
        list(read_parquet(tmp_path / "y.parquet"))


# webdataset


def _sample(key: str, array: Any, label: str | None = None, **facts: Any) -> dict[str, Any]:
    members = {"__key__": key, "x.npy": array, "json": facts}
    return members if label is None else {**members, "cls": label.encode()}


def test_webdataset(tmp_path: Path) -> None:
    first, second, third = _samples(2, 6), _samples(2, 6) + 1, _samples(1, 6)
    facts = {"fs": 128, "channels": ["EEG", "EOG"], "unit": "V"}
    write_shard(
        tmp_path / "val-000.tar",
        [
            _sample("a", first, "wake", subject="s1", recording="r", onset=30, **facts),
            _sample("b", second, "rem", subject=2, split="test", **facts),
            _sample("c", third[0], fs=128, channels=["EEG"]),
        ],
    )
    parts = list(read_webdataset(tmp_path / "val-000.tar"))
    assert len(parts) == 2
    np.testing.assert_array_equal(parts[0].windows.samples, [first, second])
    np.testing.assert_array_equal(parts[1].windows.samples, [third])
    assert parts[0].classes == parts[1].classes == ("rem", "wake")
    assert parts[0].windows.labels.tolist() == [1, 0]
    assert parts[1].windows.labels.tolist() == [-1]
    assert parts[0].windows.subjects == ["s1", "2"]
    assert parts[0].windows.recordings == ["r", "val-000/b"]
    assert parts[0].windows.onsets.tolist() == [30, 0]
    assert parts[0].windows.splits == ["val", "test"]
    assert parts[0].channels == ("eeg", "eog")
    assert parts[0].units == ("V", "V")
    assert parts[0].rate == 128
    assert parts[1].units is None


def test_webdataset_with_numbers_for_classes(tmp_path: Path) -> None:
    samples = [_sample(str(label), _samples(1, 4), str(label)) for label in (0, 3, -1)]
    write_shard(tmp_path / "x.tar", samples)
    part = _only(read_webdataset(tmp_path / "x.tar"))
    assert part.windows.labels.tolist() == [0, 3, -1]
    assert part.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"y.npy": np.zeros((1, 4))}, "sample 'k' has no 'x.npy' member"),
        ({"x.npy": np.zeros((1, 2, 4))}, r"k.x.npy has shape \(1, 2, 4\)"),
        ({"x.npy": b"no array"}, "k.x.npy is no array"),
        ({"x.npy": np.zeros((1, 4)), "json": [1]}, "k.json is list, expected an object"),
        ({"x.npy": np.zeros((1, 4)), "json": b"{"}, "k.json is no JSON"),
        ({"x.npy": np.zeros((1, 4)), "json": {"fs": 0}}, "x.tar: k: rate 0 is no number > 0"),
    ],
)
def test_wrong_tars(tmp_path: Path, members: dict[str, Any], message: str) -> None:
    write_shard(tmp_path / "x.tar", [{"__key__": "k", **members}])
    with pytest.raises(ValueError, match=message) as caught:
        list(read_webdataset(tmp_path / "x.tar"))
    assert "x.tar" in str(caught.value)


def test_a_truncated_tar(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write_shard(path, [_sample("a", _samples(1, 400))])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"x.tar.*write the tar again"):
        list(read_webdataset(path))


# all


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [
        ([2, 0, -1], [2, 0, -1], ("0", "1", "2")),
        ([True, False], [1, 0], ("0", "1")),
        ([1.0, float("nan")], [1, -1], ("0", "1")),
        (["b", "a", ""], [1, 0, -1], ("a", "b")),
        (np.asarray(["b", None], object), [0, -1], ("b",)),
        (np.asarray([1, None], object), [1, -1], ("0", "1")),
        (np.asarray([None, None], object), [-1, -1], ()),
    ],
)
def test_labels(values: Any, labels: list[int], classes: tuple[str, ...]) -> None:
    found, names = labels_of(values, where="x")
    assert found.tolist() == labels
    assert names == classes


def test_labels_that_are_mixed_or_numbers_to_predict() -> None:
    with pytest.raises(ValueError, match="x mixes kinds of values"):
        labels_of(np.asarray(["a", 1], object), where="x")
    with pytest.raises(ValueError, match=r"x holds 123456, .* numbers to predict are targets"):
        labels_of([0, 123456], where="x")


def test_splits_in_names_of_files() -> None:
    names = ["train", "val-003", "test_a", "training", "my_train", "validation"]
    assert [split_of_name(name) for name in names] == ["train", "val", "test", "", "", ""]


def test_files_are_found_by_their_suffixes(tmp_path: Path) -> None:
    for name in ("b/2.npz", "a.npz", "out/samples.npz", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    kind, files = find_files(tmp_path, format="auto", leave_out=tmp_path / "out")
    assert kind == "npz"
    assert [path.relative_to(tmp_path).as_posix() for path in files] == ["a.npz", "b/2.npz"]
    (tmp_path / "x.EDF").touch()
    assert find_files(tmp_path, format="edf", leave_out=tmp_path / "out")[0] == "edf"
    with pytest.raises(ValueError, match="formats edf, npz: choose one with format"):
        find_files(tmp_path, format="auto", leave_out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"has no file named .tar"):
        find_files(tmp_path, format="webdataset", leave_out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        find_files(tmp_path / "absent", format="auto", leave_out=tmp_path)
