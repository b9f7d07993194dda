"""People, nights and sensors put together, one recording at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from biofame.store import Windows
from biofame.synthetic.config import SENSORS, SleepConfig
from biofame.synthetic.ecg import heart
from biofame.synthetic.eeg import brain
from biofame.synthetic.emg import muscle
from biofame.synthetic.eog import eyes
from biofame.synthetic.people import Person, draw_person
from biofame.synthetic.respiration import Breath, breathe
from biofame.synthetic.stages import night
from biofame.synthetic.waveforms import Draws, Floats, Grid, Ints

GENERATION = 1  # to be raised when the same options and seed give other samples
BATCH = 32  # windows at a time, so that what is worked on stays in the processor's cache
EYES_IN_EEG, BRAIN_IN_EOG = 0.12, 0.35
# Sensor noise per square root of Hz, in each sensor's unit.
NOISE = {"eeg": 0.15, "eog": 0.25, "emg": 0.1, "ecg": 0.003, "resp": 0.006}


def generate(config: SleepConfig, *, seed: int) -> Iterator[Windows]:
    """Yield the recording of each subject in turn, labelled by stage.

    A window depends on the seed, its subject and its place in the recording alone, and a sensor's
    samples not on which other sensors are asked for.

    Args:
        config: Who is recorded how.
        seed: Key of all draws.
    """
    for subject in range(config.subjects):
        yield recording(config, subject=subject, seed=seed)


def recording(config: SleepConfig, *, subject: int, seed: int) -> Windows:
    """Return the windows of one subject."""
    person = draw_person(subject=subject, seed=seed, difficulty=config.difficulty)
    stages = night(config, subject=subject, seed=seed)
    count = config.windows_per_subject
    samples = np.empty((count, len(config.channels), config.samples), dtype=np.float32)
    for first in range(0, count, BATCH):
        windows = range(first, min(first + BATCH, count))
        part = slice(windows.start, windows.stop)
        scene = _Scene(config, person, stages[part], (seed, subject), windows)
        for channel, name in enumerate(config.channels):
            samples[part, channel] = scene.sensor(name)
    name = subject_name(subject)
    return Windows(
        samples=samples,
        labels=stages,
        subjects=[name] * count,
        recordings=[name] * count,
        onsets=np.arange(count, dtype=np.float64) * config.seconds,
    )


def subject_name(subject: int) -> str:
    """Return the name of a subject, which its recording has, too."""
    return f"subject_{subject:05d}"


def units_of(channels: Sequence[str]) -> tuple[str, ...]:
    """Return the units of sensors."""
    return tuple(SENSORS[name] for name in channels)


@dataclass(frozen=True)
class _Scene:
    """Some windows of a recording; sources that several sensors see are drawn once."""

    config: SleepConfig
    person: Person
    stages: Ints
    key: tuple[int, int]
    windows: range

    @cached_property
    def grid(self) -> Grid:
        return Grid(self.config.rate, self.config.samples)

    @cached_property
    def brain(self) -> Floats:
        return brain(*self._source("brain"), difficulty=self.config.difficulty)

    @cached_property
    def eyes(self) -> Floats:
        return eyes(*self._source("eyes"), difficulty=self.config.difficulty)

    @cached_property
    def breath(self) -> Breath:
        return breathe(*self._source("breath"), difficulty=self.config.difficulty)

    def sensor(self, name: str) -> Floats:
        """Return what a sensor records, in its unit, `[n, L]`."""
        noise = self._draws(f"noise {name}").normals(self.grid.samples)
        noise *= np.float32(NOISE[name] * self.config.noise * np.sqrt(self.config.rate / 2.0))
        return np.float32(self.person.gains[name]) * self._potential(name) + noise

    def _potential(self, name: str) -> Floats:
        difficulty = self.config.difficulty
        match name:
            case "eeg":
                return self.brain + np.float32(EYES_IN_EEG) * self.eyes
            case "eog":
                return self.eyes + np.float32(BRAIN_IN_EOG) * self.brain
            case "emg":
                return muscle(*self._source("muscle"), difficulty=difficulty)
            case "ecg":
                return heart(*self._source("heart"), self.breath, difficulty=difficulty)
            case _:
                return self.breath.volume

    def _source(self, purpose: str) -> tuple[Draws, Grid, Person, Ints]:
        return self._draws(purpose), self.grid, self.person, self.stages

    def _draws(self, purpose: str) -> Draws:
        return Draws(f"sleep {purpose}", *self.key, windows=self.windows)
