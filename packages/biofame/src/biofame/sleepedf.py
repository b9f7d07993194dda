"""The verb `prepare-sleepedf`: nights of Sleep-EDF to a store of labelled 30-s epochs (spec 3).

Each night is a job of its own with a mark of completion, so that a killed run goes on where it was;
the store is then written from the nights' parts in the order of their names.
"""

import logging
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from biofame.signals import canonical_names
from biofame.sleepedf_epochs import CLASSES
from biofame.sleepedf_files import (
    DATASET,
    RECORDINGS,
    SPLIT_SUBJECTS,
    SUBJECTS,
    NightFiles,
    find_nights,
    missing_addresses,
    read_checksums,
    unlisted_nights,
)
from biofame.sleepedf_night import RATE, NightJob, NightTask, prepare_night
from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store
from biofame.store_writing import MANIFEST
from tenfold.jobs import run_jobs

logger = logging.getLogger(__name__)

# Of the files, in their order.
CHANNELS = ("eeg_fpz_cz", "eeg_pz_oz", "eog_horizontal", "resp_oro_nasal", "emg_submental")
OTHER_CHANNELS = ("temp_rectal", "event_marker")
PARTS = ".nights"
TITLE = "nights"
# Goes up when the same files and options give other epochs.
VERSION = 1


def prepare_sleepedf(
    root: Path,
    out: Path | None = None,
    *,
    channels: list[str] | None = None,
    trim_wake_minutes: float = 30,
    complete: bool = False,
    workers: int = 1,
    download_list: bool = False,
) -> None:
    """Make a store of Sleep-EDF's 39 nights of 20 people, split 12/4/4 by person.

    Files are not downloaded. A killed run continues when the same command is given again, and the
    store has the same bytes for any number of workers. Fewer nights than 39 are taken with a word
    to that; each person stays in the split of the full list.

    Args:
        root: Folder below which the recordings (`*-PSG.edf`) and hypnograms lie. Where it or the
            folder above it has PhysioNet's `SHA256SUMS.txt`, the files must agree with it.
        out: Folder of the store.
        channels: Channels, in the order of the store; by default the EEG eeg_fpz_cz and eeg_pz_oz,
            eog_horizontal, resp_oro_nasal and emg_submental. Of temp_rectal and event_marker too
            there are recordings. Respiration and EMG are stored at 1 Hz and upsampled.
        trim_wake_minutes: Wake that is kept before the first epoch of sleep and after the last.
        complete: Whether to refuse fewer than the 39 nights.
        workers: Number of processes.
        download_list: Only print the addresses of the files that `root` lacks, one a line.

    Raises:
        FileNotFoundError: Files are missing.
        ValueError: An option is impossible, files do not belong together or differ from their
            checksums, or `out` was made or begun with other options.
    """
    root = Path(root)
    if download_list:
        _print_addresses(root)
        return
    wanted = _checked_channels(channels)
    if out is None:
        raise ValueError("out is missing: name the folder of the store")
    if not 0 <= trim_wake_minutes < math.inf:
        raise ValueError(f"trim_wake_minutes must be >= 0, got {trim_wake_minutes}")
    nights = find_nights(root, complete=complete)
    _say_what_is_there(root, nights)
    out, job = Path(out), NightJob(wanted, float(trim_wake_minutes))
    store = _finished(out, nights, job)
    if store is None:
        store = _prepare(out, nights, job, read_checksums(root), workers)
    _print_summary(store)


def _prepare(
    out: Path,
    nights: Sequence[NightFiles],
    job: NightJob,
    checksums: Mapping[str, str],
    workers: int,
) -> SignalStore:
    parts = out / PARTS
    tasks = {night.recording: _task(night, checksums) for night in nights}
    settings = {"version": VERSION, "channels": job.channels, "trim_wake_minutes": job.trim_minutes}
    results = run_jobs(
        partial(prepare_night, job),
        tasks,
        out=parts,
        settings=settings,
        workers=workers,
        title=TITLE,
    )
    info = StoreInfo(
        channels=job.channels,
        units=_units(results, job.channels),
        rate=RATE,
        classes=CLASSES,
        source=_source(job),
        dropped=dict(sum((Counter(one["dropped"]) for one in results.values()), Counter())),
    )
    write_store(out, info, _windows(parts, nights))
    shutil.rmtree(parts)
    return open_store(out)


