"""The verb `inspect`: what a store holds, and what may be wrong with it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from biofame.quality import clipped, flat
from biofame.splits import check_leakage, check_overlap, missing_classes
from biofame.store import SPLITS, UNLABELLED, SignalStore, open_store
from biofame.store_plots import plot_store

logger = logging.getLogger(__name__)

WINDOWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class ChannelFigures:
    """What is true of one channel over the windows that have it.

    Attributes:
        windows: How many these are.
        flat: Those where it is constant.
        clipped: Those where it stays at its highest or lowest value.
        mean: Of all its samples.
        deviation: Standard deviation of all its samples.
    """

    windows: int
    flat: int
    clipped: int
    mean: float
    deviation: float


def inspect(path: Path, *, out: Path | None = None, pretraining: Path | None = None) -> None:
    """Print what a store holds, and check its files and its splits.

    Args:
        path: The store.
        out: PNG of a window per channel and a histogram of the classes.
        pretraining: Store that a network was pre-trained on: a warning says which subjects are in
            both.

    Raises:
        FileNotFoundError: There is no finished store.
        ValueError: A file is damaged, or a subject is in two splits.
    """
    store = open_store(path, verify=True)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    length = store.samples.shape[2]
    console.print(
        f"{path}: {len(store):,} windows of {length} samples at {store.info.rate:g} Hz "
        f"({length / store.info.rate:g} s), source {store.info.source or 'unknown'}"
    )
    console.print(channel_table(store), split_table(store))
    for line in _remarks(store):
        console.print(line)
    check_leakage(store)
    missing_classes(store)
    if pretraining is not None:
        check_overlap(open_store(pretraining), store)
    if out is not None:
        plot_store(store, out)
        console.print(f"picture: {out}")


def channel_figures(store: SignalStore) -> list[ChannelFigures]:
    """Return the figures of each channel, from all samples, some windows at a time."""
    count = len(store.info.channels)
    windows, flats, clips = (np.zeros(count, dtype=np.int64) for _ in range(3))
    number, total, squares = (np.zeros(count) for _ in range(3))
    for samples, present in _by_length(store):
        windows += present.sum(axis=0)
        flats += (flat(samples) & present).sum(axis=0)
        clips += (clipped(samples) & present).sum(axis=0)
        doubles = samples.astype(np.float64) * present[..., None]
        number += present.sum(axis=0) * samples.shape[-1]
        total += doubles.sum(axis=(0, 2))
        squares += (doubles**2).sum(axis=(0, 2))
    mean = total / np.maximum(number, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(number, 1) - mean**2, 0))
    return [
        ChannelFigures(
            windows=int(windows[place]),
            flat=int(flats[place]),
            clipped=int(clips[place]),
            mean=float(mean[place]),
            deviation=float(deviation[place]),
        )
        for place in range(count)
    ]


def channel_table(store: SignalStore) -> Table:
    """Return a row per channel: unit, windows without it, flat and clipped ones, amplitude."""
    table = Table("channel", "unit", "missing", "flat", "clipped", "mean", "deviation")
    named = zip(store.info.channels, store.info.units, channel_figures(store), strict=True)
    for name, unit, figures in named:
        counts = (len(store) - figures.windows, figures.flat, figures.clipped)
        amplitude = (figures.mean, figures.deviation)
        table.add_row(
            name, unit, *(f"{count:,}" for count in counts), *(f"{x:.3g}" for x in amplitude)
        )
    return table


def split_table(store: SignalStore) -> Table:
    """Return a row per split: subjects, recordings, windows, and windows of each class."""
    classes = store.info.classes
    table = Table("split", "subjects", "recordings", "windows", *classes, "unlabelled")
    for split in (*SPLITS, ""):
        rows = store.rows(split)
        if not len(rows):
            continue
        labels = store.labels[rows]
        counts = [len(rows), *((labels == label).sum() for label in range(len(classes)))]
        people = len(set(store.subjects[rows].tolist()) - {""})
        table.add_row(
            split or "none",
            f"{people:,}",
            f"{len(set(store.recordings[rows].tolist())):,}",
            *(f"{count:,}" for count in counts),
            f"{(labels == UNLABELLED).sum():,}",
        )
    return table


def _remarks(store: SignalStore) -> Iterator[str]:
    shorter = store.lengths < store.samples.shape[2]
    if shorter.any():
        yield (
            f"shorter windows: {int(shorter.sum()):,}, of {store.lengths.min()} to "
            f"{store.lengths[shorter].max()} samples"
        )
    known = store.subjects[store.subjects != ""]
    if len(known):
        _, counts = np.unique(known, return_counts=True)
        yield (
            f"windows per subject: {counts.min():,} to {counts.max():,}, median "
            f"{np.median(counts):g}, {len(counts):,} subjects"
        )
    for reason, count in store.info.dropped.items():
        yield f"{reason}: {count:,}"


def _by_length(store: SignalStore) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield samples `[m, C, L]` without filling and their `present` `[m, C]`."""
    for first in range(0, len(store), WINDOWS_AT_ONCE):
        rows = np.arange(first, min(first + WINDOWS_AT_ONCE, len(store)))
        lengths = store.lengths[rows]
        for length in np.unique(lengths):
            some = rows[lengths == length]
            yield np.asarray(store.samples[some][..., :length]), store.present[some]
