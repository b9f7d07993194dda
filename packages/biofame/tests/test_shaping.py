from collections import Counter
from typing import Any

import numpy as np
import pytest

from biofame.readers.part import SourcePart, Span
from biofame.shaping import ShapeConfig, ShapedPart, shape_part
from biofame.signals import interpolate_linear, resample
from biofame.windows import Windows


def _part(samples: np.ndarray, *, fields: dict[str, Any] | None = None, **facts: Any) -> SourcePart:
    n = len(samples)
    windows = Windows(
        samples=samples.astype(np.float32),
        subjects=[""] * n,
        recordings=[f"r{row}" for row in range(n)],
        onsets=np.zeros(n),
        **(fields or {}),
    )
    return SourcePart(**{"windows": windows, "where": "file.x", "rate": 100.0, **facts})


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _shape(
    part: SourcePart, *, path: str = "a/file.x", counts: Counter[str] | None = None, **config: Any
) -> ShapedPart:
    counts = Counter() if counts is None else counts
    return shape_part(part, ShapeConfig(**config), path=path, counts=counts)


def test_nothing_asked_nothing_changed() -> None:
    samples = _noise(3, 2, 50)
    shaped = _shape(_part(samples, channels=("eeg", "acc_x"), units=("uV", "g")))
    np.testing.assert_array_equal(shaped.windows.samples, samples)
    assert shaped.info.channels == ("eeg", "acc_x")
    assert shaped.info.units == ("uV", "g")
    assert shaped.info.rate == 100


def test_channels_are_chosen_in_the_wanted_order() -> None:
    samples = _noise(2, 3, 10)
    part = _part(samples, channels=("a", "b", "c"), units=("V", "g", ""))
    shaped = _shape(part, channels=("c", "absent", "a"), to_unit="V")
    assert shaped.info.channels == ("c", "a")
    assert shaped.info.units == ("", "V")
    np.testing.assert_array_equal(shaped.windows.samples, samples[:, [2, 0]])
    with pytest.raises(ValueError, match=r"file.x has none of the channels d: it has a, b, c"):
        _shape(part, channels=("d",))


def test_unnamed_channels_are_named() -> None:
    part = _part(_noise(2, 2, 10))
    assert _shape(part).info.channels == ("ch1", "ch2")
    assert _shape(part, channels=("acc_x", "eeg")).info.channels == ("acc_x", "eeg")
    with pytest.raises(ValueError, match="does not name its 2 channels and channels gives 1"):
        _shape(part, channels=("eeg",))


def test_units() -> None:
    samples = _noise(1, 3, 10)
    part = _part(samples, channels=("a", "b", "c"), units=("mV", "g", ""))
    shaped = _shape(part)
    np.testing.assert_array_equal(shaped.windows.samples[0, 0], samples[0, 0] * np.float32(1000))
    np.testing.assert_array_equal(shaped.windows.samples[0, 1:], samples[0, 1:])
    assert shaped.info.units == ("uV", "g", "")
    stated = _shape(part, unit="V", to_unit="mV")
    np.testing.assert_array_equal(
        stated.windows.samples[0], samples[0] * np.float32([[1000], [1], [1000]])
    )
    assert stated.info.units == ("mV", "g", "mV")


def test_the_rate_must_be_known_and_agree() -> None:
    part = _part(_noise(1, 1, 10), rate=None)
    with pytest.raises(ValueError, match=r"file.x does not say its sampling rate: set rate"):
        _shape(part)
    assert _shape(part, rate=50).info.rate == 50
    with pytest.raises(ValueError, match="has 100 samples per second and rate is 50"):
        _shape(_part(_noise(1, 1, 10)), rate=50)


def test_resampling() -> None:
    samples = _noise(2, 1, 100)
    shaped = _shape(_part(samples), resample=128)
    expected = resample(samples, rate=100, wanted=128)
    np.testing.assert_array_equal(shaped.windows.samples, expected)
    assert shaped.info.rate == 128
    with pytest.raises(ValueError, match=r"cannot resample 99.98713 to 128"):
        _shape(_part(samples, rate=99.98713), resample=128)


def test_resampling_does_not_look_beyond_a_windows_length() -> None:
    samples = _noise(3, 1, 100)
    samples[0, :, 40:] = 0
    shaped = _shape(_part(samples, fields={"lengths": np.asarray([40, 100, 100])}), resample=50)
    assert shaped.windows.lengths.tolist() == [20, 50, 50]
    alone = resample(samples[0, :, :40], rate=100, wanted=50)
    np.testing.assert_array_equal(shaped.windows.samples[0, :, :20], alone)
    assert not shaped.windows.samples[0, :, 20:].any()


