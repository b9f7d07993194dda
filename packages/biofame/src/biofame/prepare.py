"""The verb `prepare`: a store from files of other formats."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from biofame.fitting import Fit
from biofame.preparation import (
    PARTS,
    FileTask,
    Shaped,
    file_tasks,
    joined_info,
    joined_windows,
    shape_files,
)
from biofame.readers import Format, find_files
from biofame.shaping import ShapeConfig, VoltUnit, unnamed_channels
from biofame.signals import canonical_names
from biofame.splits import missing_classes, people, refuse_leaks, split_subjects
from biofame.store import SPLITS, SignalStore, open_store, write_store
from biofame.store_writing import MANIFEST
from tenfold import atomic
from tenfold.jobs.marks import canonical, differences

logger = logging.getLogger(__name__)

# What the store was made from and how, so that running again is no mistake.
RECORD = "preparation.json"
VERSION = 2
DEFAULT_SHARES = (0.6, 0.2, 0.2)
NAMED_AT_MOST = 5


def prepare(
    source: Path,
    out: Path,
    *,
    format: Format = "auto",
    channels: list[str] | None = None,
    rate: float | None = None,
    resample: float | None = None,
    length: int | None = None,
    fit: Fit = "trim",
    unit: VoltUnit | None = None,
    to_unit: VoltUnit = "uV",
    seconds: float | None = None,
    classes: list[str] | None = None,
    subject_pattern: str | None = None,
    shares: list[float] | None = None,
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Write a store from recordings or windows in other formats.

    Each file is a job with a mark of completion: run the same command again after an interruption,
    and it goes on and ends with the same bytes. Names of files that begin with `train`, `val` or
    `test` are splits.

    Args:
        source: A file, or a folder that is searched with its subfolders.
        out: New folder for the store.
        format: `tfc` (dicts of tensors in .pt files), `npz`, `parquet`, `webdataset` (tars), `edf`
            (EDF and BDF, extra `edf`), or `auto` by the files' suffixes.
        channels: Which to keep, in this order; a file that lacks some gives windows without them.
            Where the source does not name its channels (`tfc`), the names of all.
        rate: Samples per second, where the source does not say.
        resample: New rate, reached through a filter against aliases; the ratio must be one of
            whole numbers.
        length: Samples of a window in the store.
        fit: How windows get that length: `trim` keeps the first samples and drops shorter ones,
            `pad` fills shorter ones with zeros, `interpolate` draws straight lines between samples
            without a filter against aliases, as the released code does.
        unit: Of the source's voltages, whatever it says.
        to_unit: Of voltages in the store.
        seconds: Cut long recordings into windows of this length.
        classes: Names of the labels, in order; of EDF files, the annotations that are labels.
        subject_pattern: Regular expression whose first group, found in a file's path, is the
            subject, where the source does not say: `SC4(..)`.
        shares: Of train, val and test, to split by subject; by default 0.6 0.2 0.2 where the source
            has no splits, and else the source's own.
        seed: Of that split.
        workers: Processes.

    Raises:
        FileNotFoundError: The source does not exist or holds no file of the format.
        ValueError: Options or files do not fit, a subject is in two splits, or `out` holds another
            store.
        JobError: Files are at fault; the message names them.
    """
    config = ShapeConfig(
        channels=None if channels is None else canonical_names(channels),
        rate=rate,
        resample=resample,
        length=length,
        fit=fit,
        unit=unit,
        to_unit=to_unit,
        seconds=seconds,
        classes=None if classes is None else tuple(classes),
        subject_pattern=subject_pattern,
    )
    kind, files = find_files(source, format=format, leave_out=out)
    _check_kind(kind, config)
    tasks = file_tasks(source, files)
    settings = _settings(config, kind, shares, seed)
    # Times too: another source may have files of the same names and sizes.
    files = {task.name: [task.bytes, task.changed] for task in tasks.values()}
    record = {"settings": settings, "files": files}
    if (out / MANIFEST).exists():
        store = _finished(out, record)
    else:
        store = _prepare(tasks, out, kind, config, record, shares, seed, workers, source)
    missing_classes(store)
    _report(store)


