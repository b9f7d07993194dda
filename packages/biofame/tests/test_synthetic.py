"""Procedural recordings: spectra, events, couplings between sensors, people, and keys of draws."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, sosfiltfilt, welch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biofame.synthetic import STAGES, SleepConfig, generate, units_of
from biofame.synthetic import sleep as sleep_module
from biofame.synthetic.eeg import background_density, brain
from biofame.synthetic.people import draw_person
from biofame.synthetic.respiration import breathe
from biofame.synthetic.sleep import recording
from biofame.synthetic.stages import RATES, night, transitions
from biofame.synthetic.waveforms import (
    Draws,
    Events,
    Grid,
    deposit,
    draw_events,
    gaussian_noise,
    slow_noise,
)

ALL = ("eeg", "eog", "emg", "resp", "ecg")
SMALL = SleepConfig(
    subjects=2, windows_per_subject=9, seconds=10.0, rate=64.0, channels=ALL, cycle_minutes=1.0
)
W, N1, N2, N3, REM = range(5)
GRID = Grid(100.0, 3000)
AVERAGE = draw_person(subject=0, seed=0, difficulty=0.0)


@cache
def _average() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows of the average person, without spread and noise: what the tables say."""
    config = SleepConfig(windows_per_subject=400, channels=ALL, difficulty=0.0, noise=0.0)
    part = recording(config, subject=1, seed=5)
    assert part.labels is not None
    assert np.bincount(part.labels, minlength=5).min() >= 15
    return part.samples, part.labels


def _by_stage(channel: str, low: float, high: float) -> NDArray[np.float64]:
    """Mean power from `low` to `high` Hz of each stage, unit^2, `[5]`."""
    samples, labels = _average()
    hertz, density = welch(samples[:, ALL.index(channel)], 100.0, nperseg=1000)
    power = density[:, (hertz >= low) & (hertz <= high)].sum(axis=1) * hertz[1]
    return np.array([power[labels == stage].mean() for stage in range(5)])


def _most_common(stage: int, channel: str) -> NDArray[np.float32]:
    samples, labels = _average()
    return samples[labels == stage, ALL.index(channel)]


# --- what signals are made of ---


@pytest.mark.parametrize("rate", [64.0, 200.0])
def test_noise_has_the_density_asked_for(rate: float) -> None:
    grid = Grid(rate, round(20 * rate))
    density = 3.0 + np.sin(grid.frequencies / 3.0)
    noise = gaussian_noise(Draws("noise", windows=range(300)), grid, density.astype(np.float32))
    hertz, measured = welch(noise, rate, nperseg=round(2 * rate))
    inner = (hertz > 2) & (hertz < rate / 2 - 2)
    wanted = np.interp(hertz, grid.frequencies, density)[inner]
    np.testing.assert_allclose(measured.mean(axis=0)[inner], wanted, rtol=0.06)


def test_slow_noise_is_slow_and_of_variance_one() -> None:
    noise = slow_noise(Draws("slow", windows=range(400)), GRID, period=4.0)
    assert noise.var() == pytest.approx(1.0, rel=0.1)
    spectrum = np.abs(np.fft.rfft(noise * np.hanning(3000)[None], axis=1)) ** 2
    assert spectrum[:, np.fft.rfftfreq(3000, 0.01) > 0.35].sum() < 0.01 * spectrum.sum()


def test_events_are_placed_like_a_naive_loop_would() -> None:
    grid = Grid(50.0, 100)
    rows, onsets = np.array([0, 0, 2, 1]), np.array([0.31, 0.5, -0.2, 1.9], dtype=np.float32)
    events = Events(rows, onsets, np.zeros((4, 0), np.float32))
    signals = np.zeros((3, 100), dtype=np.float32)
    deposit(signals, grid, events, lambda seconds: np.cos(seconds), 0.5)
    naive = np.zeros((3, 100))
    for row, onset in zip(rows, onsets, strict=True):
        for sample in range(100):
            if 0 <= sample / 50.0 - onset < 0.5 - 1e-6:
                naive[row, sample] += np.cos(sample / 50.0 - onset)
    np.testing.assert_allclose(signals, naive, atol=1e-5)


def test_events_come_as_often_as_asked() -> None:
    draws = Draws("events", windows=range(600))
    per_minute = np.where(np.arange(600) < 300, 0.0, 6.0).astype(np.float32)
    events = draw_events(draws, GRID, per_minute, most=10.0, marks=1, lead=2.0)
    assert (events.rows >= 300).all()
    assert (events.onsets >= 0).sum() == pytest.approx(300 * 3, rel=0.1)
    assert events.onsets.min() < -1
    assert events.onsets.max() < 30


