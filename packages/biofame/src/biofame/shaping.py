"""From what a file holds to windows of one kind: channels, unit, rate, length, labels.

The order: channels are chosen, what is not finite is dropped, voltages are brought to one unit, the
rate is changed, long recordings are cut, and the length is fitted.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofame.cutting import cut, fill_gaps
from biofame.fitting import Fit, fit_length
from biofame.quality import count_bad_channels, drop_not_finite
from biofame.readers.part import SourcePart, numbered_classes
from biofame.signals import VOLTS, canonical_unit, resample, resampled_length, unit_factor
from biofame.windows import StoreInfo, Windows

VoltUnit = Literal["V", "mV", "uV", "nV"]


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """What windows shall be like.

    Args:
        channels: Canonical names, in order; of sources that name theirs a choice.
        rate: Of the source, where it does not say.
        resample: New rate.
        length: Samples of a window.
        fit: How that length is reached.
        unit: Of the source's voltages, whatever it says.
        to_unit: Of voltages in the store.
        seconds: Windows that long recordings are cut into.
        classes: Names of the labels; of annotations, those that are labels.
        subject_pattern: Regular expression whose first group in a file's path is the subject.
    """

    channels: tuple[str, ...] | None = None
    rate: float | None = None
    resample: float | None = None
    length: int | None = None
    fit: Fit = "trim"
    unit: VoltUnit | None = None
    to_unit: VoltUnit = "uV"
    seconds: float | None = None
    classes: tuple[str, ...] | None = None
    subject_pattern: str | None = None

    def __post_init__(self) -> None:
        for name in ("rate", "resample", "length", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} must be > 0, got {value}")
        if self.subject_pattern is not None:
            _check_pattern(self.subject_pattern)


@dataclass(frozen=True, kw_only=True)
class ShapedPart:
    """Windows and what is true of all of them."""

    windows: Windows
    info: StoreInfo


def shape_part(
    part: SourcePart, config: ShapeConfig, *, path: str, counts: Counter[str]
) -> ShapedPart:
    """Return the windows of a part as `config` wants them.

    Args:
        part: What a reader gave.
        config: What is wanted.
        path: Of the file in its source, which may tell the subject.
        counts: Gets what is dropped, and flat and clipped channels.

    Raises:
        ValueError: The file lacks all channels or a rate, labels are outside the classes, or a
            unit, rate or length cannot be reached.
    """
    rate = _rate(part, config)
    windows, channels, units = _chosen(part, config)
    windows = _with_subjects(windows, config.subject_pattern, path)
    windows, classes = _labelled(windows, part, config)
    gaps = None
    if config.seconds is None:
        windows = drop_not_finite(windows, counts)
    else:
        windows, gaps = fill_gaps(windows)
    windows, units = _in_one_unit(windows, units, config)
    new_rate = config.resample or rate
    if config.seconds is None:
        count_bad_channels(windows, channels, counts)
    windows = _resampled(windows, rate, new_rate)
    if config.seconds is not None:
        labelling = classes if part.spans is not None else None
        windows = cut(
            windows,
            seconds=config.seconds,
            rate=new_rate,
            gaps=gaps,
            gaps_rate=rate,
            spans=part.spans,
            classes=labelling,
            counts=counts,
        )
        count_bad_channels(windows, channels, counts)
    windows, new_rate = fit_length(
        windows, length=config.length, fit=config.fit, rate=new_rate, counts=counts
    )
    return ShapedPart(
        windows=windows,
        info=StoreInfo(
            channels=channels,
            units=units,
            rate=new_rate,
            classes=classes,
            targets=part.targets,
        ),
    )


def choose_channels(
    channels: tuple[str, ...] | None, wanted: tuple[str, ...] | None, *, count: int, where: str
) -> tuple[str, ...]:
    """Return the names of a file's channels that are read, in order.

    A file that names its channels has some of the wanted; one that does not has them all, in this
    order, or else gets the names `ch1`, `ch2`, ...

    Raises:
        ValueError: A file has none of the channels, or another number of them.
    """
    if channels is not None:
        found = channels if wanted is None else tuple(n for n in wanted if n in channels)
        if not found:
            raise ValueError(
                f"{where} has none of the channels {', '.join(wanted or ())}: it has "
                f"{', '.join(channels)}"
            )
        return found
    if wanted is None:
        return unnamed_channels(count)
    if len(wanted) != count:
        raise ValueError(
            f"{where} does not name its {count} channels and channels gives {len(wanted)} names: "
            "name all of them"
        )
    return wanted


def unnamed_channels(count: int) -> tuple[str, ...]:
    """Return the names of channels that have none."""
    return tuple(f"ch{number}" for number in range(1, count + 1))


def _rate(part: SourcePart, config: ShapeConfig) -> float:
    if part.rate is None and config.rate is None:
        raise ValueError(f"{part.where} does not say its sampling rate: set rate")
    if None not in (part.rate, config.rate) and part.rate != config.rate:
        raise ValueError(
            f"{part.where} has {part.rate:g} samples per second and rate is {config.rate:g}: leave "
            "rate away, or use resample for another one"
        )
    rate = part.rate or config.rate
    assert rate is not None
    return rate


def _chosen(
    part: SourcePart, config: ShapeConfig
) -> tuple[Windows, tuple[str, ...], tuple[str, ...]]:
    windows = part.windows
    count = windows.samples.shape[1]
    names = choose_channels(part.channels, config.channels, count=count, where=part.where)
    places = [(part.channels or names).index(name) for name in names]
    units = part.units or ("",) * count
    if places != list(range(count)):
        present = None if windows.present is None else windows.present[:, places]
        windows = replace(windows, samples=windows.samples[:, places], present=present)
    return windows, names, tuple(units[place] for place in places)


def _with_subjects(windows: Windows, pattern: str | None, path: str) -> Windows:
    if pattern is None or all(windows.subjects):
        return windows
    match = re.search(pattern, path)
    if match is None or not match[1]:
        raise ValueError(f"subject_pattern {pattern!r} finds no subject in {path!r}: mend it")
    return replace(windows, subjects=[subject or match[1] for subject in windows.subjects])


def _labelled(
    windows: Windows, part: SourcePart, config: ShapeConfig
) -> tuple[Windows, tuple[str, ...]]:
    """Return the windows with labels in terms of the wanted classes, else of the file's."""
    wanted = config.classes
    if wanted is None or windows.labels is None:
        return windows, part.classes if wanted is None else wanted
    numbers = part.classes == numbered_classes(len(part.classes))
    names = wanted if numbers else part.classes
    used = np.unique(windows.labels[windows.labels >= 0]).tolist()
    outside = [
        str(label) if label >= len(names) else names[label]
        for label in used
        if label >= len(names) or names[label] not in wanted
    ]
    if outside:
        raise ValueError(
            f"{part.where}: label {', '.join(outside)} is outside the classes "
            f"{', '.join(wanted)}: add it to classes"
        )
    if numbers:
        return windows, wanted
    number = np.asarray([wanted.index(n) if n in wanted else -1 for n in names] + [-1])
    return replace(windows, labels=number[windows.labels]), wanted