def _prepare(
    tasks: Mapping[str, FileTask],
    out: Path,
    kind: str,
    config: ShapeConfig,
    record: Mapping[str, Any],
    shares: Sequence[float] | None,
    seed: int,
    workers: int,
    source: Path,
) -> SignalStore:
    shaped = shape_files(
        tasks, out=out, format=kind, config=config, settings=record["settings"], workers=workers
    )
    _warn(shaped.doubts)
    info = joined_info(
        shaped, channels=config.channels, classes=config.classes, source=f"{kind}: {source.name}"
    )
    if info.channels == unnamed_channels(len(info.channels)):
        logger.warning(
            "%s does not name its channels: they are called %s; name them with channels, since a "
            "network knows a channel by its name",
            source,
            ", ".join(info.channels),
        )
    splits = _splits(shaped, shares, seed, str(source))
    atomic.write_json(out / RECORD, record)
    write_store(out, info, joined_windows(shaped, info, splits))
    shutil.rmtree(out / PARTS)
    return open_store(out)


def _finished(out: Path, record: Mapping[str, Any]) -> SignalStore:
    """Return the store of an earlier run of the same command."""
    path = out / RECORD
    before = _read_record(path) if path.is_file() else None
    if before is None:
        raise ValueError(f"{out} holds a store of another origin: choose another folder")
    if changes := differences(before, record):
        raise ValueError(
            f"{out} holds a store made otherwise ({'; '.join(changes[:NAMED_AT_MOST])}): choose "
            "another folder or remove it"
        )
    shutil.rmtree(out / PARTS, ignore_errors=True)
    logger.info("%s is finished already", out)
    return open_store(out, verify=True)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove the store, prepare again") from error


def _settings(
    config: ShapeConfig, kind: str, shares: Sequence[float] | None, seed: int
) -> dict[str, Any]:
    split = {"shares": shares, "seed": seed}
    return canonical({"version": VERSION, "format": kind, **asdict(config), **split}, "settings")


def _check_kind(kind: str, config: ShapeConfig) -> None:
    if kind == "edf" and config.seconds is None:
        raise ValueError("recordings are long: set seconds, the length of a window")


def _splits(
    shaped: Shaped, shares: Sequence[float] | None, seed: int, source: str
) -> NDArray[np.str_]:
    """Return the split of each window: the source's, or one by subject.

    Raises:
        ValueError: The source has a subject in two splits, or there are too few subjects.
    """
    splits = np.concatenate([part.splits for part in shaped.parts])
    subjects = np.concatenate([part.subjects for part in shaped.parts])
    recordings = np.concatenate([part.recordings for part in shaped.parts])
    who = people(subjects, recordings)
    unknown = int((subjects == "").sum())
    if shares is None and (splits != "").any():
        if unknown:
            logger.warning(
                "%s: %d windows have no subject: the source's splits may share people",
                source,
                unknown,
            )
        refuse_leaks(who, splits, source=source)
        if (splits == "").any():
            logger.warning("%s: %d windows are in no split", source, int((splits == "").sum()))
        return splits
    if unknown:
        logger.warning(
            "%s: %d windows have no subject: they are split by recording, so that people may be "
            "in two splits; set subject_pattern",
            source,
            unknown,
        )
    return split_subjects(who, shares=DEFAULT_SHARES if shares is None else shares, seed=seed)


def _warn(doubts: Sequence[str]) -> None:
    for doubt in doubts[:NAMED_AT_MOST]:
        logger.warning("%s", doubt)
    if len(doubts) > NAMED_AT_MOST:
        logger.warning("and %d more doubts about units", len(doubts) - NAMED_AT_MOST)


def _report(store: SignalStore) -> None:
    """Print what was written, and what was dropped and why."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    info = store.info
    length = store.samples.shape[2]
    console.print(
        f"{store.folder}: {len(store):,} windows of {len(info.channels)} channels x {length} "
        f"samples at {info.rate:g} Hz ({', '.join(info.channels)})"
    )
    sizes = ", ".join(f"{split} {len(store.rows(split)):,}" for split in SPLITS)
    console.print(f"splits: {sizes}")
    for place, channel in enumerate(info.channels):
        lacking = int((~store.present[:, place]).sum())
        if lacking:
            console.print(f"missing: {channel} in {lacking:,} windows")
    for reason, count in info.dropped.items():
        console.print(f"{reason}: {count:,}")
