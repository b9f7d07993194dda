"""Reading EDF and BDF files: values, units, rates, annotations, and what is refused."""

import sys
from datetime import date, datetime, time
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest
from edf_files import DAY, NIGHT, patch, waves, write_edf

from biofame.edf import read_recording
from biofame.edf_annotations import Annotation, read_annotations
from biofame.edf_header import read_header

EEG = waves(100, 4, seed=1)
SLOW = waves(1, 4, seed=2)


def signal(
    data: np.ndarray = EEG, rate: float = 100, label: str = "EEG Fpz-Cz", unit: str = "uV"
) -> edfio.EdfSignal:
    return edfio.EdfSignal(
        data, rate, label=label, physical_dimension=unit, physical_range=(-60, 60)
    )


def test_values_names_units_and_start(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf",
        [signal(), signal(EEG / 2, label="EOG (horizontal)", unit="mV")],
    )
    recording = read_recording(path)
    assert recording.channels == ("eeg_fpz_cz", "eog_horizontal")
    assert recording.units == ("uV", "uV")
    assert recording.rate == 100
    assert recording.start == datetime.combine(DAY, NIGHT)
    assert recording.annotations == ()
    assert recording.samples.dtype == np.float32
    step = 120 / 65535
    np.testing.assert_allclose(recording.samples[0], EEG, atol=step)
    np.testing.assert_allclose(recording.samples[1], 500 * EEG, atol=1000 * step)


@pytest.mark.parametrize(
    ("unit", "stored", "factor"),
    [
        ("uV", "uV", 1.0), ("V", "uV", 1e6), ("nV", "uV", 1e-3), ("UV", "uV", 1.0),
        ("DegC", "DegC", 1.0), ("", "", 1.0),
    ],
)  # fmt: skip
def test_voltages_come_in_microvolt_and_others_as_they_are(
    tmp_path: Path, unit: str, stored: str, factor: float
) -> None:
    recording = read_recording(write_edf(tmp_path / "a.edf", [signal(unit=unit)]))
    assert recording.units == (stored,)
    np.testing.assert_allclose(recording.samples[0], factor * EEG, atol=factor * 120 / 65535)


def test_micro_signs_of_recorders_are_microvolt(tmp_path: Path) -> None:
    for sign in ("\u00b5V", "\x83\xcaV"):
        path = write_edf(tmp_path / "a.edf", [signal()])
        patch(path, 256 + 96, sign.ljust(8))
        recording = read_recording(path)
        assert recording.units == ("uV",)
        np.testing.assert_allclose(recording.samples[0], EEG, atol=120 / 65535)


def test_slow_channels_are_brought_to_the_rate_of_the_file(tmp_path: Path) -> None:
    signals = [signal(), signal(SLOW, 1, "Resp oro-nasal", ""), signal(SLOW, 1, "EMG submental")]
    path = write_edf(tmp_path / "a.edf", signals, record_seconds=2)
    both = read_recording(path, channels=["emg_submental", "EEG Fpz-Cz"])
    alone = read_recording(path, channels=["EMG submental"])
    assert alone.rate == both.rate == 100
    assert both.channels == ("emg_submental", "eeg_fpz_cz")
    assert np.array_equal(alone.samples[0], both.samples[0])
    peer = mne.io.read_raw_edf(path, preload=True, stim_channel=None, verbose="ERROR")
    expected = 1e6 * peer.get_data()[[2, 0]]
    np.testing.assert_allclose(both.samples, expected, rtol=1e-5, atol=1e-4)
    # Fourier interpolation goes through the stored samples.
    np.testing.assert_allclose(alone.samples[0, ::100], SLOW, atol=1e-2)


def test_many_channels_are_read_in_their_order(tmp_path: Path) -> None:
    signals = [signal(waves(100, 4, seed=n), label=f"C{n}") for n in range(11)]
    path = write_edf(tmp_path / "a.edf", signals)
    recording = read_recording(path)
    for number, row in enumerate(recording.samples):
        np.testing.assert_allclose(row, waves(100, 4, seed=number), atol=120 / 65535)
    assert np.array_equal(
        read_recording(path, channels=["c10", "c2"]).samples, recording.samples[[10, 2]]
    )


def test_bdf_has_24_bits_and_its_trigger_is_no_channel(tmp_path: Path) -> None:
    def bdf(data: np.ndarray, label: str, unit: str) -> edfio.BdfSignal:
        return edfio.BdfSignal(
            data, 100, label=label, physical_dimension=unit, physical_range=(-60, 60)
        )

    path = tmp_path / "a.bdf"
    edfio.Bdf(
        [bdf(EEG, "A1", "uV"), bdf(np.zeros(400), "Status", "Boolean")],
        annotations=[edfio.EdfAnnotation(1.5, 0.25, "blink")],
    ).write(path)
    recording = read_recording(path)
    assert recording.channels == ("a1",)
    np.testing.assert_allclose(recording.samples[0], EEG, atol=1e-5)
    assert recording.annotations == (Annotation(1.5, 0.25, "blink"),)
    assert read_recording(path, channels=["status"]).channels == ("status",)


