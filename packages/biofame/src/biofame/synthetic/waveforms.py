"""What signals are made of: keyed draws, Gaussian noise of a given spectrum, and single events.

Shapes: n windows, L samples of a window, F frequencies, E events, T samples of an event.
Each window draws from a generator of its own, so that no window depends on another.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tenfold.keyed import generator

Floats = NDArray[np.floating]  # float32 in fact
Ints = NDArray[np.int64]


class Draws:
    """Generators of some windows for one purpose; rows `[n, width]` of float32 draws."""

    def __init__(self, *key: str | int, windows: range) -> None:
        self._generators = [generator(*key, window) for window in windows]

    def __len__(self) -> int:
        return len(self._generators)

    def normals(self, width: int) -> Floats:
        """Draw from N(0, 1)."""
        drawn = np.empty((len(self), width), dtype=np.float32)
        for random, row in zip(self._generators, drawn, strict=True):
            random.standard_normal(dtype=np.float32, out=row)
        return drawn

    def uniforms(self, width: int) -> Floats:
        """Draw from [0, 1)."""
        drawn = np.empty((len(self), width), dtype=np.float32)
        for random, row in zip(self._generators, drawn, strict=True):
            random.random(dtype=np.float32, out=row)
        return drawn

    def spread(self, deviation: float, *, width: int = 1) -> Floats:
        """Draw log-normal factors, `[n, width]`; none is further than two deviations from 1."""
        return np.exp(np.float32(deviation) * np.clip(self.normals(width), -2.0, 2.0))


@dataclass(frozen=True)
class Grid:
    """The samples of a window; noise is made a little longer, for it is periodic, and cut."""

    rate: float
    samples: int

    @property
    def seconds(self) -> float:
        """Length of a window."""
        return self.samples / self.rate

    @cached_property
    def padded(self) -> int:
        """Samples of noise before it is cut."""
        wanted = self.samples + math.ceil(2 * self.rate)
        return scipy.fft.next_fast_len(wanted, real=True) or wanted

    @cached_property
    def frequencies(self) -> Floats:
        """Frequencies of the padded length's real Fourier transform, Hz `[F]`."""
        return np.fft.rfftfreq(self.padded, 1.0 / self.rate).astype(np.float32)


def gaussian_noise(draws: Draws, grid: Grid, density: Floats) -> Floats:
    """Draw stationary noise of a one-sided power spectral density.

    Args:
        draws: Where from.
        grid: The windows' samples.
        density: Unit^2/Hz, `[F]` or `[n, F]`, or of the first frequencies only.

    Returns:
        Float32 `[n, L]`.
    """
    scale = np.sqrt(density * np.float32(grid.rate * grid.padded / 4.0))
    bins = density.shape[-1]
    spectrum = draws.normals(2 * bins).view(np.complex64) * scale
    spectrum[:, 0] = 0.0
    noise: Floats = np.asarray(scipy.fft.irfft(spectrum, grid.padded, axis=-1))
    return noise[:, : grid.samples]


@lru_cache(maxsize=64)
def _slow_density(grid: Grid, period: float) -> Floats:
    bins = max(2, int(np.searchsorted(grid.frequencies, 1.0 / period, side="right")))
    step = grid.rate / grid.padded
    return np.full(bins, 1.0 / ((bins - 1) * step), dtype=np.float32)


def slow_noise(draws: Draws, grid: Grid, *, period: float) -> Floats:
    """Draw noise of variance 1 that holds nothing quicker than `period` seconds, `[n, L]`."""
    return gaussian_noise(draws, grid, _slow_density(grid, period))


def bump(frequencies: Floats, *, centre: float, width: float) -> Floats:
    """Return a Gaussian density of power 1 round `centre`, `[F]`."""
    z = (frequencies - np.float32(centre)) / np.float32(width)
    return np.exp(-0.5 * z * z) / np.float32(width * math.sqrt(2.0 * math.pi))


class Events(NamedTuple):
    """Windows int64 `[E]`, onsets in seconds `[E]` and free draws in [0, 1) `[E, marks]`."""

    rows: Ints
    onsets: Floats
    marks: Floats


def draw_events(
    draws: Draws, grid: Grid, per_minute: Floats, *, most: float, marks: int, lead: float
) -> Events:
    """Draw events at random times; an event may have begun before the window does.

    Args:
        draws: Where from.
        grid: The windows' samples.
        per_minute: Of each window, `[n]`; never above `most`.
        most: What the number of candidates is set for, the same for all windows.
        marks: Free draws of each event.
        lead: Seconds before the window in which events begin, too.
    """
    span = grid.seconds + lead
    slots = math.ceil(2.0 * most * span / 60.0) + 2
    drawn = draws.uniforms(slots * (2 + marks)).reshape(len(draws), slots, 2 + marks)
    chance = np.minimum(per_minute, most) * np.float32(span / 60.0 / slots)
    rows, which = np.nonzero(drawn[:, :, 0] < chance[:, None])
    chosen = drawn[rows, which]
    return Events(rows, chosen[:, 1] * np.float32(span) - np.float32(lead), chosen[:, 2:])


def deposit(
    signals: Floats, grid: Grid, events: Events, waveform: Callable[[Floats], Floats], length: float
) -> None:
    """Add events to windows `[n, L]` in place; what lies outside of a window is cut.

    Args:
        signals: Windows.
        grid: Their samples.
        events: Which windows and when.
        waveform: Values `[E, T]` at seconds `[E, T]` since the onset.
        length: Seconds of an event.
    """
    if not len(events.rows):
        return
    first = np.ceil(events.onsets * np.float32(grid.rate)).astype(np.int64)
    columns = first[:, None] + np.arange(math.ceil(length * grid.rate))
    seconds = columns.astype(np.float32) / np.float32(grid.rate) - events.onsets[:, None]
    values = waveform(seconds).astype(np.float32)
    inside = (columns >= 0) & (columns < grid.samples)
    rows = np.broadcast_to(events.rows[:, None], columns.shape)
    np.add.at(signals, (rows[inside], columns[inside]), values[inside])


def gauss(seconds: Floats, centre: float, width: float) -> Floats:
    """Return a Gaussian pulse of height 1."""
    z = (seconds - np.float32(centre)) / np.float32(width)
    return np.exp(-0.5 * z * z)
