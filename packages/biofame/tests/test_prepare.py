import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edf_files import waves, write_edf
from edfio import EdfSignal

from biofame import preparation
from biofame.cli import APP
from biofame.prepare import prepare
from biofame.store import SignalStore, open_store
from tenfold.jobs import JobError
from tenfold.shards import write_shard


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return (20 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def _write_tfc(folder: Path, *, length: int = 178) -> dict[str, np.ndarray]:
    folder.mkdir()
    written = {}
    for number, (split, count) in enumerate((("train", 6), ("val", 4), ("test", 5))):
        written[split] = _noise(count, 1, length, seed=number)
        labels = torch.arange(count) % 2
        samples = torch.from_numpy(written[split])
        torch.save({"samples": samples, "labels": labels}, folder / f"{split}.pt")
    return written


def _write_people(folder: Path, *, people: int = 5, **changed: Any) -> None:
    folder.mkdir(exist_ok=True)
    for person in range(people):
        arrays: dict[str, Any] = {
            "samples": _noise(3, 2, 20, seed=person),
            "labels": np.asarray(["a", "b", "a"]),
            "subjects": np.asarray([f"p{person}"] * 3),
            "channels": np.asarray(["EEG", "EOG"]),
            "units": np.asarray(["uV", "uV"]),
            "rate": np.asarray(10.0),
            **changed,
        }
        present = {name: value for name, value in arrays.items() if value is not None}
        np.savez(folder / f"night{person}.npz", **present)


def _bytes(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.iterdir()) if path.is_file()}


def _prepared(source: Path, out: Path, **options: Any) -> SignalStore:
    prepare(source, out, **options)
    return open_store(out, verify=True)


def test_tfc_as_the_released_code_reads_it(tmp_path: Path) -> None:
    written = _write_tfc(tmp_path / "epilepsy")
    store = _prepared(
        tmp_path / "epilepsy",
        tmp_path / "out",
        channels=["EEG Fpz-Cz"],
        rate=178.0,
        length=300,
        fit="interpolate",
        classes=["seizure", "none"],
    )
    assert store.info.channels == ("eeg_fpz_cz",)
    assert store.info.rate == 300
    assert store.info.classes == ("seizure", "none")
    assert store.info.units == ("",)
    assert store.samples.shape == (15, 1, 300)
    for split, samples in written.items():
        rows = store.rows(split)
        expected = torch.nn.functional.interpolate(torch.from_numpy(samples), 300, mode="linear")
        np.testing.assert_allclose(store.samples[rows], expected.numpy(), atol=2e-3)
        assert store.labels[rows].tolist() == [row % 2 for row in range(len(samples))]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.parquet",
        "preparation.json",
        "samples.npy",
        "store.json",
    ]


def test_people_are_split_whole(tmp_path: Path) -> None:
    _write_people(tmp_path / "in")
    store = _prepared(tmp_path / "in", tmp_path / "out")
    assert [len(store.rows(split)) for split in ("train", "val", "test")] == [9, 3, 3]
    for person in range(5):
        assert len(set(store.splits[store.subjects == f"p{person}"])) == 1
    other = _prepared(tmp_path / "in", tmp_path / "all", shares=[1.0, 0.0, 0.0])
    assert (other.splits == "train").all()


def test_a_channel_that_some_lack_is_masked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_people(tmp_path / "in", people=3)
    one = {"channels": np.asarray(["Eog"]), "units": np.asarray(["mV"])}
    samples = _noise(3, 1, 20)
    np.savez(
        tmp_path / "in" / "late.npz",
        samples=samples,
        subjects=np.asarray(["q"] * 3),
        rate=10.0,
        **one,
    )
    store = _prepared(tmp_path / "in", tmp_path / "out")
    # In the order in which sorted files bring them.
    assert store.info.channels == ("eog", "eeg")
    eog, eeg = 0, 1
    late = store.subjects == "q"
    assert store.present[:, eog].all()
    np.testing.assert_array_equal(store.present[:, eeg], ~late)
    assert not store.samples[late, eeg].any()
    np.testing.assert_array_equal(store.samples[late, eog], samples[:, 0] * np.float32(1000))
    assert store.labels[late].tolist() == [-1] * 3
    assert "missing: eeg in 3 windows" in capsys.readouterr().out


