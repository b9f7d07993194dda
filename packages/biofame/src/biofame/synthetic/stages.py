"""The stages of a recording: a Markov chain whose rates follow the cycles of a night.

Deep sleep prevails in the first cycles and dreaming sleep in the later ones; one falls asleep
through N1, wakes from any stage, and does not enter deep sleep or dreams from waking.
"""

import numpy as np
from numpy.typing import NDArray

from biofame.synthetic.config import ADULT_CYCLE, STAGES, SleepConfig
from tenfold.keyed import generator

# Changes per minute from row to column in a cycle of 90 minutes, before the cycle's preference.
RATES = np.array(
    [
        #  W     N1    N2    N3    REM
        [0.00, 0.30, 0.02, 0.00, 0.00],  # W
        [0.08, 0.00, 0.35, 0.00, 0.05],  # N1
        [0.02, 0.03, 0.00, 0.11, 0.10],  # N2
        [0.01, 0.01, 0.12, 0.00, 0.01],  # N3
        [0.03, 0.05, 0.08, 0.00, 0.00],  # REM
    ]
)


def preferences(minutes: NDArray[np.float64], *, cycle_minutes: float) -> NDArray[np.float64]:
    """Return how much each stage is favoured at a time since lights out, `[n, 5]`."""
    cycle, phase = np.divmod(minutes / cycle_minutes, 1.0)
    favour = np.ones((len(minutes), len(STAGES)))
    favour[:, 0] = np.where((cycle == 0) & (phase < 0.15), 8.0, 1.0)
    favour[:, 1] = np.where(phase < 0.15, 2.5, 1.0)
    favour[:, 3] = np.where((phase > 0.2) & (phase < 0.55), 3.0 * np.exp(-0.3 * cycle), 0.1)
    dreams = phase > np.maximum(0.78 - 0.07 * cycle, 0.6)
    favour[:, 4] = np.where(dreams, np.minimum(2.0 + 1.5 * cycle, 8.0), 0.05)
    return favour


def transitions(config: SleepConfig) -> NDArray[np.float64]:
    """Return each window's probabilities of the next window's stage, `[n, 5, 5]`."""
    minutes = np.arange(config.windows_per_subject, dtype=np.float64) * (config.seconds / 60.0)
    favour = preferences(minutes, cycle_minutes=config.cycle)
    step = config.seconds / 60.0 * ADULT_CYCLE / config.cycle
    # What is out of favour is left sooner.
    changes = step * RATES * favour[:, None, :] / favour[:, :, None]
    # An implicit Euler step stays a distribution however long a window is.
    changes /= 1.0 + changes.sum(axis=-1, keepdims=True)
    diagonal = np.arange(len(STAGES))
    changes[:, diagonal, diagonal] = 1.0 - changes.sum(axis=-1)
    return changes


def night(config: SleepConfig, *, subject: int, seed: int) -> NDArray[np.int64]:
    """Draw the stages of a recording, int64 `[windows]`; with the same cycle all begin alike."""
    draws = generator("sleep stages", seed, subject).random(config.windows_per_subject)
    bounds = transitions(config).cumsum(axis=-1)[:, :, :-1]
    stages = np.zeros(config.windows_per_subject, dtype=np.int64)
    for window in range(1, config.windows_per_subject):
        row = bounds[window - 1, stages[window - 1]]
        stages[window] = np.searchsorted(row, draws[window], side="right")
    return stages
