"""A picture of a store: windows of each class, channel by channel, and how many there are."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from biofame.store import SPLITS, SignalStore
from tenfold import atomic

# More columns or rows than this cannot be read.
CLASSES_AT_MOST = 6
CHANNELS_AT_MOST = 16


def plot_store(store: SignalStore, path: Path) -> None:
    """Write the picture as PNG: a column per class, its first labelled window, a row per channel.

    Raises:
        ValueError: The store has no windows.
    """
    from matplotlib.figure import Figure

    if not len(store):
        raise ValueError(f"{store.folder} has no windows: there is nothing to draw")
    examples = example_windows(store)
    channels = store.info.channels[:CHANNELS_AT_MOST]
    figure = Figure(
        figsize=(3.2 * len(examples) + 1, 1.1 * len(channels) + 2.4), layout="constrained"
    )
    grid = figure.add_gridspec(
        len(channels) + 1, len(examples), height_ratios=[*[1] * len(channels), 2]
    )
    for column, (title, row) in enumerate(examples):
        for place in range(len(channels)):
            axes = figure.add_subplot(grid[place, column])
            _draw_window(axes, store, row, place, first=column == 0)
            if place == 0:
                axes.set_title(title, fontsize=8)
            if place < len(channels) - 1:
                axes.tick_params(labelbottom=False)
    _draw_classes(figure.add_subplot(grid[-1, :]), store)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    atomic.write_bytes(path, buffer.getvalue())


def example_windows(store: SignalStore) -> list[tuple[str, int]]:
    """Return a title and a row for the first window of each class; without labels the first."""
    found: list[tuple[str, int]] = []
    for label, name in enumerate(store.info.classes[:CLASSES_AT_MOST]):
        rows = np.flatnonzero(store.labels == label)
        if len(rows):
            found.append((f"{name}: {store.key(int(rows[0]))}", int(rows[0])))
    return found or [(store.key(0), 0)]


def _draw_window(axes: Any, store: SignalStore, row: int, place: int, *, first: bool) -> None:
    length = int(store.lengths[row])
    axes.tick_params(labelsize=6)
    if first:
        unit = store.info.units[place]
        label = store.info.channels[place] + (f"\n{unit}" if unit else "")
        axes.set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    if store.present[row, place]:
        time = np.arange(length) / store.info.rate
        axes.plot(time, store.samples[row, place, :length], linewidth=0.6)
    else:
        axes.text(0.5, 0.5, "missing", transform=axes.transAxes, ha="center", va="center")


def _draw_classes(axes: Any, store: SignalStore) -> None:
    names = [*store.info.classes, "unlabelled"]
    places = np.arange(len(names))
    bottom = np.zeros(len(names))
    for split in (*SPLITS, ""):
        labels = store.labels[store.rows(split)]
        if len(labels):
            # -1 is the last name's place.
            counts = np.bincount(labels % len(names), minlength=len(names))
            axes.bar(places, counts, bottom=bottom, label=split or "no split")
            bottom += counts
    axes.set_xticks(places, names, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.set_ylabel("windows", fontsize=7)
    axes.legend(fontsize=7)