# --- each sensor ---


def test_the_background_falls_with_the_exponent() -> None:
    person = replace(AVERAGE, exponent=1.1)
    noise = gaussian_noise(
        Draws("background", windows=range(100)), GRID, background_density(GRID, person)
    )
    hertz, density = welch(noise, 100.0, nperseg=1000)
    inner = (hertz > 2) & (hertz < 40)
    slope, level = np.polyfit(np.log(hertz[inner]), np.log(density.mean(axis=0)[inner]), 1)
    assert slope == pytest.approx(-2.2, abs=0.05)
    assert np.exp(level / 2) == pytest.approx(4.5, rel=0.05)  # uV / sqrt(Hz) at 1 Hz


def test_rhythms_of_the_stages() -> None:
    alpha, theta = _by_stage("eeg", 8.5, 11.5), _by_stage("eeg", 4.5, 7.0)
    delta, sigma = _by_stage("eeg", 0.5, 2.0), _by_stage("eeg", 12.5, 14.5)
    beta = _by_stage("eeg", 18.0, 28.0)
    assert alpha.argmax() == W
    assert alpha[W] > 4 * alpha[[N1, N2, N3, REM]].max()
    assert alpha[W] == pytest.approx(13.0**2, rel=0.2)  # uV^2
    assert theta.argmax() == N1
    assert theta[REM] > theta[N3]
    assert delta.argmax() == N3
    assert delta[N3] > 2.5 * delta[[W, N1, REM]].max()
    assert (sigma / beta).argmax() == N2


def test_spindles_complexes_and_sawteeth_are_where_they_belong() -> None:
    def events_of(stage: int) -> NDArray[np.floating]:
        stages = np.full(80, stage)
        some, none = (
            brain(
                Draws("brain", windows=range(80)),
                GRID,
                replace(AVERAGE, events=events),
                stages,
                difficulty=0.0,
            )
            for events in (1.0, 0.0)
        )
        return some - none

    assert not events_of(W).any()
    of_n2, of_rem = events_of(N2), events_of(REM)
    # Complexes: sharp and negative, more than 60 uV; about one or two a minute.
    peaks = sum(len(find_peaks(-row, height=50, distance=50)[0]) for row in of_n2)
    assert peaks / 40 == pytest.approx(1.6, rel=0.4)
    spindles = sosfiltfilt(butter(4, (11, 16), "band", fs=100, output="sos"), of_n2)
    hertz, density = welch(spindles, 100.0, nperseg=400)
    assert 12 <= hertz[density.mean(axis=0).argmax()] <= 15
    loud = np.abs(spindles) > 4
    assert 0.02 < loud.mean() < 0.2  # bursts of 0.5 to 2 s, four a minute
    hertz, density = welch(of_rem, 100.0, nperseg=400)
    assert 1.9 <= hertz[density.mean(axis=0).argmax()] <= 4.1


def test_eyes_roll_in_n1_blink_in_w_and_dart_in_rem() -> None:
    rolling = _by_stage("eog", 0.2, 0.5)
    assert rolling.argmax() == N1
    assert rolling[N1] == pytest.approx(35.0**2, rel=0.35)
    quick = [np.abs(np.diff(_most_common(stage, "eog")[:, ::4])) for stage in range(5)]
    darts = np.array([(steps > 45).mean() for steps in quick])
    assert darts[REM] > 2.5 * max(darts[N1], darts[N2])
    upward = [(_most_common(stage, "eog") > 110).mean() for stage in (W, REM)]
    assert upward[0] > 2 * upward[1]


def test_brain_and_eyes_leak_into_each_other() -> None:
    with_eyes = _average()[0][:, 0]
    eog = _average()[0][:, 1]
    together = [np.corrcoef(one, other)[0, 1] for one, other in zip(with_eyes, eog, strict=True)]
    assert np.median(together) > 0.2


def test_muscle_tone_falls_and_is_nearly_gone_in_rem_but_for_twitches() -> None:
    parts = [_most_common(stage, "emg").reshape(-1, 50) for stage in range(5)]
    tone = np.array([np.median(part.std(axis=1)) for part in parts])
    assert (np.diff(tone) < 0).all()
    assert tone[W] == pytest.approx(11.0, rel=0.2)  # uV
    assert tone[REM] < 0.3 * tone[W]
    bursts = [np.quantile(part.std(axis=1), 0.99) / t for part, t in zip(parts, tone, strict=True)]
    assert bursts[REM] > 1.6 * bursts[N3]


