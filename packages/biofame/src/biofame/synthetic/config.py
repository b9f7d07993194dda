"""Options of the generator; standard library only."""

import math
from dataclasses import dataclass

STAGES = ("W", "N1", "N2", "N3", "REM")
ADULT_CYCLE = 90.0  # minutes
CYCLES = 2  # of a recording too short for that many of an adult's
SENSORS = {"eeg": "uV", "eog": "uV", "emg": "uV", "resp": "au", "ecg": "mV"}


@dataclass(frozen=True, kw_only=True)
class SleepConfig:
    """What is recorded of whom.

    Args:
        subjects: People, one recording each.
        windows_per_subject: Windows of a recording, one after the other.
        seconds: Length of a window.
        rate: Samples per second.
        channels: Sensors, of `eeg`, `eog`, `emg` (uV), `ecg` (mV) and `resp` (relative to the
            person's usual breath).
        cycle_minutes: Length of a cycle from light to deep to dreaming sleep. Unless given it is
            an adult's 90 or half of a shorter recording, so that that holds all stages, too.
        difficulty: Spread of people and of windows of one stage, 1 as tuned; 0 for none.
        noise: Sensor noise, 1 as tuned; 0 for none.
    """

    subjects: int = 20
    windows_per_subject: int = 120
    seconds: float = 30.0
    rate: float = 100.0
    channels: tuple[str, ...] = ("eeg", "eog", "emg", "resp")
    cycle_minutes: float | None = None
    difficulty: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("subjects", "windows_per_subject"):
            _require(getattr(self, name) >= 1, name, "must be >= 1", getattr(self, name))
        for name in ("seconds", "rate", "cycle_minutes"):
            value = getattr(self, name)
            if value is None:
                continue
            _require(0 < value < math.inf, name, "must be > 0", value)
        for name in ("difficulty", "noise"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, name, "must be >= 0", value)
        _require(self.rate >= 20, "rate", "must be >= 20, enough for alpha waves", self.rate)
        whole = math.isclose(self.samples, self.seconds * self.rate, abs_tol=1e-6)
        expectation = f"x seconds {self.seconds:g} must be a whole number of samples"
        _require(whole, "rate", expectation, self.rate)
        _check_channels(self.channels)

    @property
    def cycle(self) -> float:
        """Minutes of a cycle."""
        if self.cycle_minutes is not None:
            return self.cycle_minutes
        return min(ADULT_CYCLE, self.windows_per_subject * self.seconds / 60.0 / CYCLES)

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.rate)


def _check_channels(channels: tuple[str, ...]) -> None:
    _require(len(channels) >= 1, "channels", "must name at least one sensor", channels)
    unknown = [name for name in channels if name not in SENSORS]
    _require(not unknown, "channels", f"must be of {', '.join(SENSORS)}", ", ".join(unknown))
    twice = sorted({name for name in channels if channels.count(name) > 1})
    _require(not twice, "channels", "must name each sensor once", ", ".join(twice))


def _require(holds: bool, name: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} {expectation}, got {value}")
