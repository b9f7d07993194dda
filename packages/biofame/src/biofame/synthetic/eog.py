"""Electrooculogram, uV: blinks in W, slow rolling eyes in N1, rapid eye movements in REM."""

import numpy as np

from biofame.synthetic.people import Person
from biofame.synthetic.waveforms import (
    Draws,
    Floats,
    Grid,
    Ints,
    bump,
    deposit,
    draw_events,
    gauss,
    gaussian_noise,
)

BACKGROUND = 4.0  # uV / sqrt(Hz) at 1 Hz, amplitude ~ 1/f
ROLLING_HZ, ROLLING_WIDTH = 0.35, 0.08
ROLLING = np.array([12.0, 35.0, 10.0, 6.0, 10.0], dtype=np.float32)  # uV rms by stage
BLINKS = np.array([12.0, 1.0, 0.0, 0.0, 0.5], dtype=np.float32)  # per minute
SACCADES = np.array([14.0, 2.0, 0.5, 0.3, 16.0], dtype=np.float32)
MOST = 40.0
RECOVERY = 0.5  # seconds in which the amplifier forgets a step
WINDOW_SPREAD = 0.6


def eyes(draws: Draws, grid: Grid, person: Person, stages: Ints, *, difficulty: float) -> Floats:
    """Draw the potential of the moving eyes, uV `[n, L]`, before gain, leaks and sensor noise."""
    rolling = ROLLING[stages, None] * draws.spread(WINDOW_SPREAD * difficulty)
    hertz = np.maximum(grid.frequencies, grid.frequencies[1])
    still = BACKGROUND**2 / (hertz**2 + 0.3**2)
    density = still + rolling**2 * bump(hertz, centre=ROLLING_HZ, width=ROLLING_WIDTH)
    signals = gaussian_noise(draws, grid, density.astype(np.float32))
    liveliness = person.events * draws.spread(WINDOW_SPREAD * difficulty)[:, 0]
    _add_blinks(signals, draws, grid, liveliness * BLINKS[stages])
    _add_saccades(signals, draws, grid, liveliness * SACCADES[stages])
    return signals


def _add_blinks(signals: Floats, draws: Draws, grid: Grid, rates: Floats) -> None:
    events = draw_events(draws, grid, rates, most=MOST, marks=1, lead=0.5)
    height = 80.0 + 120.0 * events.marks
    deposit(signals, grid, events, lambda seconds: height * gauss(seconds, 0.22, 0.07), 0.5)


def _add_saccades(signals: Floats, draws: Draws, grid: Grid, rates: Floats) -> None:
    events = draw_events(draws, grid, rates, most=MOST, marks=1, lead=2.0)
    turn = 2.0 * events.marks - 1.0
    height = np.sign(turn) * (30.0 + 70.0 * np.abs(turn))

    def saccade(seconds: Floats) -> Floats:
        jump = np.minimum(seconds / 0.04, 1.0)
        return height * jump * np.exp(-seconds / np.float32(RECOVERY))

    deposit(signals, grid, events, saccade, 2.0)
