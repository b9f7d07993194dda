"""One night of Sleep-EDF: recording and hypnogram to a file of epochs."""

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofame.edf import Recording, channel_names, find_channels, read_recording, start_of
from biofame.edf_annotations import Annotation, read_annotations
from biofame.edf_header import read_header
from biofame.sleepedf_epochs import EPOCH_SECONDS, stage_epochs, trim_wake
from tenfold.atomic import sha256_file

logger = logging.getLogger(__name__)

RATE = 100.0
LENGTH = round(EPOCH_SECONDS * RATE)


@dataclass(frozen=True)
class NightJob:
    """What all nights share.

    Attributes:
        channels: Canonical names.
        trim_minutes: Wake that is kept before and after sleep.
    """

    channels: tuple[str, ...]
    trim_minutes: float


@dataclass(frozen=True)
class NightTask:
    """A night's files.

    Attributes:
        recording: Its name, also that of the file of epochs.
        psg: The recording.
        hypnogram: Its stages.
        sha256: What the two files must have, None where unknown.
        versions: Size and time of change of the two, by which a rerun knows them.
    """

    recording: str
    psg: Path
    hypnogram: Path
    sha256: tuple[str | None, ...]
    versions: tuple[tuple[int, int], ...]


def prepare_night(job: NightJob, task: NightTask, folder: Path) -> dict[str, Any]:
    """Write a night's epochs to `<recording>.npz` below `folder`.

    The file has `samples` float32 `[n, C, 3000]` with zeros where a channel is missing, `labels`,
    `onsets` in seconds, and `present` bool `[C]`.

    Returns:
        `dropped`, reason to number, and `units` of the channels that are there.

    Raises:
        ValueError: The files are damaged or do not belong together, none of the channels is there,
            the rate is not 100 Hz, or nobody sleeps.
    """
    _check_sums(task)
    recording, there = _read_psg(job, task)
    annotations = _read_hypnogram(task, recording)
    scored = stage_epochs(annotations, samples=recording.samples.shape[1], rate=RATE)
    try:
        epochs = trim_wake(scored, minutes=job.trim_minutes)
    except ValueError as error:
        raise ValueError(f"{task.hypnogram}: {error}: leave out this night") from error
    present = np.array([channel in there for channel in job.channels])
    np.savez(
        folder / f"{task.recording}.npz",
        samples=_cut(recording, epochs.starts, present),
        labels=epochs.labels,
        onsets=epochs.starts / RATE,
        present=present,
    )
    return {
        "dropped": dict(epochs.dropped),
        "units": dict(zip(recording.channels, recording.units, strict=True)),
    }


def _read_psg(job: NightJob, task: NightTask) -> tuple[Recording, set[str]]:
    header = read_header(task.psg)
    names = channel_names(header)
    there = [channel for channel in job.channels if channel in names]
    missing = [channel for channel in job.channels if channel not in names]
    if not there:
        find_channels(header, missing)  # raises, naming both
    if missing:
        logger.warning("%s lacks %s: marked as missing", task.psg, ", ".join(missing))
    recording = read_recording(task.psg, channels=there)
    if recording.rate != RATE:
        raise ValueError(
            f"{task.psg} has {recording.rate:g} samples per second, Sleep-EDF has {RATE:g}: is it "
            "the original file?"
        )
    return recording, set(there)


def _read_hypnogram(task: NightTask, recording: Recording) -> tuple[Annotation, ...]:
    header = read_header(task.hypnogram)
    annotations = read_annotations(header)
    _check_starts(task, recording.start, start_of(header, annotations))
    if not annotations.entries:
        raise ValueError(f"{task.hypnogram} has no annotation: is it the original file?")
    return annotations.entries


def _check_starts(task: NightTask, psg: datetime | None, hypnogram: datetime | None) -> None:
    if psg is None or psg != hypnogram:
        raise ValueError(
            f"{task.psg.name} starts at {psg}, {task.hypnogram.name} at {hypnogram}: they must "
            "start together; download both again"
        )


def _check_sums(task: NightTask) -> None:
    for path, wanted in zip((task.psg, task.hypnogram), task.sha256, strict=True):
        if wanted is not None and (found := sha256_file(path)) != wanted:
            raise ValueError(
                f"{path} has SHA-256 {found}, the list of checksums says {wanted}: download it "
                "again"
            )


def _cut(
    recording: Recording, starts: NDArray[np.int64], present: NDArray[np.bool_]
) -> NDArray[np.float32]:
    samples = np.zeros((len(starts), len(present), LENGTH), dtype=np.float32)
    for epoch, start in enumerate(starts.tolist()):
        samples[epoch, present] = recording.samples[:, start : start + LENGTH]
    return samples
