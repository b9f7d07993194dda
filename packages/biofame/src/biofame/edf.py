"""Recordings from EDF, EDF+ and BDF files, read through MNE (extra `edf`).

Voltages come in microvolt, which is what the released code gets from MNE's data frames; it takes
every channel for a voltage, whereas other quantities keep the file's unit here. Channels that are
stored at a lower rate than the file's highest are brought to it by MNE, which interpolates over the
whole recording by Fourier transform: that adds samples, not information (in Sleep-EDF the
respiration and the EMG, of 1 Hz).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofame.edf_annotations import Annotation, Annotations, read_annotations
from biofame.edf_header import EdfHeader, EdfSignal, read_header
from biofame.signals import VOLTS, canonical_name, canonical_unit, unit_factor

MICROVOLT = "uV"
SHIFT_JIS_MICROVOLT = "\x83\xcaV"
# What MNE multiplies by to get volt (with the micro sign and the Greek letter); it leaves every
# other unit as it is.
MNE_FACTORS = dict.fromkeys(("uV", "\u00b5V", "\u03bcV", SHIFT_JIS_MICROVOLT), 1e-6) | {"mV": 1e-3}
# MNE holds double precision of all channels it reads at once.
CHANNELS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Samples of some sensors over the same time.

    Attributes:
        samples: float32 `[C, T]`.
        channels: C canonical names.
        units: C units, `uV` for every voltage; "" where the file does not say.
        rate: Samples per second.
        start: Of the first sample, local time; None where unknown.
        annotations: By onset.
    """

    samples: NDArray[np.float32]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    rate: float
    start: datetime | None
    annotations: tuple[Annotation, ...]


def read_recording(path: Path, *, channels: Sequence[str] | None = None) -> Recording:
    """Read an EDF, EDF+C or BDF file.

    Channels of a lower rate are upsampled to the file's highest (see above), whichever channels are
    asked for.

    Args:
        path: The file, named `.edf` or `.bdf`.
        channels: Channels to read, in that order, in any spelling that has the same canonical name;
            by default all but annotations and trigger codes.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: MNE is not installed.
        ValueError: The file is damaged, truncated or discontinuous, a channel is missing or named
            twice, or samples are not finite.
    """
    header = read_header(path)
    check_continuous(header)
    signals = find_channels(header, channels)
    annotations = read_annotations(header)
    samples, rate = _read_samples(header, signals)
    names = tuple(canonical_name(signal.label) for signal in signals)
    _check_finite(header.path, samples, names)
    return Recording(
        samples=samples,
        channels=names,
        units=tuple(unit_of(signal) for signal in signals),
        rate=rate,
        start=start_of(header, annotations),
        annotations=annotations.entries,
    )


def check_continuous(header: EdfHeader) -> None:
    """Refuse a file whose samples have gaps or cover no time.

    Raises:
        ValueError: As it says.
    """
    if header.discontinuous:
        raise ValueError(
            f"{header.path} is discontinuous (EDF+D): its samples have gaps that windows would "
            "hide; export each continuous stretch as an EDF+C file of its own"
        )
    if header.channels and (header.record_seconds == 0 or header.records == 0):
        raise ValueError(
            f"{header.path} has {header.records} data records of {header.record_seconds:g} s: "
            "it holds no samples"
        )


def find_channels(header: EdfHeader, channels: Sequence[str] | None) -> tuple[EdfSignal, ...]:
    """Return the signals of channels, or all that are neither annotations nor triggers.

    Raises:
        ValueError: There are none, one is missing, or a name is not unique.
    """
    there: dict[str, list[EdfSignal]] = {}
    for signal in header.channels if channels is None else header.signals:
        if not signal.is_annotations:
            there.setdefault(_name(signal), []).append(signal)
    if channels is None and "" in there:
        raise ValueError(
            f"{header.path} has a channel without a name ({there[''][0].label!r}): ask for the "
            f"others by name: {', '.join(filter(None, there))}"
        )
    wanted = list(there) if channels is None else [canonical_name(name) for name in channels]
    missing = [name for name in wanted if name not in there]
    if missing or not wanted:
        raise ValueError(
            f"{header.path} lacks channel {', '.join(missing) or '(it has none at all)'}: it has "
            f"{', '.join(filter(None, there)) or 'no signal'}"
        )
    twice = [name for name in wanted if len(there[name]) > 1 or wanted.count(name) > 1]
    if twice:
        labels = ", ".join(repr(signal.label) for signal in there[twice[0]])
        raise ValueError(
            f"{header.path}: channel {twice[0]} is there or asked for more than once ({labels}): "
            "rename one of them, or ask for other channels"
        )
    return tuple(there[name][0] for name in wanted)


