"""What `embed` reads: stores, arrays and recordings, as batches of windows.

Shapes: n windows, B windows of a batch, C channels, L samples, T samples of a recording.
"""

import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from biofame.config import ModelConfig
from biofame.data import WindowBatch
from biofame.edf import MICROVOLT, read_recording
from biofame.passes import open_source
from biofame.quality import unit_doubts
from biofame.readers.part import units_of_channels
from biofame.sequences import groups_of
from biofame.signals import VOLTS, canonical_names, resample, unit_factor
from biofame.store import window_key

log = logging.getLogger(__name__)

ARRAYS = (".npz", ".npy")
RECORDINGS = (".edf", ".bdf")
UNIT_WINDOWS = 64


@dataclass(frozen=True)
class Windowed:
    """Windows in batches.

    Attributes:
        keys: A name for each window, in the order of the input.
        batches: Gives the places `[B]` of windows in that order, and the windows.
    """

    keys: list[str]
    batches: Callable[[int], Iterator[tuple[NDArray[np.int64], WindowBatch]]]


class _Array(NamedTuple):
    """What a file of arrays holds; all but the samples may be empty or None."""

    samples: NDArray[Any]
    keys: list[str]
    channels: tuple[str, ...]
    rate: float | None
    units: tuple[str, ...]


def open_input(
    path: Path, model: ModelConfig, *, channels: list[str] | None, rate: float | None
) -> Windowed:
    """Open windows of any kind of input.

    Args:
        path: A store, `.npz`, `.npy`, `.edf` or `.bdf`.
        model: Says how long the windows of a recording are, and the names of an array's channels.
        channels: See `embed`.
        rate: See `embed`.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is of another kind, damaged, or options do not fit it.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _of_store(path, channels, rate)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a store, an array or a recording")
    if suffix in ARRAYS:
        return _of_array(path, model, channels, rate)
    if suffix in RECORDINGS:
        return _of_recording(path, model, channels, rate)
    raise ValueError(f"{path} must be a store's folder, .npz, .npy, .edf or .bdf")


def _of_store(path: Path, channels: list[str] | None, rate: float | None) -> Windowed:
    source = open_source(path, channels)
    store = source.store
    if rate is not None and rate != store.info.rate:
        raise ValueError(f"rate is {rate:g}, {path} has {store.info.rate:g}: leave it out")
    there = store.present[:, source.columns].any(axis=1)
    rows = np.flatnonzero(there)
    if not len(rows):
        raise ValueError(f"{path} has no windows with the channels to use")
    if len(rows) < len(store):
        log.warning("%d windows have none of the channels: left out", len(store) - len(rows))

    def batches(size: int) -> Iterator[tuple[NDArray[np.int64], WindowBatch]]:
        for group in groups_of(store, rows):
            for first in range(0, len(group), size):
                items = group[first : first + size]
                yield np.searchsorted(rows, items[:, 0]), source.read(items)

    return Windowed([store.key(row) for row in rows.tolist()], batches)


def _of_array(
    path: Path, model: ModelConfig, channels: list[str] | None, rate: float | None
) -> Windowed:
    stored = _read_array(path)
    samples, names = stored.samples, tuple(channels or stored.channels or model.channels)
    if len(names) != samples.shape[1]:
        raise ValueError(
            f"{path} has {samples.shape[1]} channels, named are {', '.join(names)}: name them with "
            "channels"
        )
    used = rate or stored.rate
    if used is None:
        raise ValueError(f"{path} does not say its rate: give rate, in samples per second")
    keys = stored.keys or [f"{path.stem}@{number}" for number in range(len(samples))]
    names = canonical_names(names)
    return _in_memory(_in_microvolt(stored, names, path), keys, names, used, source=path)


def _in_microvolt(stored: _Array, channels: Sequence[str], path: Path) -> NDArray[np.float32]:
    """Return samples with voltages in uV, as stores and recordings have them."""
    units = stored.units or (MICROVOLT,) * len(channels)
    if len(units) != len(channels):
        raise ValueError(
            f"{path} has {len(channels)} channels and {len(units)} units: give each one"
        )
    factors = np.array([_factor(unit) for unit in units], dtype=np.float32)
    samples = stored.samples.astype(np.float32) * factors[:, None]
    for doubt in unit_doubts(
        samples[:UNIT_WINDOWS], channels=channels, units=(MICROVOLT,) * len(channels)
    ):
        log.warning("%s: %s", path, doubt)
    return samples


def _factor(unit: str) -> float:
    return unit_factor(unit, MICROVOLT) if unit.lower() in VOLTS else 1.0


def _of_recording(
    path: Path, model: ModelConfig, channels: list[str] | None, rate: float | None
) -> Windowed:
    recording = read_recording(path, channels=channels)
    samples, used = recording.samples, recording.rate
    if rate is not None:
        samples, used = resample(samples, rate=used, wanted=rate), rate
    length = round(model.tokens * model.patch / model.rate * used)
    windows = samples.shape[1] // length
    if windows == 0:
        raise ValueError(
            f"{path} has {samples.shape[1] / used:g} s, less than a window of {length / used:g} s"
        )
    if rest := samples.shape[1] - windows * length:
        log.warning("%s: the last %g s fill no window and are left out", path, rest / used)
    cut = samples[:, : windows * length].reshape(len(samples), windows, length).swapaxes(0, 1)
    keys = [window_key(path.stem, number * length / used) for number in range(windows)]
    return _in_memory(cut, keys, recording.channels, used, source=path)


def _in_memory(
    samples: NDArray[np.float32],
    keys: list[str],
    channels: Sequence[str],
    rate: float,
    *,
    source: Path,
) -> Windowed:
    bad = ~np.isfinite(samples).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f"{source}: {int(bad.sum())} windows have samples that are NaN or infinite, the first "
            f"is {keys[int(np.argmax(bad))]}: mend or leave them out"
        )

    def batches(size: int) -> Iterator[tuple[NDArray[np.int64], WindowBatch]]:
        for first in range(0, len(samples), size):
            places = np.arange(first, min(first + size, len(samples)))
            part = np.ascontiguousarray(samples[places], dtype=np.float32)
            batch: WindowBatch = {
                "samples": torch.from_numpy(part),
                "label": torch.full((len(places),), -1),
                "channels": tuple(channels),
                "rate": rate,
                "keys": [keys[place] for place in places],
            }
            yield places, batch

    return Windowed(keys, batches)


def _read_array(path: Path) -> _Array:
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {"samples": content} if path.suffix.lower() == ".npy" else dict(content)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as arrays: {error}") from error
    if "samples" not in arrays:
        raise ValueError(f"{path} has no array samples, it has {', '.join(arrays) or 'none'}")
    samples = arrays["samples"]
    if samples.ndim != 3 or 0 in samples.shape or samples.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: samples must be numbers [windows, channels, time], got shape "
            f"{samples.shape} of {samples.dtype}"
        )
    keys = [str(key) for key in arrays.get("keys", ())]
    if keys and len(keys) != len(samples):
        raise ValueError(f"{path} has {len(samples)} windows and {len(keys)} keys")
    names = tuple(str(name) for name in arrays.get("channels", ()))
    rate = float(arrays["rate"]) if "rate" in arrays else None
    return _Array(samples, keys, names, rate, _units(arrays, samples.shape[1]))


def _units(arrays: Mapping[str, NDArray[Any]], channels: int) -> tuple[str, ...]:
    if "units" in arrays:
        return units_of_channels(arrays["units"].tolist(), channels=channels) or ()
    return (
        units_of_channels(str(arrays["unit"]), channels=channels) or () if "unit" in arrays else ()
    )
