import numpy as np
import pytest
import torch

from biofame.signals import (
    canonical_name,
    canonical_names,
    canonical_unit,
    interpolate_linear,
    modality,
    resample,
    resampled_length,
    resampling_ratio,
    unit_factor,
)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("EEG Fpz-Cz", "eeg_fpz_cz"),
        ("EOG horizontal", "eog_horizontal"),
        ("  Résp. oro--nasal ", "resp_oro_nasal"),
        ("acc_x", "acc_x"),
        ("SpO2 (%)", "spo2"),
    ],
)
def test_canonical_names(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical
    assert canonical_name(canonical) == canonical


def test_names_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="' - ' has no letter"):
        canonical_name(" - ")
    with pytest.raises(ValueError, match="'EEG Cz' and 'eeg-cz' are both called 'eeg_cz': rename"):
        canonical_names(["EEG Cz", "ecg", "eeg-cz"])
    assert canonical_names(["EEG Cz", "ECG"]) == ("eeg_cz", "ecg")


@pytest.mark.parametrize(
    ("channel", "kind"),
    [
        ("eeg_fpz_cz", "eeg"),
        ("EEG Pz-Oz", "eeg"),
        ("eog_horizontal", "eog"),
        ("chin1_chin2", "other"),
        ("emg_submental", "emg"),
        ("EKG", "ecg"),
        ("ecg2", "ecg"),
        ("resp_oro_nasal", "resp"),
        ("acc_x", "acc"),
        ("gyr_z", "gyr"),
        ("coefficient", "other"),
    ],
)
def test_modalities(channel: str, kind: str) -> None:
    assert modality(channel) == kind


@pytest.mark.parametrize(
    ("unit", "wanted", "factor"),
    [
        ("V", "uV", 1e6),
        ("uV", "V", 1e-6),
        ("mV", "µV", 1e3),
        ("microvolt", "nV", 1e3),
        ("μV", "uV", 1.0),
        ("g", "g", 1.0),
    ],
)
def test_unit_factors(unit: str, wanted: str, factor: float) -> None:
    assert unit_factor(unit, wanted) == factor


def test_units() -> None:
    assert canonical_unit(" µV ") == "uV"
    assert canonical_unit("degC") == "degC"
    with pytest.raises(ValueError, match="cannot convert unit 'g' to 'uV': known are V, mV, uV"):
        unit_factor("g", "uV")


@pytest.mark.parametrize(
    ("rate", "wanted", "up", "down"),
    [(100, 128, 32, 25), (62.5, 100, 8, 5), (178, 300, 150, 89), (0.1, 1, 10, 1), (50, 50, 1, 1)],
)
def test_ratios(rate: float, wanted: float, up: int, down: int) -> None:
    ratio = resampling_ratio(rate, wanted)
    assert (ratio.numerator, ratio.denominator) == (up, down)


@pytest.mark.parametrize(
    ("rate", "wanted", "message"),
    [
        (99.98713, 100, "cannot resample 99.98713 to 100 .* round the rates"),
        (173.61, 100.123, "no fraction of whole numbers up to 10000"),
        (0, 100, "rate must be > 0 samples per second, got 0"),
        (100, float("nan"), "resample must be > 0"),
        (float("inf"), 100, "rate must be > 0"),
    ],
)
def test_ratios_that_cannot_be(rate: float, wanted: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resampling_ratio(rate, wanted)


def test_resampling_keeps_a_slow_wave_and_an_offset() -> None:
    def wave(rate: float) -> np.ndarray:
        return (5000 + np.sin(2 * np.pi * 3 * np.arange(int(10 * rate)) / rate)).astype(np.float32)

    for wanted in (64.0, 125.0, 250.0):
        done = resample(wave(100)[None], rate=100, wanted=wanted)
        assert done.shape == (1, resampled_length(1000, rate=100, wanted=wanted))
        assert done.dtype == np.float32
        inner = slice(int(wanted), -int(wanted))
        np.testing.assert_allclose(done[0, inner], wave(wanted)[inner], atol=0.002)


def test_resampling_leaves_no_alias() -> None:
    # 40 Hz cannot be held at 50 samples per second: straight lines fold it to 10 Hz.
    wave = np.sin(2 * np.pi * 40 * np.arange(2000) / 200).astype(np.float32)
    assert np.abs(resample(wave, rate=200, wanted=50)[50:-50]).max() < 0.01
    assert np.abs(interpolate_linear(wave, 500)[50:-50]).max() > 0.5


def test_the_same_rate_changes_nothing() -> None:
    samples = np.arange(5, dtype=np.float32)
    assert resample(samples, rate=100, wanted=100) is samples


@pytest.mark.parametrize(("old", "new"), [(178, 300), (300, 178), (10, 10), (1, 4), (2, 7), (7, 1)])
def test_interpolation_is_that_of_torch(old: int, new: int) -> None:
    samples = np.random.default_rng(0).normal(size=(2, 3, old)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(samples).double(), new, mode="linear"
    )
    done = interpolate_linear(samples, new)
    assert done.dtype == np.float32
    np.testing.assert_allclose(done, expected.numpy(), atol=1e-6)


def test_no_points() -> None:
    with pytest.raises(ValueError, match="length must be >= 1, got 0"):
        interpolate_linear(np.zeros((1, 4), np.float32), 0)