def _task(night: NightFiles, checksums: Mapping[str, str]) -> NightTask:
    stats = [path.stat() for path in (night.psg, night.hypnogram)]
    sums = tuple(checksums.get(path.name) for path in (night.psg, night.hypnogram))
    unlisted = [path.name for path in (night.psg, night.hypnogram) if path.name not in checksums]
    if checksums and unlisted:
        logger.warning("the list of checksums has no %s", ", ".join(unlisted))
    versions = tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)
    return NightTask(night.recording, night.psg, night.hypnogram, sums, versions)


def _windows(parts: Path, nights: Sequence[NightFiles]) -> Iterator[Windows]:
    for night in nights:
        with np.load(parts / f"{night.recording}.npz", allow_pickle=False) as part:
            count = len(part["labels"])
            yield Windows(
                samples=part["samples"],
                labels=part["labels"],
                onsets=part["onsets"],
                present=np.tile(part["present"], (count, 1)),
                subjects=[night.subject] * count,
                recordings=[night.recording] * count,
                splits=[night.split] * count,
            )


def _units(results: Mapping[str, Any], channels: Sequence[str]) -> tuple[str, ...]:
    """Return the unit of each channel; a channel that no night has keeps an unknown one."""
    units: dict[str, tuple[str, str]] = {}
    for recording, result in results.items():
        for channel, unit in result["units"].items():
            first, known = units.setdefault(channel, (recording, unit))
            if known != unit:
                raise ValueError(
                    f"channel {channel} is in {known!r} in {first} and in {unit!r} in {recording}: "
                    "leave out the channel or one of the nights"
                )
    return tuple(units.get(channel, ("", ""))[1] for channel in channels)


def _finished(out: Path, nights: Sequence[NightFiles], job: NightJob) -> SignalStore | None:
    """Return the store that the same command made before, if it did.

    Raises:
        ValueError: `out` holds another store.
    """
    if not (out / MANIFEST).exists():
        begun = (out / PARTS).is_dir()
        if out.exists() and not begun and not (out.is_dir() and not any(out.iterdir())):
            raise ValueError(
                f"{out} is not empty and was not begun by this verb: choose another folder"
            )
        return None
    store = open_store(out)
    there = (store.info.channels, store.info.source, sorted(set(store.recordings.tolist())))
    if there != (job.channels, _source(job), [night.recording for night in nights]):
        raise ValueError(
            f"{out} holds a store of other nights or options ({store.info.source}; "
            f"{len(there[2])} nights; {', '.join(there[0])}): remove it or choose another folder"
        )
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return store


def _source(job: NightJob) -> str:
    return f"{DATASET}, version {VERSION}, wake trimmed to {job.trim_minutes:g} minutes"


def _checked_channels(channels: list[str] | None) -> tuple[str, ...]:
    names = CHANNELS if channels is None else canonical_names(channels)
    known = (*CHANNELS, *OTHER_CHANNELS)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"Sleep-EDF has no channel {', '.join(unknown) or '(none was named)'}: it has "
            f"{', '.join(known)}"
        )
    return names


def _say_what_is_there(root: Path, nights: Sequence[NightFiles]) -> None:
    others = unlisted_nights(root)
    if others:
        logger.warning("%s: %d recordings of other people are left out", root, others)
    if len(nights) < len(RECORDINGS):
        logger.warning(
            "%s has %d of %d nights and %d of %d people: figures will not compare with those of "
            "the full set",
            root,
            len(nights),
            len(RECORDINGS),
            len({night.subject for night in nights}),
            SUBJECTS,
        )


def _print_addresses(root: Path) -> None:
    console = Console(markup=False, highlight=False)
    for address in missing_addresses(root):
        console.print(address, soft_wrap=True)


def _print_summary(store: SignalStore) -> None:
    console = Console(markup=False, highlight=False)
    lines = [f"{store.folder}: {len(store):,} epochs of {', '.join(store.info.channels)}"]
    for split in SPLIT_SUBJECTS:
        rows = store.rows(split)
        counts = np.bincount(store.labels[rows], minlength=len(CLASSES))
        stages = ", ".join(f"{name} {n:,}" for name, n in zip(CLASSES, counts, strict=True))
        lines.append(
            f"{split}: {len(set(store.subjects[rows].tolist()))} people, "
            f"{len(set(store.recordings[rows].tolist()))} nights, {len(rows):,} epochs ({stages})"
        )
    dropped = ", ".join(f"{reason} {n:,}" for reason, n in sorted(store.info.dropped.items()))
    lines.append(f"left out: {dropped or 'nothing'}")
    console.print("\n".join(lines), soft_wrap=True)