def test_chosen_channels_and_a_name_that_no_file_has(tmp_path: Path) -> None:
    _write_people(tmp_path / "in", people=3)
    store = _prepared(tmp_path / "in", tmp_path / "out", channels=["EOG"])
    assert store.info.channels == ("eog",)
    with pytest.raises(ValueError, match="no file has channel emg: there are eog"):
        prepare(tmp_path / "in", tmp_path / "other", channels=["eog", "emg"])


def test_classes_of_several_files(tmp_path: Path) -> None:
    _write_people(tmp_path / "in", people=3)
    _write_people(tmp_path / "more", people=1, labels=np.asarray(["c", "a", ""]))
    (tmp_path / "more" / "night0.npz").rename(tmp_path / "in" / "night9.npz")
    store = _prepared(tmp_path / "in", tmp_path / "out", shares=[1.0, 0.0, 0.0])
    assert store.info.classes == ("a", "b", "c")
    assert store.labels[:3].tolist() == [0, 1, 0]
    assert store.labels[-3:].tolist() == [2, 0, -1]


def test_numbers_for_classes_of_several_files(tmp_path: Path) -> None:
    _write_people(tmp_path / "in", people=2, labels=np.asarray([0, 1, -1]))
    _write_people(tmp_path / "more", people=1, labels=np.asarray([11, 0, 2]))
    (tmp_path / "more" / "night0.npz").rename(tmp_path / "in" / "night9.npz")
    store = _prepared(tmp_path / "in", tmp_path / "out", shares=[1.0, 0.0, 0.0])
    assert store.info.classes == tuple(str(number) for number in range(12))
    assert store.labels.tolist() == [0, 1, -1, 0, 1, -1, 11, 0, 2]


def test_what_is_dropped_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = _noise(3, 2, 20)
    samples[1, 0, 3] = np.nan
    samples[2, 1] = 5.0
    _write_people(tmp_path / "in", people=3, samples=samples)
    store = _prepared(tmp_path / "in", tmp_path / "out")
    expected = {"dropped: NaN or infinite": 3, "kept: eog flat": 3}
    assert store.info.dropped == expected
    said = capsys.readouterr().out
    assert "dropped: NaN or infinite: 3" in said
    assert "kept: eog flat: 3" in said
    assert "6 windows of 2 channels x 20 samples at 10 Hz (eeg, eog)" in said