def test_windows_that_are_not_finite_are_dropped() -> None:
    samples = _noise(3, 1, 10)
    samples[1, 0, 5] = np.nan
    counts: Counter[str] = Counter()
    shaped = _shape(_part(samples), counts=counts)
    assert shaped.windows.recordings == ["r0", "r2"]
    assert counts["dropped: NaN or infinite"] == 1


# length


def test_trim_drops_what_is_shorter() -> None:
    samples = _noise(3, 1, 10)
    counts: Counter[str] = Counter()
    part = _part(samples, fields={"lengths": np.asarray([10, 5, 6])})
    shaped = _shape(part, length=6, counts=counts)
    np.testing.assert_array_equal(shaped.windows.samples, samples[[0, 2], :, :6])
    assert shaped.windows.lengths is None
    assert +counts == {"dropped: shorter than 6 samples": 1, "kept: cut to 6 samples": 1}


def test_pad_fills_what_is_shorter() -> None:
    samples = _noise(3, 1, 10)
    samples[1, :, 5:] = 0
    counts: Counter[str] = Counter()
    part = _part(samples, fields={"lengths": np.asarray([10, 5, 10])})
    shaped = _shape(part, length=12, fit="pad", counts=counts)
    np.testing.assert_array_equal(shaped.windows.samples[..., :10], samples)
    assert not shaped.windows.samples[..., 10:].any()
    assert shaped.windows.lengths.tolist() == [10, 5, 10]
    assert +counts == {"kept: filled to 12 samples with zeros": 3}
    cut = _shape(part, length=6, fit="pad")
    assert cut.windows.lengths.tolist() == [6, 5, 6]


def test_interpolation_says_its_rate() -> None:
    samples = _noise(2, 1, 178)
    shaped = _shape(_part(samples, rate=178.0), length=300, fit="interpolate")
    np.testing.assert_array_equal(shaped.windows.samples, interpolate_linear(samples, 300))
    assert shaped.info.rate == 300
    part = _part(samples, fields={"lengths": np.asarray([178, 100])})
    with pytest.raises(ValueError, match="different rates by interpolation: use fit pad or trim"):
        _shape(part, length=300, fit="interpolate")


# labels


def test_labels_of_names_are_put_in_the_wanted_order() -> None:
    fields = {"labels": np.asarray([0, 1, -1])}
    part = _part(_noise(3, 1, 4), fields=fields, classes=("rem", "wake"))
    assert _shape(part).info.classes == ("rem", "wake")
    shaped = _shape(part, classes=("wake", "n1", "rem"))
    assert shaped.windows.labels.tolist() == [2, 0, -1]
    assert shaped.info.classes == ("wake", "n1", "rem")
    with pytest.raises(ValueError, match=r"file.x: label rem is outside the classes wake, n1"):
        _shape(part, classes=("wake", "n1"))


def test_a_name_that_no_window_has_is_not_missed() -> None:
    part = _part(_noise(1, 1, 4), fields={"labels": np.asarray([1])}, classes=("rem", "wake"))
    assert _shape(part, classes=("wake", "n1")).windows.labels.tolist() == [0]


def test_labels_of_numbers_are_places_in_the_classes() -> None:
    fields = {"labels": np.asarray([2, 0])}
    part = _part(_noise(2, 1, 4), fields=fields, classes=("0", "1", "2"))
    shaped = _shape(part, classes=("a", "b", "c", "d"))
    assert shaped.windows.labels.tolist() == [2, 0]
    assert shaped.info.classes == ("a", "b", "c", "d")
    with pytest.raises(ValueError, match=r"file.x: label 2 is outside the classes a, b: add it"):
        _shape(part, classes=("a", "b"))