def test_annotations_beyond_the_samples_stay(tmp_path: Path) -> None:
    notes = [(3.0, 600.0, "Sleep stage W"), (0.5, 0.0, "geräusch"), (903.25, 30.0, "Sleep stage 1")]
    path = write_edf(tmp_path / "a.edf", [signal()], annotations=notes)
    found = read_recording(path).annotations
    assert [(one.onset, one.duration, one.text) for one in found] == sorted(notes)


def test_annotations_alone_are_a_file(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "h.edf", [], annotations=[(0.0, 60.0, "Sleep stage W")])
    header = read_header(path)
    assert read_annotations(header).entries == (Annotation(0.0, 60.0, "Sleep stage W"),)
    assert header.start == datetime.combine(DAY, NIGHT)
    with pytest.raises(ValueError, match=r"h.edf lacks channel .*none at all.*has no signal"):
        read_recording(path)


def test_fraction_of_the_start_and_latin_1(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf",
        [signal()],
        annotations=[(1.0, 2.0, "ger_usch")],
        start=time(23, 59, 59, 250_000),
    )
    place = path.read_bytes().index(b"ger_usch")
    patch(path, place + 3, "\u00e4")
    recording = read_recording(path)
    assert recording.start == datetime(1989, 4, 24, 23, 59, 59, 250_000)
    assert recording.annotations == (Annotation(1.0, 2.0, "ger\u00e4usch"),)


@pytest.mark.parametrize(
    ("recording", "day", "expected"),
    [
        ("Startdate X", "02.01.84", datetime(2084, 1, 2, 16, 13)),
        ("", "02.01.85", datetime(1985, 1, 2, 16, 13)),
        ("Startdate 03-feb-2091 X X X", "03.02.yy", datetime(2091, 2, 3, 16, 13)),
        ("", "00.00.00", None),
    ],
)
def test_start_dates(tmp_path: Path, recording: str, day: str, expected: datetime | None) -> None:
    path = write_edf(tmp_path / "a.edf", [signal()], day=date(1999, 1, 1))
    patch(path, 88, recording.ljust(80))
    patch(path, 168, day)
    assert read_header(path).start == expected
    assert read_recording(path).start == expected


def test_bytes_beyond_the_header_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_edf(tmp_path / "a.edf", [signal()], record_seconds=1)
    whole = read_recording(path).samples
    path.write_bytes(path.read_bytes() + bytes(2 * 250))
    assert np.array_equal(read_recording(path).samples, whole)
    assert "the last 500 bytes" in caplog.text


def test_discontinuous_files_are_refused(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [signal()], annotations=[])
    patch(path, 192, "EDF+D")
    with pytest.raises(ValueError, match=r"a.edf is discontinuous \(EDF\+D\)"):
        read_recording(path)


@pytest.mark.parametrize(
    ("offset", "text", "message"),
    [
        (0, "1", "is no EDF or BDF file"),
        (252, "x   ", "header is damaged"),
        (236, "-1      ", "was never closed"),
        (236, "9       ", r"is truncated: it has 1312 bytes, its header says 7712 \(9 data"),
        (244, "0       ", "1 data records of 0 s"),
        (256 + 104, "nan     ", "channel eeg_fpz_cz are NaN or infinite"),
        (256, "-".ljust(16), "has a channel without a name"),
    ],
)
def test_damaged_headers(tmp_path: Path, offset: int, text: str, message: str) -> None:
    path = write_edf(tmp_path / "a.edf", [signal()], record_seconds=4)
    patch(path, offset, text)
    with pytest.raises(ValueError, match=message):
        read_recording(path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [signal()])
    for size in (len(path.read_bytes()) - 1, 512, 300, 0):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"a.edf is (truncated|no EDF)"):
            read_recording(path)
    with pytest.raises(FileNotFoundError, match=r"b.edf does not exist"):
        read_recording(tmp_path / "b.edf")


def test_channels_are_asked_for_and_found_once(tmp_path: Path) -> None:
    labels = ["EEG Fpz-Cz", "EEG Fpz Cz", "EMG", "-"]
    path = write_edf(tmp_path / "a.edf", [signal(label=label) for label in labels])
    assert read_recording(path, channels=["emg"]).channels == ("emg",)
    for channels, message in (
        (["eeg_fpz_cz"], r"more than once \('EEG Fpz-Cz', 'EEG Fpz Cz'\)"),
        (["emg", "EMG"], "channel emg is there or asked for more than once"),
        (["emg", "ecg"], "lacks channel ecg: it has eeg_fpz_cz, emg"),
        ([], "lacks channel"),
    ):
        with pytest.raises(ValueError, match=message):
            read_recording(path, channels=channels)
    with pytest.raises(ValueError, match=r"without a name \('-'\).*eeg_fpz_cz, emg"):
        read_recording(path)
    patch(path, 256 + 3 * 16, "EMG ECG".ljust(16))
    with pytest.raises(ValueError, match=r"channel eeg_fpz_cz is there"):
        read_recording(path)


def test_without_mne_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_edf(tmp_path / "a.edf", [signal()])
    monkeypatch.setitem(sys.modules, "mne", None)
    monkeypatch.setitem(sys.modules, "mne.io", None)
    with pytest.raises(ImportError, match=r"biofame\[edf\]"):
        read_recording(path)