def test_no_window_is_left(tmp_path: Path) -> None:
    _write_people(tmp_path / "in", people=1, samples=np.full((3, 2, 20), np.nan))
    with pytest.raises(ValueError, match=r"no window is left: dropped: NaN or infinite \(3\)"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_wrong_unit_is_doubted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = _noise(3, 2, 20) * np.float32([[1e-6], [1]])
    _write_people(tmp_path / "in", people=3, samples=samples)
    prepare(tmp_path / "in", tmp_path / "out")
    doubts = [r.message for r in caplog.records if "look like V, set unit" in r.message]
    assert len(doubts) == 3
    assert doubts[0].startswith("night0.npz: channel eeg deviates by")


def test_unknown_people_are_split_by_recording_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write_people(tmp_path / "in", people=3, subjects=None)
    prepare(tmp_path / "in", tmp_path / "out")
    assert "9 windows have no subject: they are split by recording" in caplog.text
    caplog.clear()
    store = _prepared(tmp_path / "in", tmp_path / "named", subject_pattern=r"night(\d)")
    assert "no subject" not in caplog.text
    assert store.subjects.tolist() == [person for person in "012" for _ in range(3)]


def test_classes_missing_from_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write_tfc(tmp_path / "in")
    options: dict[str, Any] = {"rate": 178.0, "classes": ["a", "b", "c"]}
    prepare(tmp_path / "in", tmp_path / "out", **options)
    assert "no training window of class c" in caplog.text
    assert "does not name its channels: they are called ch1; name them" in caplog.text


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"rate": None}, {}, "night0.npz does not say its sampling rate: set rate"),
        ({}, {"resample": 9.98713}, "cannot resample 10.0 to 9.98713"),
        ({}, {"rate": 20.0}, "has 10 samples per second and rate is 20"),
        ({}, {"classes": ["a"]}, "label b is outside the classes a"),
        ({"samples": np.zeros((3, 20))}, {}, r"samples has shape \(3, 20\)"),
        ({"channels": np.asarray(["EEG", "eeg"])}, {}, "are both called 'eeg'"),
        ({}, {"seconds": 0.25}, "seconds 0.25 at 10 samples per second are 2.5 samples"),
        ({"splits": np.asarray(["dev"] * 3)}, {}, "split 'dev' is unknown"),
    ],
)
def test_files_at_fault_are_named(
    tmp_path: Path, changed: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    _write_people(tmp_path / "in", people=1, **changed)
    with pytest.raises(JobError, match=message) as caught:
        prepare(tmp_path / "in", tmp_path / "out", **options)
    assert "night0-npz" in str(caught.value)
    assert not (tmp_path / "out" / "store.json").exists()


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        (
            {"rate": np.asarray(20.0)},
            {},
            r"rate is 10.0 in night0.* and 20.0 in x/.*: set",
        ),
        ({"units": np.asarray(["g", "uV"])}, {}, "channel eeg is in uV in some .* and in g in oth"),
        (
            {"samples": np.zeros((3, 2, 30))},
            {},
            r"length is 20 in night0.* and 30 in x/.*: set length",
        ),
        (
            {"splits": np.asarray(["train", "val", "train"])},
            {},
            r"than one split \(z: train, v",
        ),
        ({}, {"shares": [0.5, 0.5, 0.5]}, "shares must be three numbers"),
        ({}, {"shares": [0.5, 0.2, 0.3]}, "2 subjects cannot fill 3 splits"),
    ],
)
def test_files_that_do_not_fit_each_other(
    tmp_path: Path, changed: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    _write_people(tmp_path / "in", people=1)
    _write_people(tmp_path / "in" / "x", people=1, **{"subjects": np.asarray(["z"] * 3), **changed})
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "in", tmp_path / "out", **{"shares": None, **options})


def test_an_interrupted_preparation_goes_on_and_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_people(tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "straight")
    done: list[str] = []
    work = preparation.shape_file

    def interrupted(task: Any, folder: Path, **options: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task.name)
        return work(task, folder, **options)

    monkeypatch.setattr(preparation, "shape_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "store.json").exists()

    redone: list[str] = []

    def counted(task: Any, folder: Path, **options: Any) -> Any:
        redone.append(task.name)
        return work(task, folder, **options)

    monkeypatch.setattr(preparation, "shape_file", counted)
    with pytest.raises(ValueError, match=r"made with other settings.*seed: 0 -> 1"):
        prepare(tmp_path / "in", tmp_path / "out", seed=1)
    prepare(tmp_path / "in", tmp_path / "out")
    assert sorted(done + redone) == [f"night{person}.npz" for person in range(5)]
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "straight")


