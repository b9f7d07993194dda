"""Chin electromyogram, uV: broadband, less in deeper sleep, nearly none but twitches in REM."""

import numpy as np

from biofame.synthetic.people import Person
from biofame.synthetic.waveforms import (
    Draws,
    Floats,
    Grid,
    Ints,
    deposit,
    draw_events,
    gauss,
    gaussian_noise,
    slow_noise,
)

TONE = np.array([11.0, 6.5, 5.0, 4.0, 2.2], dtype=np.float32)  # uV rms from 10 to 50 Hz, by stage
TWITCHES = np.array([2.0, 0.5, 0.2, 0.1, 4.0], dtype=np.float32)  # per minute
MOST = 15.0
CORNER = 15.0  # Hz, below which there is little
WINDOW_SPREAD = 0.35


def muscle(draws: Draws, grid: Grid, person: Person, stages: Ints, *, difficulty: float) -> Floats:
    """Draw muscle noise, uV `[n, L]`, before gain and sensor noise."""
    square = grid.frequencies**2
    density = (square / (square + CORNER**2) / 40.0).astype(np.float32)
    tone = TONE[stages, None] * draws.spread(WINDOW_SPREAD * difficulty)
    envelope = tone * np.exp(np.float32(0.25) * slow_noise(draws, grid, period=3.0))
    _add_twitches(envelope, draws, grid, person.events * TWITCHES[stages])
    return envelope * gaussian_noise(draws, grid, density)


def _add_twitches(envelope: Floats, draws: Draws, grid: Grid, rates: Floats) -> None:
    events = draw_events(draws, grid, rates, most=MOST, marks=1, lead=0.6)
    height = 5.0 + 12.0 * events.marks
    deposit(envelope, grid, events, lambda seconds: height * gauss(seconds, 0.3, 0.08), 0.6)
