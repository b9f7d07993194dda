"""The recordings of the scale `gpu`: people drawn by several processes, put into one store.

What was interrupted goes on at the next person. Not here: how a person is drawn (`synthetic`).
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from biofame.splits import split_subjects
from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store
from biofame.store_writing import MANIFEST
from biofame.synthetic import GENERATION, STAGES, SleepConfig, subject_name, units_of
from biofame.synthetic.sleep import recording
from tenfold.jobs import run_jobs

SEED = 1
"""Of all people; the small experiment's settings were chosen on other seeds' people."""


@dataclass(frozen=True, kw_only=True)
class PersonTask:
    """One recording to draw.

    Attributes:
        config: Of all recordings.
        subject: Number of the person.
    """

    config: SleepConfig
    subject: int


def sleep_store(
    folder: Path, config: SleepConfig, *, shares: Sequence[float], workers: int
) -> SignalStore:
    """Write a store split by person, or keep the one that is there.

    It needs twice the room of the samples until it is finished.

    Args:
        folder: Of the store.
        config: Who is recorded how.
        shares: Of people in training, validation and test.
        workers: Processes that draw.

    Raises:
        JobError: A person could not be drawn.
        ValueError: The folder holds another store.
    """
    info = _info(config, shares)
    if not (folder / MANIFEST).exists():
        people = folder / "people"
        tasks = {
            subject_name(number): PersonTask(config=config, subject=number)
            for number in range(config.subjects)
        }
        settings = {"generation": GENERATION, "seed": SEED}
        run_jobs(draw_person, tasks, out=people, settings=settings, workers=workers, title="people")
        write_store(folder, info, _parts(people, tasks, shares))
        shutil.rmtree(people)
    store = open_store(folder)
    if store.info != info:
        raise ValueError(
            f"{folder} holds another store ({store.info.source}), wanted {info.source}: remove it"
        )
    return store


def draw_person(task: PersonTask, folder: Path) -> None:
    """Draw one recording; a job that leaves an `.npz` file of samples and labels."""
    windows = recording(task.config, subject=task.subject, seed=SEED)
    assert windows.labels is not None
    path = folder / f"{subject_name(task.subject)}.npz"
    np.savez(path, allow_pickle=False, samples=windows.samples, labels=windows.labels)


def _parts(
    people: Path, tasks: Mapping[str, PersonTask], shares: Sequence[float]
) -> Iterator[Windows]:
    splits = split_subjects(list(tasks), shares=shares, seed=SEED).tolist()
    for (name, task), split in zip(tasks.items(), splits, strict=True):
        count = task.config.windows_per_subject
        with np.load(people / f"{name}.npz", allow_pickle=False) as drawn:
            yield Windows(
                samples=drawn["samples"],
                labels=drawn["labels"],
                subjects=[name] * count,
                recordings=[name] * count,
                onsets=np.arange(count, dtype=np.float64) * task.config.seconds,
                splits=[split] * count,
            )


def _info(config: SleepConfig, shares: Sequence[float]) -> StoreInfo:
    described = ", ".join(f"{name}={value}" for name, value in asdict(config).items())
    return StoreInfo(
        channels=config.channels,
        units=units_of(config.channels),
        rate=config.rate,
        classes=STAGES,
        source=(
            f"procedural sleep: {described}, shares={tuple(shares)}, seed={SEED}, "
            f"generation={GENERATION}"
        ),
    )
