from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from biofame.cli import APP
from biofame.inspect_store import channel_figures, inspect
from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store

INFO = StoreInfo(
    channels=("eeg", "emg"),
    units=("uV", ""),
    rate=10.0,
    classes=("wake", "sleep"),
    source="a test",
    dropped={"dropped: NaN or infinite": 7},
)


def _store(folder: Path, *, info: StoreInfo = INFO, **changed: Any) -> SignalStore:
    samples = np.random.default_rng(0).normal(size=(6, 2, 40)).astype(np.float32)
    samples[0, 0] = 4.0
    samples[1, 1] = np.clip(samples[1, 1].cumsum(), -1, 1)
    samples[1, 1, 10:20] = 1.0
    samples[2, 0] = 0
    samples[5, :, 30:] = 0
    fields: dict[str, Any] = {
        "samples": samples,
        "labels": np.asarray([0, 1, 0, -1, 1, 0]),
        "subjects": ["s1", "s1", "s2", "s2", "s3", "s3"],
        "recordings": ["r1", "r1", "r2", "r2", "r3", "r3"],
        "onsets": np.asarray([0, 4, 0, 4, 0, 4.0]),
        "lengths": np.asarray([40, 40, 40, 40, 40, 30]),
        "present": np.asarray([[True, True]] * 2 + [[False, True]] + [[True, True]] * 3),
        "splits": ["train", "train", "val", "val", "test", "test"],
        **changed,
    }
    write_store(folder, info, [Windows(**fields)])
    return open_store(folder)


def test_figures_of_channels_against_plain_numpy(tmp_path: Path) -> None:
    store = _store(tmp_path)
    eeg, emg = channel_figures(store)
    assert (eeg.windows, eeg.flat, eeg.clipped) == (5, 1, 0)
    assert (emg.windows, emg.flat, emg.clipped) == (6, 0, 1)
    rows = [(row, store.lengths[row]) for row in (0, 1, 3, 4, 5)]
    values = np.concatenate([store.samples[row, 0, :length] for row, length in rows])
    assert eeg.mean == pytest.approx(values.mean(dtype=np.float64), abs=1e-6)
    assert eeg.deviation == pytest.approx(values.std(dtype=np.float64), abs=1e-6)


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _store(tmp_path)
    inspect(tmp_path)
    said = capsys.readouterr().out
    assert "6 windows of 40 samples at 10 Hz (4 s), source a test" in said
    rows = [line.replace("│", " ").split() for line in said.splitlines()]
    assert ["eeg", "uV", "1", "1", "0"] in [row[:5] for row in rows]
    assert ["emg", "0", "0", "1"] in [row[:4] for row in rows]
    assert ["train", "1", "1", "2", "1", "1", "0"] in rows
    assert ["val", "1", "1", "2", "1", "0", "1"] in rows
    assert "shorter windows: 1, of 30 to 30 samples" in said
    assert "windows per subject: 2 to 2, median 2, 3 subjects" in said
    assert "dropped: NaN or infinite: 7" in said


def test_leakage_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _store(tmp_path, subjects=["s1", "s1", "s2", "s2", "s1", "s3"])
    assert APP.main(["inspect", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "1 subjects are in more than one split (s1: test, train): split by subject" in shown.err
    assert "6 windows" in shown.out


def test_warnings_of_missing_classes_and_of_shared_people(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _store(tmp_path / "a", labels=np.asarray([0, 0, 1, 1, 1, 0]))
    _store(tmp_path / "b")
    inspect(tmp_path / "a", pretraining=tmp_path / "b")
    assert "no training window of class sleep" in caplog.text
    assert "SUBJECT OVERLAP: 3 of 3 subjects" in caplog.text


def test_damage_is_an_error(tmp_path: Path) -> None:
    _store(tmp_path)
    data = bytearray((tmp_path / "samples.npy").read_bytes())
    data[-1] ^= 255
    (tmp_path / "samples.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"samples.npy is damaged: its SHA-256 differs"):
        inspect(tmp_path)


def test_the_picture(tmp_path: Path) -> None:
    _store(tmp_path / "a")
    inspect(tmp_path / "a", out=tmp_path / "a.png")
    inspect(tmp_path / "a", out=tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).std() > 10
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_picture_of_windows_without_labels_or_splits(tmp_path: Path) -> None:
    info = StoreInfo(channels=("eeg", "emg"), units=("", ""), rate=1.0)
    _store(tmp_path / "a", info=info, labels=None, splits=None, present=None, lengths=None)
    inspect(tmp_path / "a", out=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_an_empty_store(tmp_path: Path) -> None:
    write_store(tmp_path / "a", INFO, [])
    inspect(tmp_path / "a")
    with pytest.raises(ValueError, match="has no windows: there is nothing to draw"):
        inspect(tmp_path / "a", out=tmp_path / "a.png")