def test_running_again_is_no_mistake_but_other_options_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write_people(tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "out")
    before = _bytes(tmp_path / "out")
    with caplog.at_level(logging.INFO):
        prepare(tmp_path / "in", tmp_path / "out")
    assert "is finished already" in caplog.text
    assert _bytes(tmp_path / "out") == before
    with pytest.raises(ValueError, match=r"made otherwise \(settings.length: null -> 5\)"):
        prepare(tmp_path / "in", tmp_path / "out", length=5)
    (tmp_path / "in" / "night3.npz").unlink()
    with pytest.raises(ValueError, match=r"made otherwise \(files.night3.npz: .* -> absent\)"):
        prepare(tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in")
    _write_people(tmp_path / "in", samples=_noise(3, 2, 20, seed=9))  # same names and sizes
    with pytest.raises(ValueError, match=r"made otherwise \(files.night0.npz: "):
        prepare(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "preparation.json").unlink()
    with pytest.raises(ValueError, match="holds a store of another origin"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    _write_people(tmp_path / "in", people=3)
    prepare(tmp_path / "in", tmp_path / "one")
    prepare(tmp_path / "in", tmp_path / "two", workers=2)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    _write_people(tmp_path / "in", people=3)
    np.savez(tmp_path / "in" / "night2.npz", samples=np.zeros((1, 1)))
    with pytest.raises(JobError, match="1 of 3 jobs of 'prepare' failed: night2-npz"):
        prepare(tmp_path / "in", tmp_path / "out")
    _write_people(tmp_path / "in", people=3)
    assert len(_prepared(tmp_path / "in", tmp_path / "out")) == 9


def test_a_recording_and_its_annotations(tmp_path: Path) -> None:
    stages = [(0.0, 2.0, "W"), (2.0, 2.0, "N1"), (4.0, 1.5, "W")]
    for person in range(3):
        signals = [
            EdfSignal(waves(100, 6, seed=person), 100, label=label, physical_dimension="uV")
            for label in ("EEG Fpz-Cz", "EOG horizontal")
        ]
        write_edf(tmp_path / "in" / f"p{person}" / "night.edf", signals, annotations=stages)
    store = _prepared(
        tmp_path / "in",
        tmp_path / "out",
        seconds=1.0,
        resample=50.0,
        channels=["eog_horizontal"],
        classes=["N1", "W"],
        subject_pattern=r"^p(\d)/",
    )
    assert store.samples.shape == (18, 1, 50)
    assert store.labels.tolist() == [1, 1, 0, 0, 1, -1] * 3
    assert store.onsets.tolist() == [0, 1, 2, 3, 4, 5] * 3
    assert store.recordings[6] == "p1/night"
    assert store.info.units == ("uV",)
    assert sorted(set(store.subjects)) == ["0", "1", "2"]
    with pytest.raises(ValueError, match="recordings are long: set seconds"):
        prepare(tmp_path / "in", tmp_path / "other")


def test_webdataset_samples_of_several_lengths(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    samples = [
        {"__key__": str(n), "x.npy": _noise(1, n), "json": {"fs": 50, "subject": f"s{n}"}}
        for n in (10, 12, 8)
    ]
    write_shard(tmp_path / "in" / "a.tar", samples)
    options: dict[str, Any] = {"length": 10, "fit": "pad", "channels": ["eeg"]}
    store = _prepared(tmp_path / "in", tmp_path / "out", **options)
    assert store.lengths.tolist() == [10, 10, 8]
    np.testing.assert_array_equal(store.samples[2, 0, :8], samples[2]["x.npy"][0])
    assert not store.samples[2, 0, 8:].any()


def test_neither_preparing_nor_inspecting_loads_torch() -> None:
    code = (
        "import sys, biofame.prepare, biofame.inspect_store, biofame.readers.npz, "
        "biofame.readers.parquet, biofame.readers.webdataset, biofame.readers.tfc\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_single_file_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_people(tmp_path / "in", people=1)
    words = [str(tmp_path / "in" / "night0.npz"), str(tmp_path / "out")]
    options = ["--channels", "EOG", "EEG", "--shares", "1", "0", "0", "--length", "8"]
    assert APP.main(["prepare", *words, *options]) == 0
    assert "3 windows of 2 channels x 8 samples" in capsys.readouterr().out
    store = open_store(tmp_path / "out")
    assert store.info.channels == ("eog", "eeg")
    assert json.loads((tmp_path / "out" / "store.json").read_text())["source"] == "npz: night0.npz"
    assert APP.main(["prepare", str(tmp_path / "absent"), str(tmp_path / "x")]) == 2
    assert "absent does not exist: name a file or a folder" in capsys.readouterr().err