def test_subjects_from_paths() -> None:
    part = _part(_noise(2, 1, 4))
    shaped = _shape(part, path="night/SC4071E0.edf", subject_pattern=r"SC4(\d\d)")
    assert shaped.windows.subjects == ["07", "07"]
    with pytest.raises(ValueError, match=r"finds no subject in 'x.edf'"):
        _shape(part, path="x.edf", subject_pattern=r"SC4(\d\d)")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"subject_pattern": "SC4.."}, "has no group: put the subject in"),
        ({"subject_pattern": "("}, "is no regular expression"),
        ({"rate": 0}, "rate must be > 0, got 0"),
        ({"seconds": float("nan")}, "seconds must be > 0, got nan"),
        ({"length": -1}, "length must be > 0, got -1"),
    ],
)
def test_wrong_options(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapeConfig(**config)


# long recordings


def test_a_recording_is_cut() -> None:
    samples = _noise(1, 2, 1050)
    counts: Counter[str] = Counter()
    shaped = _shape(_part(samples), seconds=3, counts=counts)
    expected = [samples[0, :, start : start + 300] for start in (0, 300, 600)]
    np.testing.assert_array_equal(shaped.windows.samples, expected)
    assert shaped.windows.onsets.tolist() == [0, 3, 6]
    assert shaped.windows.recordings == ["r0"] * 3
    assert +counts == {"dropped: end of a recording, shorter than a window": 1}


def test_recordings_of_several_lengths_are_cut() -> None:
    samples = _noise(3, 1, 100)
    fields = {"lengths": np.asarray([100, 45, 19]), "labels": np.asarray([0, 1, 0])}
    counts: Counter[str] = Counter()
    part = _part(samples, fields=fields, classes=("a", "b"))
    shaped = _shape(part, seconds=0.2, counts=counts)
    expected = [samples[0, :, 20 * i : 20 * i + 20] for i in range(5)]
    expected += [samples[1, :, 20 * i : 20 * i + 20] for i in range(2)]
    np.testing.assert_array_equal(shaped.windows.samples, expected)
    assert shaped.windows.labels.tolist() == [0] * 5 + [1] * 2
    np.testing.assert_allclose(shaped.windows.onsets, [0, 0.2, 0.4, 0.6, 0.8, 0, 0.2])
    assert counts["dropped: recording shorter than a window"] == 1


def test_seconds_must_be_whole_samples() -> None:
    with pytest.raises(ValueError, match=r"seconds 0.125 at 100 .* are 12.5 samples"):
        _shape(_part(_noise(1, 1, 100)), seconds=0.125)
    shaped = _shape(_part(_noise(1, 1, 100)), seconds=0.125, resample=200)
    assert shaped.windows.samples.shape == (8, 1, 25)


def test_gaps_drop_their_windows_and_spoil_no_others() -> None:
    samples = _noise(1, 2, 1000)
    samples[0, 1, 250:260] = np.nan
    counts: Counter[str] = Counter()
    shaped = _shape(_part(samples), seconds=1, counts=counts)
    assert shaped.windows.onsets.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert counts["dropped: NaN or infinite"] == 1
    np.testing.assert_array_equal(shaped.windows.samples[2], samples[0, :, 300:400])


def test_what_a_filter_mixes_with_a_gap_is_dropped_too() -> None:
    samples = _noise(1, 1, 1000)
    spoiled = samples.copy()
    spoiled[0, 0, 205] = np.nan
    counts: Counter[str] = Counter()
    shaped = _shape(_part(spoiled), seconds=1, resample=50, counts=counts)
    assert shaped.windows.onsets.tolist() == [0, 3, 4, 5, 6, 7, 8, 9]
    assert counts["dropped: NaN or infinite"] == 2
    # The rest is as if nothing had been there, but for the mean, which zero hardly changes.
    whole = _shape(_part(samples), seconds=1, resample=50)
    np.testing.assert_allclose(
        shaped.windows.samples, whole.windows.samples[[0, 3, 4, 5, 6, 7, 8, 9]], atol=1e-3
    )


def test_annotations_label_the_windows_they_cover() -> None:
    spans = (
        Span(onset=0.0, duration=2.0, text="W"),
        Span(onset=2.0, duration=1.5, text="N1"),
        Span(onset=4.0, duration=1.0, text="W"),
        Span(onset=4.0, duration=1.0, text="N1"),
        Span(onset=5.0, duration=5.0, text="noise"),
    )
    part = _part(_noise(1, 1, 800), spans=spans)
    shaped = _shape(part, seconds=1, classes=("N1", "W"))
    assert shaped.windows.labels.tolist() == [1, 1, 0, -1, -1, -1, -1, -1]
    assert shaped.info.classes == ("N1", "W")
    assert _shape(part, seconds=1).windows.labels.tolist() == [-1] * 8