def _in_one_unit(
    windows: Windows, units: Sequence[str], config: ShapeConfig
) -> tuple[Windows, tuple[str, ...]]:
    known = [source_unit(unit, config.unit) for unit in units]
    voltages = [unit.lower() in VOLTS for unit in known]
    factors = np.asarray(
        [
            unit_factor(unit, config.to_unit) if voltage else 1.0
            for unit, voltage in zip(known, voltages, strict=True)
        ],
        dtype=np.float32,
    )
    if (factors != 1).any():
        windows = replace(windows, samples=windows.samples * factors[:, None])
    named = zip(known, voltages, strict=True)
    return windows, tuple(config.to_unit if voltage else unit for unit, voltage in named)


def source_unit(unit: str, stated: str | None) -> str:
    """Return a channel's unit: the `stated` one for voltages and where the file has none."""
    unit = canonical_unit(unit)
    return stated if stated is not None and (not unit or unit.lower() in VOLTS) else unit


def _resampled(windows: Windows, rate: float, wanted: float) -> Windows:
    if rate == wanted:
        return windows
    if windows.lengths is None:
        return replace(windows, samples=resample(windows.samples, rate=rate, wanted=wanted))
    n, channels, length = windows.samples.shape
    longest = resampled_length(length, rate=rate, wanted=wanted)
    samples = np.zeros((n, channels, longest), dtype=np.float32)
    lengths: NDArray[np.int64] = np.zeros(n, dtype=np.int64)
    for valid in np.unique(windows.lengths):
        rows = windows.lengths == valid
        done = resample(windows.samples[rows][..., :valid], rate=rate, wanted=wanted)
        samples[rows, :, : done.shape[-1]] = done
        lengths[rows] = done.shape[-1]
    return replace(windows, samples=samples, lengths=lengths)


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"subject_pattern {pattern!r} is no regular expression: {error}") from None
    if groups < 1:
        raise ValueError(f"subject_pattern {pattern!r} has no group: put the subject in (...)")