def test_breathing_is_even_in_deep_sleep_and_uneven_in_dreams() -> None:
    def intervals(stage: int) -> NDArray[np.float64]:
        tops = [find_peaks(row, distance=150)[0] for row in _most_common(stage, "resp")]
        return np.concatenate([np.diff(top) for top in tops]) / 100.0

    assert 1 / np.median(intervals(N3)) == pytest.approx(0.25 * 0.95, rel=0.03)  # Hz
    assert intervals(N3).std() < 0.4 * intervals(REM).std()


def test_the_heart_speeds_up_while_breathing_in() -> None:
    resp, ecg = _most_common(N3, "resp"), _most_common(N3, "ecg")
    rates, breath = [], []
    for belt, beats in zip(resp, ecg, strict=True):
        tops = find_peaks(beats, height=0.6, distance=30)[0]
        rates.extend(6000.0 / np.diff(tops))
        breath.extend(belt[(tops[1:] + tops[:-1]) // 2])
    assert np.mean(rates) == pytest.approx(60 * 1.05 * 0.94, rel=0.05)  # beats per minute
    assert np.corrcoef(rates, breath)[0, 1] > 0.7
    assert ecg.max() == pytest.approx(1.1, abs=0.15)  # mV


def test_the_spectrum_does_not_depend_on_the_rate() -> None:
    def density(rate: float) -> NDArray[np.float64]:
        config = SleepConfig(windows_per_subject=60, rate=rate, difficulty=0.0, channels=ALL)
        samples = recording(config, subject=0, seed=0).samples
        hertz, power = welch(samples, rate, nperseg=round(2 * rate))
        return power.mean(axis=0)[:, (hertz >= 1) & (hertz < 25)]

    ratio = np.median(density(64.0) / density(128.0), axis=1)
    np.testing.assert_allclose(ratio, 1.0, atol=0.25)


# --- nights ---


def test_transitions_are_distributions_and_skip_no_stage() -> None:
    config = SleepConfig(windows_per_subject=300, seconds=600.0)
    changes = transitions(config)
    np.testing.assert_allclose(changes.sum(axis=-1), 1.0)
    assert (changes >= 0).all()
    never = (RATES == 0) & ~np.eye(5, dtype=bool)
    assert not changes[:, never].any()


def test_deep_sleep_comes_first_and_dreams_late() -> None:
    config = SleepConfig(windows_per_subject=960, cycle_minutes=90.0)
    nights = np.stack([night(config, subject=subject, seed=0) for subject in range(20)])
    assert (nights[:, 0] == W).all()
    shares = np.bincount(nights.ravel(), minlength=5) / nights.size
    assert shares.min() > 0.04
    assert shares.argmax() == N2
    early, late = nights[:, :360], nights[:, -360:]
    assert (early == N3).mean() > 1.5 * (late == N3).mean()
    assert (late == REM).mean() > 1.5 * (early == REM).mean()
    stays = (nights[:, 1:] == nights[:, :-1]).mean()
    assert 0.8 < stays < 0.98  # a sequence says more than a window


@pytest.mark.parametrize(("windows", "cycle"), [(120, 30.0), (40, 10.0), (960, 90.0)])
def test_a_short_recording_holds_all_stages(windows: int, cycle: float) -> None:
    config = SleepConfig(windows_per_subject=windows)
    assert config.cycle == pytest.approx(cycle)
    nights = np.concatenate([night(config, subject=subject, seed=0) for subject in range(200)])
    assert np.bincount(nights, minlength=5).min() > 0.05 * len(nights)


def test_a_night_goes_on_as_it_began() -> None:
    long, short = (
        night(SleepConfig(windows_per_subject=count, cycle_minutes=20.0), subject=3, seed=1)
        for count in (90, 40)
    )
    np.testing.assert_array_equal(long[:40], short)


# --- keys ---


def test_the_same_key_gives_the_same_recording() -> None:
    first, again = (list(generate(SMALL, seed=4)) for _ in range(2))
    other = list(generate(SMALL, seed=5))
    for one, two, three in zip(first, again, other, strict=True):
        assert one.samples.tobytes() == two.samples.tobytes()
        assert not np.array_equal(one.samples, three.samples)
    assert not np.array_equal(first[0].samples, first[1].samples)


def test_a_window_depends_on_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(generate(SMALL, seed=4))
    alone = recording(SMALL, subject=1, seed=4)
    assert alone.samples.tobytes() == whole[1].samples.tobytes()
    shorter = recording(replace(SMALL, windows_per_subject=5), subject=1, seed=4)
    assert shorter.samples.tobytes() == whole[1].samples[:5].tobytes()
    monkeypatch.setattr(sleep_module, "BATCH", 4)
    assert recording(SMALL, subject=1, seed=4).samples.tobytes() == whole[1].samples.tobytes()


def test_a_sensor_does_not_depend_on_the_others() -> None:
    whole = recording(SMALL, subject=1, seed=4).samples
    some = recording(replace(SMALL, channels=("ecg", "eeg")), subject=1, seed=4).samples
    np.testing.assert_array_equal(some, whole[:, [4, 0]])


def test_windows_say_who_when_and_what() -> None:
    parts = list(generate(SMALL, seed=0))
    assert [part.samples.shape for part in parts] == [(9, 5, 640)] * 2
    assert parts[1].samples.dtype == np.float32
    assert set(parts[1].subjects) == {"subject_00001"}
    np.testing.assert_array_equal(parts[1].onsets, np.arange(9) * 10.0)
    assert parts[1].labels is not None
    assert parts[1].labels.max() < len(STAGES)
    assert units_of(("ecg", "resp", "eeg")) == ("mV", "au", "uV")


def test_breath_is_the_same_for_belt_and_heart() -> None:
    draws = Draws("sleep breath", 4, 1, windows=range(9))
    stages = night(SMALL, subject=1, seed=4)
    person = draw_person(subject=1, seed=4, difficulty=1.0)
    breath = breathe(draws, Grid(64.0, 640), person, stages, difficulty=1.0)
    quiet = replace(SMALL, noise=0.0, channels=("resp",))
    belt = recording(quiet, subject=1, seed=4).samples[:, 0]
    np.testing.assert_allclose(belt, person.gains["resp"] * breath.volume, rtol=1e-5)


# --- people ---


def test_people_differ_by_the_difficulty() -> None:
    def spread(difficulty: float) -> float:
        people = [draw_person(subject=s, seed=0, difficulty=difficulty) for s in range(50)]
        return float(np.std([np.log(person.gains["eeg"]) for person in people]))

    assert spread(0.0) == 0.0
    assert spread(1.0) == pytest.approx(0.35, rel=0.3)
    assert spread(2.0) == pytest.approx(2 * spread(1.0))


def test_band_powers_tell_the_stages_of_new_people_apart_but_not_perfectly() -> None:
    config = SleepConfig(subjects=16, windows_per_subject=60, seconds=20.0)
    parts = list(generate(config, seed=0))
    bands = ((0.5, 2), (2, 4), (4, 8), (8, 12), (12, 15), (15, 30), (30, 50))

    def features(samples: NDArray[np.float32]) -> NDArray[np.float64]:
        hertz, density = welch(samples, config.rate, nperseg=400)
        means = [density[..., (hertz >= a) & (hertz < b)].mean(axis=-1) for a, b in bands]
        return np.log(np.stack(means, axis=-1)).reshape(len(samples), -1)

    def joined(chosen: list[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        x = np.concatenate([features(parts[number].samples) for number in chosen])
        return x, np.concatenate([np.asarray(parts[number].labels) for number in chosen])

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    accuracy = probe.fit(*joined(list(range(10)))).score(*joined(list(range(10, 16))))
    assert 0.65 < accuracy < 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": 0}, "subjects must be >= 1, got 0"),
        ({"windows_per_subject": 0}, "windows_per_subject must be >= 1"),
        ({"seconds": 0.0}, "seconds must be > 0"),
        ({"seconds": float("nan")}, "seconds must be > 0"),
        ({"rate": 10.0}, "rate must be >= 20"),
        ({"rate": 100.5, "seconds": 1.0}, "rate x seconds 1 must be a whole number of samples"),
        ({"difficulty": -1.0}, "difficulty must be >= 0"),
        ({"noise": float("inf")}, "noise must be >= 0"),
        ({"cycle_minutes": 0.0}, "cycle_minutes must be > 0"),
        ({"channels": ()}, "channels must name at least one sensor"),
        ({"channels": ("eeg", "ppg")}, "channels must be of eeg, eog, emg, resp, ecg, got ppg"),
        ({"channels": ("eeg", "eeg")}, "channels must name each sensor once, got eeg"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SleepConfig(**options)
