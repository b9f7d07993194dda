"""Breathing, relative to the person's usual breath: even in N3, uneven in REM."""

from typing import NamedTuple

import numpy as np

from biofame.synthetic.people import Person
from biofame.synthetic.waveforms import Draws, Floats, Grid, Ints, slow_noise

PACE = np.array([1.08, 1.0, 0.97, 0.95, 1.05], dtype=np.float32)  # relative rate, by stage
UNEVEN_PACE = np.array([0.14, 0.09, 0.06, 0.03, 0.18], dtype=np.float32)
UNEVEN_DEPTH = np.array([0.25, 0.18, 0.10, 0.05, 0.30], dtype=np.float32)
WINDOW_SPREAD = 0.06
TURN = np.float32(2.0 * np.pi)


class Breath(NamedTuple):
    """Phase in breaths and relative depth, `[n, L]` each; breathing in is the first half."""

    phase: Floats
    depth: Floats

    @property
    def volume(self) -> Floats:
        """What a belt round the chest shows: a breath with a somewhat longer way out."""
        angle = TURN * self.phase
        return self.depth * (np.sin(angle) + np.float32(0.18) * np.sin(2 * angle))


def breathe(draws: Draws, grid: Grid, person: Person, stages: Ints, *, difficulty: float) -> Breath:
    """Draw the course of breathing."""
    usual = person.breath_hz * PACE[stages, None] * draws.spread(WINDOW_SPREAD * difficulty)
    uneven = UNEVEN_PACE[stages, None] * slow_noise(draws, grid, period=5.0)
    hertz = usual * np.maximum(1.0 + uneven, 0.4)
    phase = draws.uniforms(1) + np.cumsum(hertz, axis=-1, dtype=np.float32) / np.float32(grid.rate)
    depth = np.exp(UNEVEN_DEPTH[stages, None] * slow_noise(draws, grid, period=6.0))
    return Breath(phase, depth)
