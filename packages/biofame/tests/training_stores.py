"""Small stores for the tests of training: sines whose frequency tells the class, in noise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store
from tenfold import keyed

CLASSES = ("slow", "middle", "fast")


def make_store(
    folder: Path,
    *,
    channels: Sequence[str] = ("eeg", "emg"),
    splits: Sequence[tuple[str, int]] = (("train", 24), ("val", 7), ("test", 9)),
    length: int = 40,
    lengths: Sequence[int] | None = None,
    rate: float = 100.0,
    targets: int = 0,
    labelled: bool = True,
    absent: Sequence[tuple[int, int]] = (),
    per_recording: int = 6,
    gap_after: Sequence[int] = (),
    classes: Sequence[str] = CLASSES,
) -> SignalStore:
    """Write windows; sample 0 of channel 0 of a window is its row.

    Args:
        folder: Where.
        channels: Their names.
        splits: Names and sizes, one after the other; each recording is in one split.
        length: L.
        lengths: Of the windows, taken in turn; all L by default.
        rate: Samples per second.
        targets: Columns of targets.
        labelled: Whether labels are known.
        absent: Rows and columns of channels that windows lack.
        per_recording: Windows of a recording and subject.
        gap_after: Rows after which a window is missing.
        classes: Their names.
    """
    names = [split for split, size in splits for _ in range(size)]
    places = [place for _, size in splits for place in range(size)]
    n, random = len(names), keyed.generator("store", length, len(channels))
    labels = np.arange(n) % len(classes)
    times = np.arange(length) / length
    waves = np.sin(2 * np.pi * 3 * (1 + labels[:, None]) * times + random.random((n, 1)))
    samples = waves[:, None] + 0.3 * random.normal(size=(n, len(channels), length))
    samples[:, 0, 0] = np.arange(n)
    present = np.ones((n, len(channels)), dtype=bool)
    for row, column in absent:
        present[row, column] = False
        samples[row, column] = 0
    valid = None
    if lengths is not None:
        valid = np.resize(np.array(lengths), n)
        samples[np.arange(length) >= valid[:, None, None].repeat(len(channels), 1)] = 0
    missing = np.cumsum([row - 1 in gap_after for row in range(n)])
    people = [
        f"{split}-{place // per_recording}" for split, place in zip(names, places, strict=True)
    ]
    windows = Windows(
        samples=samples.astype(np.float32),
        labels=labels if labelled else None,
        targets=random.normal(size=(n, targets)).astype(np.float32) if targets else None,
        subjects=people,
        recordings=[f"{person}-night" for person in people],
        onsets=(np.array(places) % per_recording + missing) * (length / rate),
        lengths=valid,
        present=present,
        splits=names,
    )
    info = StoreInfo(
        channels=tuple(channels),
        units=("uV",) * len(channels),
        rate=rate,
        classes=tuple(classes) if labelled else (),
        targets=tuple(f"target_{number}" for number in range(targets)),
    )
    write_store(folder, info, [windows])
    return open_store(folder)
