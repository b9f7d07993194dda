"""What is wrong with samples: not finite, flat, clipped, or in another unit than they say (spec 9).

Windows that are not finite are dropped. Flat and clipped channels are counted and stay: RevIN gives
zeros for the former, and the latter still tell something.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biofame.signals import PROPER, VOLTS, canonical_unit, modality, unit_factor
from biofame.windows import Windows

NOT_FINITE = "dropped: NaN or infinite"
# A converter at its limit gives the same number again and again; a smooth wave also lingers at its
# top, but for a smaller share of the time.
CLIPPED_RUN = 5
CLIPPED_SHARE = 0.01
# Usual deviation of voltages at the skin, in uV, within a factor of ten.
USUAL_UV = {"eeg": 15.0, "eog": 30.0, "emg": 15.0, "ecg": 100.0}
WRONG_UNIT_FACTOR = 300.0


def drop_not_finite(windows: Windows, counts: Counter[str]) -> Windows:
    """Return the windows without those that hold a NaN or an infinity, and count the latter."""
    finite = np.asarray(np.isfinite(windows.samples).all(axis=(1, 2)))
    if windows.targets is not None:
        finite &= np.isfinite(windows.targets).all(axis=1)
    if finite.all():
        return windows
    counts[NOT_FINITE] += int((~finite).sum())
    return windows.take(finite)


def flat(samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return `[n, C]`: channels of windows `[n, C, L]` that are one constant."""
    return samples.min(axis=-1) == samples.max(axis=-1)


def clipped(samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return `[n, C]`: channels that stay at their highest or lowest value.

    That is for a run of five samples, and for one in a hundred of all samples; flat channels are
    not clipped.
    """
    at_limit = np.zeros(samples.shape[:-1], dtype=np.bool_)
    for limit in (samples.max(axis=-1), samples.min(axis=-1)):
        stays = samples == limit[..., None]
        enough = stays.mean(axis=-1) >= CLIPPED_SHARE
        at_limit |= enough & _has_run(stays, CLIPPED_RUN)
    return at_limit & ~flat(samples)


def count_bad_channels(windows: Windows, channels: Sequence[str], counts: Counter[str]) -> None:
    """Count flat and clipped channels of windows, all of which are kept.

    Windows that differ in length are looked at in their valid part.
    """
    n, width, length = windows.samples.shape
    lengths = np.full(n, length) if windows.lengths is None else windows.lengths
    present = np.ones((n, width), bool) if windows.present is None else windows.present
    for valid in np.unique(lengths):
        rows = lengths == valid
        samples = windows.samples[rows][..., :valid]
        for reason, found in (("flat", flat(samples)), ("clipped", clipped(samples))):
            for place, count in enumerate((found & present[rows]).sum(axis=0)):
                if count:
                    counts[f"kept: {channels[place]} {reason}"] += int(count)


def unit_doubts(
    samples: NDArray[np.float32], *, channels: Sequence[str], units: Sequence[str]
) -> tuple[str, ...]:
    """Return a sentence on each voltage that is about a thousand times too great or too small.

    What counts is the median over windows `[n, C, L]` of how far samples lie from the median of
    their window, so that an electrode's offset does not.

    Args:
        samples: `[n, C, L]`.
        channels: C names; only EEG, EOG, EMG and ECG are known to have a usual amplitude.
        units: C units; only voltages are looked at.
    """
    doubts: list[str] = []
    for place, (channel, unit) in enumerate(zip(channels, units, strict=True)):
        usual = USUAL_UV.get(modality(channel))
        if usual is None or canonical_unit(unit).lower() not in VOLTS:
            continue
        typical = _deviation(samples[:, place])
        off = typical * unit_factor(unit, "uV") / usual
        if typical > 0 and not 1 / WRONG_UNIT_FACTOR < off < WRONG_UNIT_FACTOR:
            doubts.append(
                f"channel {channel} deviates by {typical:.3g} {canonical_unit(unit)}, usual is "
                f"about {usual:g} uV: the samples look like {_likely_unit(typical, usual)}, set "
                "unit if they are"
            )
    return tuple(doubts)


def _has_run(stays: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    if stays.shape[-1] < length:
        return np.zeros(stays.shape[:-1], dtype=np.bool_)
    run = stays[..., : stays.shape[-1] - length + 1].copy()
    for shift in range(1, length):
        run &= stays[..., shift : stays.shape[-1] - length + 1 + shift]
    return np.asarray(run.any(axis=-1))


def _deviation(samples: NDArray[np.float32]) -> float:
    """Return the median absolute deviation from each window's median of `[n, L]`; 0 for none."""
    if samples.size == 0:
        return 0.0
    centred = samples - np.median(samples, axis=-1, keepdims=True)
    return float(np.median(np.abs(centred)))


def _likely_unit(typical: float, usual: float) -> str:
    def distance(unit: str) -> float:
        return abs(math.log(typical * unit_factor(unit, "uV") / usual))

    return min(PROPER.values(), key=distance)
