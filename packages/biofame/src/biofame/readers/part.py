"""What a reader makes of a file: windows, and as much about them as the file says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofame.signals import canonical_names, canonical_unit
from biofame.windows import SPLITS, UNLABELLED, Windows

MOST_CLASSES = 10_000


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of a recording with a name, in seconds since its start."""

    onset: float
    duration: float
    text: str


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """Some windows of a file, all of one length.

    Attributes:
        windows: As the file has them: rate, units and channels of the source.
        where: The file, for messages.
        channels: Canonical names; None where the file names none.
        units: One for each channel; None where the file has none.
        rate: Samples per second; None where the file does not say.
        classes: Names of the labels of the whole file; empty where it has none.
        targets: Names of the columns of `windows.targets`.
        spans: Annotated stretches of a long recording, of which `windows` is then the only one.
    """

    windows: Windows
    where: str
    channels: tuple[str, ...] | None = None
    units: tuple[str, ...] | None = None
    rate: float | None = None
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    spans: tuple[Span, ...] | None = None

    def __post_init__(self) -> None:
        wide = self.windows.samples.shape[1]
        for name in ("channels", "units"):
            value = getattr(self, name)
            if value is not None and len(value) != wide:
                raise ValueError(
                    f"{self.where}: {len(value)} {name} are named and samples have {wide} channels"
                )


def checked_samples(values: Any, *, where: str, ndim: int) -> NDArray[np.float32]:
    """Return an array of numbers as float32.

    Raises:
        ValueError: It has another number of dimensions, an empty axis, or holds no real numbers.
    """
    array = np.asarray(values)
    shape = {1: "[time]", 2: "[channels, time]", 3: "[windows, channels, time]"}[ndim]
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{where} is of {array.dtype}, expected real numbers {shape}")
    if array.ndim != ndim or 0 in array.shape[-2:]:
        raise ValueError(
            f"{where} has shape {array.shape}, expected {shape}: reshape it, a single channel is "
            "an axis too"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def split_of_name(stem: str) -> str:
    """Return the split that a file's name begins with (`train`, `val-003`), else ""."""
    for split in SPLITS:
        if stem == split or stem.startswith((f"{split}-", f"{split}_", f"{split}.")):
            return split
    return ""


def labels_of(
    values: Sequence[Any] | NDArray[Any], *, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as numbers, and the names of their classes.

    Whole numbers are classes "0", "1", ... up to the greatest; names are numbered in sorted order.
    Missing labels are -1, NaN, None or "". Give all labels of a file at once.

    Raises:
        ValueError: Labels are neither whole numbers nor names, or there are several per window.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{where} has shape {array.shape}, expected one label per window")
    if array.dtype.kind == "O":
        return _labels_of_objects(array.tolist(), where)
    if array.dtype.kind in "iubf":
        return _numbered(_whole(array, where), where)
    if array.dtype.kind != "U":
        raise ValueError(f"{where} is of {array.dtype}, expected whole numbers or names")
    names = tuple(sorted(set(array.tolist()) - {""}))
    number = {name: place for place, name in enumerate(names)} | {"": UNLABELLED}
    return np.asarray([number[name] for name in array.tolist()], dtype=np.int64), names


def targets_of(values: Any, *, where: str) -> NDArray[np.float32]:
    """Return targets `[n]` or `[n, K]` as float32 `[n, K]`."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
        raise ValueError(f"{where} is {array.dtype} {array.shape}, expected numbers [windows, K]")
    return array.astype(np.float32).reshape(len(array), -1)


def names_of_channels(names: Sequence[Any] | None, *, where: str) -> tuple[str, ...] | None:
    """Return canonical names of a file's channels.

    Raises:
        ValueError: Two have the same name; the message names the file.
    """
    if names is None:
        return None
    try:
        return canonical_names([str(name) for name in names])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def units_of_channels(units: Any, *, channels: int) -> tuple[str, ...] | None:
    """Return units of a file's channels from a list, or from one unit of all."""
    if units is None:
        return None
    if isinstance(units, str):
        return (canonical_unit(units),) * channels
    return tuple(canonical_unit(str(unit)) for unit in units)


def rate_of(value: Any, *, where: str) -> float | None:
    """Return a file's sampling rate.

    Raises:
        ValueError: It is no positive number; the message names the file.
    """
    if value is None:
        return None
    try:
        rate = float(value)
    except (TypeError, ValueError):
        rate = float("nan")
    if not 0 < rate < np.inf:
        raise ValueError(f"{where}: rate {value!r} is no number > 0 of samples per second")
    return rate


def _labels_of_objects(values: list[Any], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if any(isinstance(value, str) for value in values):
        filled: list[Any] = ["" if value is None else value for value in values]
    else:
        filled = [UNLABELLED if value is None else value for value in values]
    array = np.asarray(filled)
    mixed = array.dtype.kind == "U" and not all(isinstance(value, str) for value in filled)
    if mixed or array.dtype.kind == "O":
        raise ValueError(f"{where} mixes kinds of values, expected whole numbers or names")
    return labels_of(array, where=where)


def _whole(array: NDArray[Any], where: str) -> NDArray[np.int64]:
    if array.dtype.kind != "f":
        return array.astype(np.int64)
    whole = np.where(np.isnan(array), UNLABELLED, array)
    parted = whole != np.floor(whole)
    if parted.any():
        raise ValueError(
            f"{where} holds {whole[parted][0]}, expected whole numbers or names: numbers to "
            "predict are targets"
        )
    return whole.astype(np.int64)


def _numbered(labels: NDArray[np.int64], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    wrong = (labels < UNLABELLED) | (labels >= MOST_CLASSES)
    if wrong.any():
        raise ValueError(
            f"{where} holds {labels[wrong][0]}, expected classes 0 to {MOST_CLASSES - 1}, or -1 "
            "for none: numbers to predict are targets"
        )
    greatest = int(labels.max()) if len(labels) else UNLABELLED
    return labels, numbered_classes(greatest + 1)


def numbered_classes(number: int) -> tuple[str, ...]:
    """Return the names of classes that have only numbers."""
    return tuple(map(str, range(number)))
