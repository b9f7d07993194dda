import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from biofame.store import StoreInfo, Windows, open_store, write_store

INFO = StoreInfo(
    channels=("eeg", "eog"), units=("uV", "uV"), rate=100.0, classes=("wake", "sleep"), source="x"
)


def _windows(n: int = 4, *, start: int = 0, length: int = 6, **changed: object) -> Windows:
    rng = np.random.default_rng(start)
    fields: dict[str, object] = {
        "samples": rng.normal(size=(n, 2, length)).astype(np.float32),
        "labels": np.arange(start, start + n) % 2,
        "subjects": [f"s{(start + row) // 2}" for row in range(n)],
        "recordings": [f"r{(start + row) // 2}" for row in range(n)],
        "onsets": np.arange(start, start + n) * 30.0,
        **changed,
    }
    return Windows(**fields)  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    info = StoreInfo(
        channels=("eeg", "eog"),
        units=("uV", ""),
        rate=62.5,
        classes=("a", "b"),
        targets=("pulse",),
        source="somewhere",
        dropped={"not finite": 3},
    )
    part = _windows(
        targets=np.asarray([[0.5], [1], [2], [3]], np.float32),
        lengths=np.asarray([6, 5, 1, 6]),
        present=np.asarray([[True, False], [True, True], [False, True], [True, True]]),
        splits=["train", "val", "test", ""],
    )
    write_store(tmp_path, info, [part])
    store = open_store(tmp_path, verify=True)
    assert store.info == info
    assert isinstance(store.samples, np.memmap)
    assert store.samples.dtype == np.float32
    for name in ("samples", "labels", "targets", "onsets", "lengths", "present"):
        np.testing.assert_array_equal(getattr(store, name), getattr(part, name), name)
    for name in ("subjects", "recordings", "splits"):
        assert getattr(store, name).tolist() == list(getattr(part, name))
    assert len(store) == 4
    assert store.key(1) == "r0@30"
    assert store.rows("val").tolist() == [1]
    assert store.rows("").tolist() == [3]


def test_defaults_of_unknown_columns(tmp_path: Path) -> None:
    write_store(tmp_path, INFO, [_windows(labels=None)])
    store = open_store(tmp_path)
    assert store.labels.tolist() == [-1] * 4
    assert store.lengths.tolist() == [6] * 4
    assert store.present.all()
    assert store.present.shape == (4, 2)
    assert store.splits.tolist() == [""] * 4
    assert store.targets is None


def test_bytes_do_not_depend_on_the_parts(tmp_path: Path) -> None:
    whole = _windows(5)
    rows = [slice(0, 2), slice(2, 3), slice(3, 5)]
    parts = [
        Windows(
            samples=whole.samples[row],
            labels=whole.labels[row],
            subjects=whole.subjects[row],
            recordings=whole.recordings[row],
            onsets=whole.onsets[row],
        )
        for row in rows
    ]
    write_store(tmp_path / "whole", INFO, [whole])
    write_store(tmp_path / "parts", INFO, iter(parts))
    for name in ("samples.npy", "index.parquet", "store.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_ordinary_numpy_reads_the_samples(tmp_path: Path) -> None:
    part = _windows(3)
    write_store(tmp_path, INFO, [part])
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), part.samples)


def test_a_store_without_windows(tmp_path: Path) -> None:
    write_store(tmp_path, INFO, [])
    store = open_store(tmp_path, verify=True)
    assert len(store) == 0
    assert store.present.shape == (0, 2)


def test_a_pickled_store_opens_again(tmp_path: Path) -> None:
    write_store(tmp_path, INFO, [_windows(length=4000)])
    store = open_store(tmp_path)
    data = pickle.dumps(store)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).samples, store.samples)  # noqa: S301


def test_nothing_is_left_of_a_writing_that_fails(tmp_path: Path) -> None:
    parts = [_windows(), _windows(start=4, length=7)]
    with pytest.raises(ValueError, match="7 samples follow windows of 6"):
        write_store(tmp_path, INFO, parts)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no finished store"):
        open_store(tmp_path)


def test_a_store_is_not_overwritten(tmp_path: Path) -> None:
    write_store(tmp_path, INFO, [_windows()])
    with pytest.raises(ValueError, match="already holds a store"):
        write_store(tmp_path, INFO, [_windows()])


