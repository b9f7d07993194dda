"""One job a file, each with a completion mark, and then all their windows in one store.

A job writes small stores below `<out>/.parts`; a rerun after an interruption keeps the finished
ones. What they hold is brought to the same channels and classes when they are joined.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofame.quality import unit_doubts
from biofame.readers import read_parts
from biofame.readers.part import SourcePart, numbered_classes
from biofame.shaping import ShapeConfig, ShapedPart, choose_channels, shape_part, source_unit
from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store
from tenfold.jobs import run_jobs

PARTS = ".parts"
TITLE = "prepare"
WINDOWS_AT_ONCE = 1024
# Windows of a part whose amplitude is looked at.
UNIT_WINDOWS = 64
REMEDIES = {
    "rate": "set resample",
    "length": "set length and fit",
    "targets": "prepare the files one by one",
}


@dataclass(frozen=True, kw_only=True)
class FileTask:
    """One file of a source.

    Attributes:
        path: Where it is.
        name: Its path below the source.
        bytes: Its size.
        changed: When, in nanoseconds: a file that changed is read again.
    """

    path: Path
    name: str
    bytes: int
    changed: int


@dataclass(frozen=True)
class Shaped:
    """What the jobs made: small stores in order, and what was dropped or looks wrong."""

    parts: tuple[SignalStore, ...]
    counts: Mapping[str, int]
    doubts: tuple[str, ...]


def file_tasks(source: Path, files: Sequence[Path]) -> dict[str, FileTask]:
    """Return a task for each file, by a key that does not depend on the other files."""
    root = source if source.is_dir() else source.parent
    tasks: dict[str, FileTask] = {}
    for path in files:
        name = path.relative_to(root).as_posix()
        state = path.stat()
        tasks[_key(name)] = FileTask(
            path=path.resolve(), name=name, bytes=state.st_size, changed=state.st_mtime_ns
        )
    return tasks


def shape_files(
    tasks: Mapping[str, FileTask],
    *,
    out: Path,
    format: str,
    config: ShapeConfig,
    settings: Mapping[str, Any],
    workers: int,
) -> Shaped:
    """Read and shape all files; those of an interrupted run that are finished are kept.

    Raises:
        ValueError: An interrupted run had other settings.
        JobError: Files are at fault; the message names them.
    """
    results = run_jobs(
        partial(shape_file, format=format, config=config),
        tasks,
        out=out / PARTS,
        settings=settings,
        workers=workers,
        title=TITLE,
    )
    counts: Counter[str] = Counter()
    for result in results.values():
        counts.update(result["counts"])
    return Shaped(
        parts=tuple(
            open_store(out / PARTS / name)
            for result in results.values()
            for name in result["parts"]
        ),
        counts={reason: count for reason, count in sorted(counts.items()) if count},
        doubts=tuple(
            f"{tasks[key].name}: {doubt}"
            for key, result in results.items()
            for doubt in result["doubts"]
        ),
    )


def shape_file(task: FileTask, folder: Path, *, format: str, config: ShapeConfig) -> dict[str, Any]:
    """Write the windows of a file as small stores below `folder`; the job of `shape_files`."""
    counts: Counter[str] = Counter()
    doubts: set[str] = set()
    name = str(Path(task.name).with_suffix(""))
    read = read_parts(task.path, format=format, name=name, channels=config.channels)
    shaped = _shaped(read, config, task.name, counts, doubts)
    parts: list[str] = []
    for info, run in groupby(shaped, key=lambda part: part.info):
        parts.append(f"{_key(task.name)}/{len(parts):06d}")
        write_store(folder / parts[-1], info, (part.windows for part in run))
    return {"parts": parts, "counts": dict(sorted(counts.items())), "doubts": sorted(doubts)}


def joined_info(
    shaped: Shaped,
    *,
    channels: tuple[str, ...] | None,
    classes: tuple[str, ...] | None,
    source: str,
) -> StoreInfo:
    """Return what is true of the windows of all parts.

    Raises:
        ValueError: No window is left, no file has a wanted channel, or parts differ in rate,
            length, targets or the unit of a channel.
    """
    parts = [part for part in shaped.parts if len(part)]
    if not parts:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in shaped.counts.items())
        raise ValueError(f"{source}: no window is left: {reasons or 'the files are empty'}")
    infos = [part.info for part in parts]
    for name in ("rate", "targets"):
        _check_same(name, [getattr(info, name) for info in infos], parts)
    _check_same("length", [part.samples.shape[2] for part in parts], parts)
    units = _units(infos)
    missing = [name for name in channels or () if name not in units]
    if missing:
        raise ValueError(
            f"{source}: no file has channel {', '.join(missing)}: there are {', '.join(units)}"
        )
    names = channels or tuple(units)
    return StoreInfo(
        channels=names,
        units=tuple(units[name] for name in names),
        rate=infos[0].rate,
        classes=_classes(infos) if classes is None else classes,
        targets=infos[0].targets,
        source=source,
        dropped=shaped.counts,
    )


def joined_windows(shaped: Shaped, info: StoreInfo, splits: NDArray[np.str_]) -> Iterator[Windows]:
    """Yield the windows of all parts with the channels and classes of `info`, in order.

    Args:
        shaped: The parts.
        info: Of all.
        splits: Of all windows, in order.
    """
    done = 0
    for part in shaped.parts:
        number = {label: info.classes.index(name) for label, name in enumerate(part.info.classes)}
        labels = np.asarray([number.get(int(label), -1) for label in part.labels], dtype=np.int64)
        for first in range(0, len(part), WINDOWS_AT_ONCE):
            rows = slice(first, min(first + WINDOWS_AT_ONCE, len(part)))
            yield _block(part, rows, info, labels, splits[done + rows.start : done + rows.stop])
        done += len(part)


def _block(
    part: SignalStore,
    rows: slice,
    info: StoreInfo,
    labels: NDArray[np.int64],
    splits: NDArray[np.str_],
) -> Windows:
    taken = part.samples[rows]
    samples = np.zeros((len(taken), len(info.channels), taken.shape[2]), dtype=np.float32)
    present = np.zeros(samples.shape[:2], dtype=np.bool_)
    for place, name in enumerate(part.info.channels):
        column = info.channels.index(name)
        samples[:, column] = taken[:, place]
        present[:, column] = part.present[rows, place]
    return Windows(
        samples=samples,
        labels=labels[rows],
        targets=None if part.targets is None else part.targets[rows],
        subjects=part.subjects[rows].tolist(),
        recordings=part.recordings[rows].tolist(),
        onsets=part.onsets[rows],
        lengths=part.lengths[rows],
        present=present,
        splits=splits.tolist(),
    )


def _shaped(
    read: Iterator[SourcePart],
    config: ShapeConfig,
    path: str,
    counts: Counter[str],
    doubts: set[str],
) -> Iterator[ShapedPart]:
    for number, part in enumerate(read):
        shaped = shape_part(part, config, path=path, counts=counts)
        if number == 0:
            doubts.update(_doubts(part, config))
        if len(shaped.windows):
            yield shaped


def _doubts(part: SourcePart, config: ShapeConfig) -> tuple[str, ...]:
    samples = part.windows.samples[:UNIT_WINDOWS]
    finite = samples[np.isfinite(samples).all(axis=(1, 2))]
    width = samples.shape[1]
    names = part.channels
    if names is None:
        names = choose_channels(None, config.channels, count=width, where=part.where)
    units = [source_unit(unit, config.unit) for unit in part.units or ("",) * width]
    return unit_doubts(finite, channels=names, units=units)


def _units(infos: Sequence[StoreInfo]) -> dict[str, str]:
    """Return the channels of all parts, in order of appearance, with their units."""
    units: dict[str, str] = {}
    for info in infos:
        for channel, unit in zip(info.channels, info.units, strict=True):
            if units.setdefault(channel, unit) != unit:
                raise ValueError(
                    f"channel {channel} is in {units[channel] or 'no unit'} in some files and in "
                    f"{unit or 'no unit'} in others: convert them, or set unit"
                )
    return units


def _classes(infos: Sequence[StoreInfo]) -> tuple[str, ...]:
    found = {info.classes for info in infos if info.classes}
    if len(found) <= 1:
        return next(iter(found), ())
    if all(classes == numbered_classes(len(classes)) for classes in found):
        return max(found, key=len)
    return tuple(sorted(set().union(*found)))


def _check_same(name: str, values: Sequence[Any], parts: Sequence[SignalStore]) -> None:
    for value, part in zip(values, parts, strict=True):
        if value != values[0]:
            remedy = REMEDIES[name]
            raise ValueError(
                f"{name} is {values[0]} in {parts[0].recordings[0]} and {value} in "
                f"{part.recordings[0]}: {remedy}"
            )


def _key(name: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name)[-80:].strip("-")
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
