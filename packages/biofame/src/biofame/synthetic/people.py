"""What differs between people, so that a split by subject asks more than one by window."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.keyed import generator

BODY_SPREAD = 0.35  # of the logarithm of a sensor's gain: electrodes, skull, muscle, skin
BAND_SPREAD = 0.3  # of the logarithm of a rhythm's amplitude
BANDS = 4


@dataclass(frozen=True, kw_only=True)
class Person:
    """One subject; gains are relative to the average person.

    Args:
        alpha_hz: Peak of the waking rhythm.
        spindle_hz: Mean frequency of spindles.
        exponent: Of the amplitude spectrum of the background, amplitude ~ 1 / f^exponent.
        gains: By sensor.
        bands: Gains of the rhythms delta, theta, alpha, beta, `[4]`.
        events: Relative number of spindles, K-complexes, saccades, blinks and twitches.
        heart_hz: Heart rate at rest.
        rsa: Share by which breathing in speeds up the heart (respiratory sinus arrhythmia).
        breath_hz: Breathing rate at rest.
    """

    alpha_hz: float
    spindle_hz: float
    exponent: float
    gains: dict[str, float]
    bands: NDArray[np.float32]
    events: float
    heart_hz: float
    rsa: float
    breath_hz: float


def draw_person(*, subject: int, seed: int, difficulty: float) -> Person:
    """Draw a person, who depends on nobody else."""
    random = generator("sleep person", seed, subject)

    def around(middle: float, spread: float) -> float:
        z = np.clip(random.standard_normal(), -2.5, 2.5)
        return float(middle + spread * difficulty * z)

    sensors = ("eeg", "eog", "emg", "ecg", "resp")
    return Person(
        alpha_hz=around(10.0, 0.6),
        spindle_hz=around(13.3, 0.3),
        exponent=around(0.9, 0.06),
        gains={name: float(np.exp(around(0.0, BODY_SPREAD))) for name in sensors},
        bands=np.exp([around(0.0, BAND_SPREAD) for _ in range(BANDS)]).astype(np.float32),
        events=float(np.exp(around(0.0, 0.3))),
        heart_hz=1.05 * float(np.exp(around(0.0, 0.12))),
        rsa=0.08 * float(np.exp(around(0.0, 0.25))),
        breath_hz=0.25 * float(np.exp(around(0.0, 0.08))),
    )