def _not_finite(value: float) -> np.ndarray:
    samples = np.zeros((4, 2, 6))
    samples[2, 1, 3] = value
    return samples


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"samples": _not_finite(np.nan)}, "samples of window r1@60 are NaN or infinite"),
        ({"samples": _not_finite(-np.inf)}, "samples of window r1@60"),
        ({"samples": _not_finite(1e60)}, "samples of window r1@60"),
        ({"labels": np.asarray([0, 1, 2, 0])}, r"label 2 of window r1@60 .* 2 classes \(wake, sle"),
        ({"labels": np.asarray([0, -2, 1, 0])}, "label -2 of window r0@30"),
        ({"samples": np.zeros((4, 3, 6))}, "windows have 3 channels, the store names 2"),
        ({"onsets": np.zeros(4)}, "window r0@0 appears twice"),
        ({"targets": np.zeros((4, 2))}, "windows have 2 targets, the store names 0"),
    ],
)
def test_windows_that_do_not_fit(tmp_path: Path, part: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_store(tmp_path, INFO, [_windows(**part)])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"samples": np.zeros((4, 6))}, r"\[windows, channels, time\], got shape \(4, 6\)"),
        ({"samples": np.zeros((4, 2, 0))}, r"got shape \(4, 2, 0\)"),
        ({"samples": np.zeros((4, 2, 6), np.int64)}, "samples must be floating point, got int64"),
        ({"labels": np.zeros(4)}, "labels must be whole numbers, got float64"),
        ({"labels": np.zeros(3, np.int64)}, "labels has 3 entries"),
        ({"subjects": ["a"]}, "subjects has 1 entries"),
        ({"onsets": np.asarray([0, np.nan, 1, 2])}, "an onset is NaN or infinite"),
        ({"lengths": np.asarray([6, 0, 6, 6])}, r"lengths must lie in 1..6, got 0"),
        ({"lengths": np.asarray([6, 7, 6, 6])}, r"lengths must lie in 1..6, got 7"),
        ({"present": np.ones((4, 3), bool)}, r"present must be \[4 windows, 2 channels\]"),
        ({"splits": ["train", "dev", "", ""]}, "split 'dev' is unknown"),
        ({"targets": np.zeros(4)}, r"targets must be \[windows, K\]"),
    ],
)
def test_malformed_windows(part: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _windows(**part)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": ("eeg", "eeg")}, "channels must name each once, got twice: eeg"),
        ({"channels": ("EEG Fpz", "eog")}, "write it as 'eeg_fpz'"),
        ({"channels": (), "units": ()}, "channels is empty"),
        ({"units": ("uV",)}, "units must be one for each of the 2 channels"),
        ({"rate": 0.0}, "rate must be > 0"),
        ({"rate": float("nan")}, "rate must be > 0"),
        ({"classes": ("a", "a")}, "classes must name each once"),
    ],
)
def test_malformed_info(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoreInfo(**{"channels": ("eeg", "eog"), "units": ("", ""), "rate": 1.0, **fields})


def test_damage_is_found(tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        write_store(tmp_path / name, INFO, [_windows()])
        return tmp_path / name

    truncated = fresh("truncated")
    (truncated / "samples.npy").write_bytes((truncated / "samples.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"samples.npy has 316 bytes, store.json says 320.*again"):
        open_store(truncated)

    changed = fresh("changed")
    data = bytearray((changed / "samples.npy").read_bytes())
    data[-1] ^= 1
    (changed / "samples.npy").write_bytes(data)
    open_store(changed)
    with pytest.raises(ValueError, match=r"samples.npy is damaged: its SHA-256 differs"):
        open_store(changed, verify=True)

    gone = fresh("gone")
    (gone / "index.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"index.parquet is gone"):
        open_store(gone)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps({"schema_version": 9, "files": {}, "windows": 0}), "schema version 9"),
        (json.dumps({"schema_version": 1, "files": {}, "windows": 4}), r"damaged \(KeyError"),
    ],
)
def test_a_damaged_manifest(tmp_path: Path, manifest: str, message: str) -> None:
    write_store(tmp_path, INFO, [_windows()])
    (tmp_path / "store.json").write_text(manifest)
    with pytest.raises(ValueError, match=message):
        open_store(tmp_path)


def test_a_number_of_windows_that_does_not_fit(tmp_path: Path) -> None:
    write_store(tmp_path, INFO, [_windows()])
    manifest = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(manifest | {"windows": 5}))
    with pytest.raises(ValueError, match=r"4 rows, store.json says \(5, 2\)"):
        open_store(tmp_path)