def channel_names(header: EdfHeader, *, triggers: bool = False) -> tuple[str, ...]:
    """Return the canonical names of channels, without those that have none.

    Args:
        header: Of the file.
        triggers: Whether trigger codes count, which are read only when asked for by name.
    """
    signals = header.signals if triggers else header.channels
    return tuple(filter(None, (_name(one) for one in signals if not one.is_annotations)))


def unit_of(signal: EdfSignal) -> str:
    """Return the unit in which a signal's samples are read: `uV` for every voltage."""
    unit = _stored_unit(signal)
    return MICROVOLT if unit.lower() in VOLTS else unit


def start_of(header: EdfHeader, annotations: Annotations) -> datetime | None:
    """Return when the first sample was taken, to a fraction of a second."""
    if header.start is None:
        return None
    return header.start + timedelta(seconds=annotations.offset)


def _name(signal: EdfSignal) -> str:
    """Return the canonical name, "" for a label such as `-`, with which montages are padded."""
    try:
        return canonical_name(signal.label)
    except ValueError:
        return ""


def _stored_unit(signal: EdfSignal) -> str:
    return canonical_unit(MICROVOLT if signal.unit == SHIFT_JIS_MICROVOLT else signal.unit)


def _read_samples(
    header: EdfHeader, signals: tuple[EdfSignal, ...]
) -> tuple[NDArray[np.float32], float]:
    fastest = max(header.channels or signals, key=lambda signal: signal.samples)
    rate = fastest.samples / header.record_seconds
    samples = np.empty((len(signals), header.records * fastest.samples), dtype=np.float32)
    for first in range(0, len(signals), CHANNELS_AT_ONCE):
        some = signals[first : first + CHANNELS_AT_ONCE]
        samples[first : first + len(some)] = _read_some(header, some, fastest)
    return samples, rate


def _read_some(
    header: EdfHeader, signals: tuple[EdfSignal, ...], fastest: EdfSignal
) -> NDArray[np.float64]:
    """Read `[c, T]` at the rate of `fastest`, which is read beside signals that are all slower."""
    labels = [signal.label for signal in signals]
    slower = all(signal.samples < fastest.samples for signal in signals)
    raw = _open(header, [*labels, fastest.label] if slower else labels)
    # More bytes than the header tells of are no samples.
    stop = header.records * fastest.samples
    values = raw.get_data(picks=[raw.ch_names.index(label) for label in labels])[:, :stop]
    return values * np.array([[_factor(signal)] for signal in signals])


def _open(header: EdfHeader, labels: list[str]) -> Any:
    mne_io = _import_mne()
    read = mne_io.read_raw_bdf if header.sample_bytes == 3 else mne_io.read_raw_edf
    # What the silenced warnings say of samples was checked from the header. MNE's own annotations
    # go unused: Latin-1 is what cannot fail.
    return read(header.path, include=labels, stim_channel=None, encoding="latin1", verbose="ERROR")


def _import_mne() -> Any:
    try:
        import mne.io
    except ImportError as error:
        raise ImportError(
            "reading EDF and BDF files needs the extra biofame[edf]: install it"
        ) from error
    return mne.io


def _factor(signal: EdfSignal) -> float:
    """Return what MNE's values are multiplied by to be in `unit_of`."""
    unit = _stored_unit(signal)
    if unit.lower() not in VOLTS:
        return 1.0
    return unit_factor(unit, MICROVOLT) / MNE_FACTORS.get(signal.unit, 1.0)


def _check_finite(path: Path, samples: NDArray[np.float32], names: tuple[str, ...]) -> None:
    wrong = [name for name, row in zip(names, samples, strict=True) if not np.isfinite(row).all()]
    if wrong:
        raise ValueError(
            f"{path}: samples of channel {', '.join(wrong)} are NaN or infinite, so the header's "
            "physical or digital range is damaged: repair it, or ask for other channels"
        )
