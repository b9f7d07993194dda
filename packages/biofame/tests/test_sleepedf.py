"""The verb `prepare-sleepedf`: epochs, counts, split, and what is refused or resumed."""

import shutil
import subprocess
import sys
from collections import Counter
from datetime import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from edf_files import Stage, patch, write_night

from biofame import sleepedf_files
from biofame.cli import APP
from biofame.edf import read_recording
from biofame.sleepedf import CHANNELS, prepare_sleepedf
from biofame.sleepedf_epochs import CLASSES
from biofame.splits import check_leakage
from biofame.store import SignalStore, open_store
from tenfold.atomic import sha256_file
from tenfold.jobs import JobError
from tenfold.testing_kills import run_killed

# 20 epochs: wake, all stages, movement, unknown to the end and beyond.
STAGES: list[Stage] = [
    (0.0, 120.0, "Sleep stage W"),
    (120.0, 60.0, "Sleep stage 1"),
    (180.0, 60.0, "Sleep stage 2"),
    (240.0, 30.0, "Sleep stage 3"),
    (270.0, 30.0, "Sleep stage 4"),
    (300.0, 30.0, "Movement time"),
    (330.0, 60.0, "Sleep stage R"),
    (390.0, 150.0, "Sleep stage W"),
    (540.0, 900.0, "Sleep stage ?"),
]
LABELS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 0, 0, 0, 0]
ONSETS = [30.0 * epoch for epoch in (*range(10), *range(11, 18))]
SHORT: list[Stage] = [(0.0, 30.0, "Sleep stage W"), (30.0, 60.0, "Sleep stage 2")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights of a training person, and one each of a validation and a test person."""
    root = tmp_path_factory.mktemp("raw")
    write_night(root / "sleep-cassette", "SC4001E", STAGES, epochs=20, seed=1)
    for number, (stem, scorer) in enumerate(
        (("SC4002E", "C"), ("SC4011E", "H"), ("SC4051E", "J")), start=2
    ):
        write_night(root / "sleep-cassette", stem, SHORT, epochs=3, scorer=scorer, seed=number)
    return root


def prepared(root: Path, out: Path, **options: object) -> SignalStore:
    prepare_sleepedf(root, out, **options)  # type: ignore[arg-type]
    return open_store(out, verify=True)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_store_holds_the_epochs_of_the_nights(root: Path, tmp_path: Path) -> None:
    store = prepared(root, tmp_path / "out")
    assert store.info.channels == CHANNELS
    assert store.info.units == ("uV", "uV", "uV", "", "uV")
    assert (store.info.rate, store.info.classes) == (100.0, CLASSES)
    assert store.samples.shape == (17 + 3 * 3, 5, 3000)
    assert store.samples.dtype == np.float32
    assert store.present.all()
    first = store.recordings == "SC4001"
    assert store.labels[first].tolist() == LABELS
    assert store.onsets[first].tolist() == ONSETS
    psg = read_recording(root / "sleep-cassette" / "SC4001E0-PSG.edf", channels=CHANNELS)
    for row, onset in zip(np.flatnonzero(first), ONSETS, strict=True):
        begin = int(100 * onset)
        assert np.array_equal(store.samples[row], psg.samples[:, begin : begin + 3000])
    assert store.info.dropped == {"movement": 1, "unknown_stage": 2}
    assert not (tmp_path / "out" / ".nights").exists()


def test_people_and_splits(root: Path, tmp_path: Path) -> None:
    store = prepared(root, tmp_path / "out")
    rows = dict(
        zip(
            store.recordings.tolist(),
            zip(store.subjects.tolist(), store.splits.tolist(), strict=True),
            strict=True,
        )
    )
    assert rows == {
        "SC4001": ("SC400", "train"),
        "SC4002": ("SC400", "train"),
        "SC4011": ("SC401", "val"),
        "SC4051": ("SC405", "test"),
    }
    assert list(dict.fromkeys(store.recordings.tolist())) == sorted(rows)
    check_leakage(store)


def test_the_list_is_that_of_the_released_code() -> None:
    names = sleepedf_files.file_names()
    assert len(names) == len(set(names)) == 78
    assert names[:4] == (
        "SC4001E0-PSG.edf", "SC4001EC-Hypnogram.edf", "SC4002E0-PSG.edf", "SC4002EC-Hypnogram.edf"
    )  # fmt: skip
    assert names[-1] == "SC4192EV-Hypnogram.edf"
    nights = [sleepedf_files.NightFiles(stem, Path(), Path()) for stem in sleepedf_files.RECORDINGS]
    assert Counter(Counter(night.subject for night in nights).values()) == {2: 19, 1: 1}
    permutation = [0, 3, 6, 8, 9, 10, 11, 14, 16, 17, 18, 19, 1, 2, 4, 13, 5, 7, 12, 15]
    splits = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    expected = {
        f"SC4{subject:02d}": split for subject, split in zip(permutation, splits, strict=True)
    }
    assert {night.subject: night.split for night in nights} == expected


def test_trimming_counts_in_the_store(root: Path, tmp_path: Path) -> None:
    store = prepared(root, tmp_path / "out", trim_wake_minutes=1)
    first = store.labels[store.recordings == "SC4001"].tolist()
    assert first == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 0]
    assert store.info.dropped == {"movement": 1, "unknown_stage": 2, "wake_trimmed": 5}


def test_channels_are_chosen_and_may_be_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_night(tmp_path / "raw", "SC4001E", SHORT, epochs=3)
    write_night(
        tmp_path / "raw", "SC4011E", SHORT, epochs=3, labels=["EEG Fpz-Cz", "EMG submental"]
    )
    channels = ["Temp rectal", "emg_submental", "EEG Fpz-Cz"]
    store = prepared(tmp_path / "raw", tmp_path / "out", channels=channels)
    assert store.info.channels == ("temp_rectal", "emg_submental", "eeg_fpz_cz")
    assert store.info.units == ("DegC", "uV", "uV")
    assert store.present.tolist() == [[True] * 3] * 3 + [[False, True, True]] * 3
    assert not store.samples[3:, 0].any()
    psg = read_recording(tmp_path / "raw" / "SC4011E0-PSG.edf", channels=channels[1:])
    assert np.array_equal(store.samples[4, 1:], psg.samples[:, 3000:6000])
    assert "SC4011E0-PSG.edf lacks temp_rectal" in caplog.text
    with pytest.raises(JobError, match=r"SC4011E0-PSG.edf lacks channel eog_horizontal, temp_rec"
                       r"tal: it has eeg_fpz_cz, emg_submental"):  # fmt: skip
        prepare_sleepedf(
            tmp_path / "raw", tmp_path / "other", channels=["eog_horizontal", "temp_rectal"]
        )


def test_a_finished_store_is_not_made_again(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    prepare_sleepedf(root, out)
    said = capsys.readouterr().out
    assert f"{out}: 26 epochs of eeg_fpz_cz, eeg_pz_oz" in said
    assert "train: 1 people, 2 nights, 20 epochs (W 10, N1 2, N2 4, N3 2, REM 2)" in said
    assert "left out: movement 1, unknown_stage 2" in said
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    prepare_sleepedf(root, out)
    assert capsys.readouterr().out == said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(ValueError, match=r"holds a store of other nights or options \(.*30 minut"):
        prepare_sleepedf(root, out, trim_wake_minutes=5)


def test_workers_leave_the_same_bytes(root: Path, tmp_path: Path) -> None:
    prepare_sleepedf(root, tmp_path / "one")
    prepare_sleepedf(root, tmp_path / "two", workers=2)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_kills_leave_the_same_bytes(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for seed, stem in enumerate(("SC4001E", "SC4011E")):
        write_night(raw, stem, SHORT, epochs=3, labels=["EEG Fpz-Cz"], seed=seed)
    preload = ["mne.io", "biofame.sleepedf"]
    prepare_once = partial(prepare_sleepedf, channels=["eeg_fpz_cz"])

    def run(name: str, kill_at: int) -> int:
        out = tmp_path / name
        return run_killed(prepare_once, raw, out, kill_at=kill_at, preload=preload)

    changes = run("plain", 0)
    expected = tree(tmp_path / "plain")
    assert set(expected) == {"index.parquet", "samples.npy", "store.json"}
    # Within each night, between them, in the store's files, and in the removal of the parts.
    for kill_at in sorted({*range(3, changes, 11), changes - 1}):
        run(f"killed_{kill_at}", kill_at)
        prepare_once(raw, tmp_path / f"killed_{kill_at}")
        assert tree(tmp_path / f"killed_{kill_at}") == expected, kill_at


def test_a_rerun_makes_only_what_is_missing(root: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(root, raw)
    hypnogram = raw / "sleep-cassette" / "SC4011EH-Hypnogram.edf"
    whole = hypnogram.read_bytes()
    hypnogram.write_bytes(whole[:-2])
    with pytest.raises(JobError, match=r"1 of 4 jobs .*SC4011 \(.*SC4011EH-Hypnogram.edf is trunc"):
        prepare_sleepedf(raw, out)
    part = out / ".nights" / "SC4001.npz"
    made = part.stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"trim_wake_minutes: 30.0 -> 10.0"):
        prepare_sleepedf(raw, out, trim_wake_minutes=10)
    (raw / "sleep-cassette" / "SC4011E0-PSG.edf").unlink()
    hypnogram.unlink()
    assert part.stat().st_mtime_ns == made
    store = prepared(raw, out)
    assert sorted(set(store.recordings.tolist())) == ["SC4001", "SC4002", "SC4051"]


def test_checksums_are_verified(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(root, raw)
    files = sorted(raw.rglob("*.edf"))
    sums = [f"{sha256_file(path)}  {path.relative_to(raw)}" for path in files]
    (raw / "SHA256SUMS.txt").write_text("\n".join(sums) + "\n")
    # From the folder above, as in PhysioNet's layout.
    prepare_sleepedf(raw / "sleep-cassette", tmp_path / "out")
    assert "list of checksums" not in caplog.text
    patch(files[0], files[0].stat().st_size - 1, "!")
    with pytest.raises(JobError, match=rf"{files[0].name} has SHA-256 .* checksums says .*again"):
        prepare_sleepedf(raw, tmp_path / "other")
    (raw / "SHA256SUMS.txt").write_text("\n".join(sums[1:]) + "\n")
    prepare_sleepedf(raw, tmp_path / "third")
    assert f"the list of checksums has no {files[0].name}" in caplog.text
    (raw / "SHA256SUMS.txt").write_text(sums[0] + "\nnonsense\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS.txt line 2 is no SHA-256"):
        prepare_sleepedf(raw, tmp_path / "fourth")


def test_fewer_nights_are_said_or_refused(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(root, raw)
    shutil.copy(raw / "sleep-cassette" / "SC4001E0-PSG.edf", raw / "SC4201E0-PSG.edf")
    with pytest.raises(FileNotFoundError, match=r"lacks 35 of 39 nights \(SC4012E, .* 30 more\)"):
        prepare_sleepedf(raw, tmp_path / "out", complete=True)
    prepare_sleepedf(raw, tmp_path / "out")
    assert "has 4 of 39 nights and 3 of 20 people" in caplog.text
    assert "1 recordings of other people are left out" in caplog.text


def test_addresses_are_printed_and_nothing_made(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert APP.main(["prepare-sleepedf", str(tmp_path), "--download_list", "true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    prefix = "https://physionet.org/files/sleep-edfx/1.0.0/"
    assert len(lines) == 79
    assert lines[0] == f"{prefix}sleep-cassette/SC4001E0-PSG.edf"
    assert lines[-1] == f"{prefix}SHA256SUMS.txt"
    prepare_sleepedf(root, download_list=True)
    rest = capsys.readouterr().out.splitlines()
    assert len(rest) == 79 - 8
    assert set(rest) < set(lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            {"hypnogram_start": time(16, 14)},
            "PSG.edf starts at 1989-04-24 16:13:00, SC4001EC-.* at 1989-04-24 16:14:00",
        ),
        ({"rate_factor": 2}, "has 200 samples per second, Sleep-EDF has 100"),
        ({"stages": [(0.0, 90.0, "Sleep stage W")]}, "none of its 3 epochs with a stage is sleep"),
        ({"stages": [(0.0, 90.0, "Lights off")]}, "none of its 0 epochs with a stage is sleep"),
        ({"labels": ["Event marker"]}, "lacks channel eeg_fpz_cz, .*: it has event_marker"),
    ],
)  # fmt: skip
def test_bad_nights(tmp_path: Path, damage: dict[str, object], message: str) -> None:
    options = {"stages": SHORT, **damage}
    write_night(tmp_path / "raw", "SC4001E", epochs=3, **options)  # type: ignore[arg-type]
    with pytest.raises(JobError, match=f"SC4001 \\(.*{message}"):
        prepare_sleepedf(tmp_path / "raw", tmp_path / "out")


def test_units_must_agree(tmp_path: Path) -> None:
    for stem, unit in (("SC4001E", "DegC    "), ("SC4011E", "DegF    ")):
        psg, _ = write_night(tmp_path / "raw", stem, SHORT, epochs=3)
        patch(psg, 256 + 7 * 96 + 5 * 8, unit)
    with pytest.raises(ValueError, match="temp_rectal is in 'DegC' in SC4001 and in 'DegF' in"):
        prepare_sleepedf(tmp_path / "raw", tmp_path / "out", channels=["temp_rectal"])


def test_bad_folders_and_options(root: Path, tmp_path: Path) -> None:
    raw, full = tmp_path / "raw", tmp_path / "full"
    psg, hypnogram = write_night(raw, "SC4001E", SHORT, epochs=3)
    full.mkdir()
    (full / "something").touch()
    for options, error, message in (
        ({"out": None}, ValueError, "out is missing"),
        ({"out": full}, ValueError, "is not empty and was not begun by this verb"),
        ({"trim_wake_minutes": -1}, ValueError, "must be >= 0, got -1"),
        ({"channels": ["ecg"]}, ValueError, "has no channel ecg: it has eeg_fpz_cz"),
        ({"channels": []}, ValueError, "none was named"),
        ({"root": tmp_path / "none"}, FileNotFoundError, "is no folder"),
        ({"root": full}, FileNotFoundError, "has no recording .*--download_list true"),
    ):
        with pytest.raises(error, match=message):
            prepare_sleepedf(**{"root": raw, "out": tmp_path / "out", **options})  # type: ignore
    shutil.copy(hypnogram, raw / "SC4001EH-Hypnogram.edf")
    with pytest.raises(ValueError, match="SC4001E has two files of kind Hypnogram"):
        prepare_sleepedf(raw, tmp_path / "out")
    for gone, message in (
        (raw.glob("*-Hypnogram.edf"), r"no hypnogram \(.*\) for SC4001E0-PSG.edf"),
        ([psg], r"has no recording of Sleep-EDF's list"),
    ):
        for path in gone:
            path.unlink()
        with pytest.raises(FileNotFoundError, match=message):
            prepare_sleepedf(raw, tmp_path / "out")
    write_night(raw, "SC4011E", SHORT, epochs=3)
    (raw / "SC4012EC-Hypnogram.edf").touch()
    with pytest.raises(FileNotFoundError, match=r"no recording \(.*\) for SC4012EC-Hypnogram.edf"):
        prepare_sleepedf(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_modules_need_neither_torch_nor_mne_to_be_imported() -> None:
    code = (
        "import sys, biofame.sleepedf, biofame.edf; "
        "print(sorted({'torch', 'mne', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
