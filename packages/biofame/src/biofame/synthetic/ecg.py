"""Electrocardiogram, mV: beats of five Gaussian waves whose rate and height follow the breath.

The shape is that of McSharry et al., "A dynamical model for generating synthetic electrocardiogram
signals" (IEEE Trans. Biomed. Eng. 2003), read from a table of the phase instead of integrated. The
heart speeds up while breathing in: respiratory sinus arrhythmia.
"""

from functools import lru_cache

import numpy as np

from biofame.synthetic.people import Person
from biofame.synthetic.respiration import TURN, Breath
from biofame.synthetic.waveforms import Draws, Floats, Grid, Ints, gauss, slow_noise

# Place and width in beats, height in mV, of P, Q, R, S, T.
WAVES = (
    (0.32, 0.025, 0.12),
    (0.47, 0.009, -0.10),
    (0.50, 0.010, 1.00),
    (0.53, 0.010, -0.22),
    (0.78, 0.050, 0.28),
)
TABLE = 4096
PACE = np.array([1.08, 1.0, 0.96, 0.94, 1.04], dtype=np.float32)  # relative rate, by stage
SLOW_VARIABILITY = np.array([0.04, 0.03, 0.02, 0.01, 0.05], dtype=np.float32)
SINUS = np.array([0.7, 0.9, 1.1, 1.3, 0.6], dtype=np.float32)  # of the person's arrhythmia
WINDOW_SPREAD = 0.05


@lru_cache(maxsize=1)
def beat() -> Floats:
    """Return one beat, mV, at `TABLE` phases."""
    phase = np.arange(TABLE, dtype=np.float32) / np.float32(TABLE)
    waves = [height * gauss(phase, place, width) for place, width, height in WAVES]
    shape = np.stack(waves).sum(axis=0)
    shape.setflags(write=False)
    return shape


def heart(
    draws: Draws, grid: Grid, person: Person, stages: Ints, breath: Breath, *, difficulty: float
) -> Floats:
    """Draw heart beats, mV `[n, L]`, before gain and sensor noise."""
    angle = TURN * breath.phase
    sinus = person.rsa * SINUS[stages, None] * breath.depth * np.sin(angle)
    slow = SLOW_VARIABILITY[stages, None] * slow_noise(draws, grid, period=8.0)
    usual = person.heart_hz * PACE[stages, None] * draws.spread(WINDOW_SPREAD * difficulty)
    hertz = usual * np.maximum(1.0 + sinus + slow, 0.4)
    phase = draws.uniforms(1) + np.cumsum(hertz, axis=-1, dtype=np.float32) / np.float32(grid.rate)
    place = (phase * np.float32(TABLE)).astype(np.int32) & (TABLE - 1)
    breathing = breath.volume
    # The chest's movement turns the heart's axis and lifts the electrodes.
    return beat()[place] * (1.0 + np.float32(0.1) * breathing) + np.float32(0.04) * breathing
