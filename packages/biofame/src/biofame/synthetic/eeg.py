"""Electroencephalogram, uV: 1/f background, rhythms that wax and wane, and each stage's events.

Alpha waves in W, theta in N1, spindles and K-complexes in N2, slow waves in N3, theta and sawtooth
waves in REM (Berry et al., The AASM Manual for the Scoring of Sleep).
"""

import numpy as np

from biofame.synthetic.people import Person
from biofame.synthetic.waveforms import (
    Draws,
    Events,
    Floats,
    Grid,
    Ints,
    bump,
    deposit,
    draw_events,
    gauss,
    gaussian_noise,
    slow_noise,
)

BACKGROUND = 4.5  # uV / sqrt(Hz) at 1 Hz; it falls with the person's exponent, mean 0.9
CENTRES = (1.2, 5.5, 10.0, 20.0)  # Hz of delta, theta, alpha, beta; alpha's is the person's
WIDTHS = (0.5, 0.9, 0.6, 4.0)
# Root mean square in uV, by stage.
RHYTHMS = np.array(
    [
        # delta theta alpha beta
        [5.0, 4.5, 13.0, 5.0],  # W
        [7.5, 8.0, 5.5, 3.8],  # N1
        [13.0, 6.5, 4.0, 3.0],  # N2
        [32.0, 6.0, 3.5, 2.2],  # N3
        [7.0, 7.0, 4.5, 3.8],  # REM
    ],
    dtype=np.float32,
)
# Events per minute, by stage.
SPINDLES = np.array([0.0, 0.3, 4.0, 1.5, 0.0], dtype=np.float32)
K_COMPLEXES = np.array([0.0, 0.1, 1.6, 0.8, 0.0], dtype=np.float32)
SAWTEETH = np.array([0.0, 0.1, 0.0, 0.0, 2.0], dtype=np.float32)
MOST = 10.0
WINDOW_SPREAD = 0.45


def brain(draws: Draws, grid: Grid, person: Person, stages: Ints, *, difficulty: float) -> Floats:
    """Draw what the cortex gives, uV `[n, L]`, before gain, leaks and sensor noise."""
    signals = gaussian_noise(draws, grid, background_density(grid, person))
    signals *= draws.spread(0.5 * WINDOW_SPREAD * difficulty)
    signals += _rhythms(draws, grid, person, stages, difficulty=difficulty)
    _add_spindles(signals, draws, grid, person, stages)
    _add_k_complexes(signals, draws, grid, person, stages)
    _add_sawteeth(signals, draws, grid, person, stages)
    return signals


def background_density(grid: Grid, person: Person) -> Floats:
    """Return the background's power density, uV^2/Hz `[F]`; amplifiers stop it below 0.3 Hz."""
    hertz = np.maximum(grid.frequencies, grid.frequencies[1])
    amplitude = BACKGROUND * hertz ** np.float32(-person.exponent)
    return (amplitude**2 * hertz**2 / (hertz**2 + 0.3**2)).astype(np.float32)


def _rhythms(
    draws: Draws, grid: Grid, person: Person, stages: Ints, *, difficulty: float
) -> Floats:
    centres = (*CENTRES[:2], person.alpha_hz, CENTRES[3])
    spread = draws.spread(WINDOW_SPREAD * difficulty, width=len(centres))
    power = (RHYTHMS[stages] * person.bands * spread) ** 2
    density = np.zeros((len(draws), len(grid.frequencies)), dtype=np.float32)
    # A matrix product would round differently with the number of windows.
    for band, (centre, width) in enumerate(zip(centres, WIDTHS, strict=True)):
        density += power[:, band, None] * bump(grid.frequencies, centre=centre, width=width)
    waves = gaussian_noise(draws, grid, density)
    depth = np.float32(0.35)
    waxing = np.exp(depth * slow_noise(draws, grid, period=4.0) - depth**2)
    return waves * waxing


def _add_spindles(signals: Floats, draws: Draws, grid: Grid, person: Person, stages: Ints) -> None:
    rates = person.events * SPINDLES[stages]
    events = draw_events(draws, grid, rates, most=MOST, marks=4, lead=2.0)
    length, height, hertz, phase = events.marks.T[:, :, None]
    length, height = 0.5 + 1.5 * length, 12.0 + 18.0 * height
    hertz = np.clip(person.spindle_hz + hertz - 0.5, 12.0, 15.0)

    def spindle(seconds: Floats) -> Floats:
        envelope = np.sin(np.pi * np.minimum(seconds / length, 1.0)) ** 2
        return height * envelope * np.sin(2.0 * np.pi * (hertz * seconds + phase))

    deposit(signals, grid, events, spindle, 2.0)


def _add_k_complexes(
    signals: Floats, draws: Draws, grid: Grid, person: Person, stages: Ints
) -> None:
    rates = person.events * K_COMPLEXES[stages]
    events = draw_events(draws, grid, rates, most=MOST, marks=1, lead=1.2)
    height = 70.0 + 60.0 * events.marks

    def k_complex(seconds: Floats) -> Floats:
        return height * (0.55 * gauss(seconds, 0.7, 0.15) - gauss(seconds, 0.3, 0.08))

    deposit(signals, grid, events, k_complex, 1.2)


def _add_sawteeth(signals: Floats, draws: Draws, grid: Grid, person: Person, stages: Ints) -> None:
    rates = person.events * SAWTEETH[stages]
    events: Events = draw_events(draws, grid, rates, most=MOST, marks=4, lead=4.0)
    length, height, hertz, phase = events.marks.T[:, :, None]
    length, height, hertz = 2.0 + 2.0 * length, 10.0 + 12.0 * height, 2.0 + 2.0 * hertz

    def sawtooth(seconds: Floats) -> Floats:
        ramp = 2.0 * np.mod(hertz * seconds + phase, 1.0) - 1.0
        return height * ramp * (seconds < length)

    deposit(signals, grid, events, sawtooth, 4.0)
