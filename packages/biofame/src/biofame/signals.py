"""Names, units and rates of channels.

A channel is a named sensor, and its name is what ties it to a network's parameters: the same sensor
must have the same name in every store. Resampling is anti-aliased; the linear interpolation of the
released code (spec 5, defect 9) is there for parity.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import signal

# Factor to volt.
VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "nv": 1e-9}
SPELLINGS = {"volt": "v", "volts": "v", "millivolt": "mv", "microvolt": "uv", "nanovolt": "nv"}
PROPER = {"v": "V", "mv": "mV", "uv": "uV", "nv": "nV"}
MODALITIES = {
    "eeg": ("eeg", "fp1", "fp2", "fpz", "cz", "pz", "oz", "fz"),
    "eog": ("eog",),
    "emg": ("emg", "chin"),
    "ecg": ("ecg", "ekg"),
    "ppg": ("ppg", "bvp", "pleth"),
    "eda": ("eda", "gsr"),
    "resp": ("resp", "airflow", "thorax", "abdomen"),
    "acc": ("acc", "accel"),
    "gyr": ("gyr", "gyro"),
    "mag": ("mag",),
    "temp": ("temp",),
}
LARGEST_FACTOR = 10_000


def canonical_name(name: str) -> str:
    """Return a channel's name in lower case letters, digits and underscores.

    `EEG Fpz-Cz` becomes `eeg_fpz_cz`.

    Raises:
        ValueError: Nothing of the name is left.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    canonical = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")
    if not canonical:
        raise ValueError(f"channel name {name!r} has no letter or digit: name the channel")
    return canonical


def canonical_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the canonical names of channels.

    Raises:
        ValueError: Two of them have the same canonical name.
    """
    first: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if canonical in first:
            raise ValueError(
                f"channels {first[canonical]!r} and {name!r} are both called {canonical!r}: "
                "rename one of them"
            )
        first[canonical] = name
    return tuple(first)


def modality(channel: str) -> str:
    """Return the kind of sensor that a channel's name tells of, such as `eeg`; else `other`."""
    for part in canonical_name(channel).split("_"):
        for kind, words in MODALITIES.items():
            if part in words or re.fullmatch(rf"{kind}\d+", part):
                return kind
    return "other"


def canonical_unit(unit: str) -> str:
    """Return V, mV, uV or nV for any usual spelling of them, and other units as they are."""
    spelled = unit.strip().replace("µ", "u").replace("μ", "u").lower()
    spelled = SPELLINGS.get(spelled, spelled)
    return PROPER.get(spelled, unit.strip())


def unit_factor(unit: str, wanted: str) -> float:
    """Return what samples in `unit` are multiplied by to be in `wanted`.

    Raises:
        ValueError: One of two different units is not a voltage.
    """
    have, want = canonical_unit(unit), canonical_unit(wanted)
    if have == want:
        return 1.0
    if have.lower() not in VOLTS or want.lower() not in VOLTS:
        raise ValueError(
            f"cannot convert unit {unit!r} to {wanted!r}: known are {', '.join(PROPER.values())}"
        )
    # Of decimal numbers, so that V to uV is 1e6 and not 999999.9999999999.
    return float(Fraction(str(VOLTS[have.lower()])) / Fraction(str(VOLTS[want.lower()])))


def resampling_ratio(rate: float, wanted: float) -> Fraction:
    """Return `wanted / rate` in lowest terms.

    Raises:
        ValueError: A rate is not positive, or the ratio is no fraction of small whole numbers, as
            with a rate measured by a clock.
    """
    for name, value in (("rate", rate), ("resample", wanted)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be > 0 samples per second, got {value}")
    ratio = Fraction(str(wanted)) / Fraction(str(rate))
    if max(ratio.numerator, ratio.denominator) > LARGEST_FACTOR:
        raise ValueError(
            f"cannot resample {rate} to {wanted} samples per second: the ratio {ratio} is no "
            f"fraction of whole numbers up to {LARGEST_FACTOR}; round the rates or choose a length "
            "by interpolation"
        )
    return ratio


def resample(samples: NDArray[np.float32], *, rate: float, wanted: float) -> NDArray[np.float32]:
    """Return `[..., T]` at another rate as `[..., ceil(T * wanted / rate)]`, free of aliases.

    A polyphase filter (`scipy.signal.resample_poly`) cuts off what the new rate cannot hold. The
    mean passes it by, since the filter's phases differ in their gain by some parts in ten thousand,
    which an offset would show. Beyond its ends the signal is taken to go on along the line between
    them.
    """
    ratio = resampling_ratio(rate, wanted)
    if ratio == 1:
        return samples
    doubles = samples.astype(np.float64)
    mean = doubles.mean(axis=-1, keepdims=True)
    done = signal.resample_poly(
        doubles - mean, ratio.numerator, ratio.denominator, axis=-1, padtype="line"
    )
    return np.ascontiguousarray(done + mean, dtype=np.float32)


def resampled_length(length: int, *, rate: float, wanted: float) -> int:
    """Return how many samples `resample` makes of `length`."""
    return ceil(length * resampling_ratio(rate, wanted))


def interpolate_linear(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Return `[..., T]` on `length` points by straight lines, without a filter against aliases.

    As `torch.nn.functional.interpolate(mode="linear")`: point i lies at (i + 1/2) T / length - 1/2,
    and points beyond the ends take the ends' values. The released code makes 300 of Epilepsy's 178
    samples so (spec 2.5).
    """
    if length < 1:
        raise ValueError(f"length must be >= 1, got {length}")
    old = samples.shape[-1]
    places = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
    left = np.minimum(np.floor(places).astype(np.int64), max(old - 2, 0))
    right = np.minimum(left + 1, old - 1)
    weight = places - left
    mixed = samples[..., left] * (1 - weight) + samples[..., right] * weight
    return np.ascontiguousarray(mixed, dtype=np.float32)
