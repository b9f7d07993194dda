from collections import Counter

import numpy as np
import pytest

from biofame.quality import clipped, count_bad_channels, drop_not_finite, flat, unit_doubts
from biofame.windows import Windows


def _windows(samples: np.ndarray, **fields: object) -> Windows:
    n = len(samples)
    return Windows(
        samples=samples.astype(np.float32),
        subjects=["s"] * n,
        recordings=[f"r{row}" for row in range(n)],
        onsets=np.zeros(n),
        **fields,  # type: ignore[arg-type]
    )


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_windows_that_are_not_finite_are_dropped_and_counted(value: float) -> None:
    samples = _noise(5, 2, 8)
    samples[1, 0, 0] = value
    samples[4, 1, 7] = value
    counts: Counter[str] = Counter()
    left = drop_not_finite(_windows(samples, labels=np.arange(5)), counts)
    assert left.labels.tolist() == [0, 2, 3]
    assert left.recordings == ["r0", "r2", "r3"]
    np.testing.assert_array_equal(left.samples, samples[[0, 2, 3]].astype(np.float32))
    assert counts == {"dropped: NaN or infinite": 2}


def test_targets_that_are_not_finite_drop_a_window_too() -> None:
    targets = np.asarray([[1], [np.nan], [2]], np.float32)
    counts: Counter[str] = Counter()
    left = drop_not_finite(_windows(_noise(3, 1, 4), targets=targets), counts)
    assert left.targets.tolist() == [[1], [2]]
    assert counts.total() == 1


def test_good_windows_are_left_alone() -> None:
    windows = _windows(_noise(3, 1, 4))
    counts: Counter[str] = Counter()
    assert drop_not_finite(windows, counts) is windows
    assert not counts


def _longest_run(values: np.ndarray, limit: float) -> int:
    longest = run = 0
    for value in values:
        run = run + 1 if value == limit else 0
        longest = max(longest, run)
    return longest


def test_clipped_channels_against_a_loop() -> None:
    samples = _noise(40, 2, 200, seed=3)
    levels = np.linspace(0.5, 3.5, 40)[:, None, None]
    samples = np.clip(np.repeat(samples, 3, axis=-1), -levels, np.inf)
    expected = np.zeros((40, 2), bool)
    for row, channel in np.ndindex(40, 2):
        values = samples[row, channel]
        for limit in (values.min(), values.max()):
            enough = (values == limit).sum() >= 0.01 * len(values)
            expected[row, channel] |= enough and _longest_run(values, limit) >= 5
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(clipped(samples), expected)


def test_what_is_flat_and_what_is_clipped() -> None:
    time = np.arange(400) / 100
    wave = np.sin(2 * np.pi * time)
    samples = np.stack([np.zeros(400), np.full(400, 7.0), wave, np.clip(wave, -0.8, 1)])[None]
    assert flat(samples).tolist() == [[True, True, False, False]]
    assert clipped(samples).tolist() == [[False, False, False, True]]


def test_windows_shorter_than_a_run_are_not_clipped() -> None:
    assert not clipped(np.asarray([[[1.0, 1.0, 0.0]]])).any()


def test_bad_channels_are_counted_in_their_valid_part_and_where_present() -> None:
    samples = _noise(3, 2, 40)
    samples[0, 1] = 0
    samples[1, 0] = 0  # missing
    samples[2, 0, :20] = 3
    samples[2, :, 20:] = 0  # filling
    present = np.asarray([[True, True], [False, True], [True, True]])
    counts: Counter[str] = Counter()
    windows = _windows(samples, present=present, lengths=np.asarray([40, 40, 20]))
    count_bad_channels(windows, ["eeg", "eog"], counts)
    assert counts == {"kept: eog flat": 1, "kept: eeg flat": 1}


@pytest.mark.parametrize(
    ("scale", "unit", "looks_like"),
    [
        (2e-5, "uV", "V"),
        (2e-2, "uV", "mV"),
        (20.0, "V", "uV"),
        (20.0, "mV", "uV"),
        (20_000.0, "uV", "nV"),
    ],
)
def test_a_wrong_unit_is_doubted(scale: float, unit: str, looks_like: str) -> None:
    (doubt,) = unit_doubts(_noise(4, 1, 500) * scale, channels=["eeg_cz"], units=[unit])
    assert "channel eeg_cz deviates by" in doubt
    assert f"look like {looks_like}, set unit" in doubt


@pytest.mark.parametrize(
    ("scale", "channel", "unit"),
    [
        (20.0, "eeg", "uV"),
        (0.3, "eeg", "uV"),
        (1000.0, "eeg", "uV"),
        (1.0, "ecg", "mV"),
        (1e-5, "acc_x", "g"),
        (1e-5, "eeg", ""),
        (0.0, "eeg", "uV"),
    ],
)
def test_usual_amplitudes_are_not(scale: float, channel: str, unit: str) -> None:
    assert unit_doubts(_noise(4, 1, 500) * scale, channels=[channel], units=[unit]) == ()


def test_an_offset_does_not_count() -> None:
    samples = _noise(4, 1, 500) * 20 + 30_000
    assert unit_doubts(samples, channels=["eeg"], units=["uV"]) == ()


def test_no_windows_no_doubt() -> None:
    assert unit_doubts(np.zeros((0, 1, 5)), channels=["eeg"], units=["uV"]) == ()
