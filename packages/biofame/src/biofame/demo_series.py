"""Small real data sets that come with sktime (extra `demo`): smart watch, vowels and a heart.

None of them names the people whose recordings are in more than one split, or has but one person:
each series counts as a subject of its own, so that a split by subject is one by series.
"""

import importlib
import importlib.resources
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from biofame.store import StoreInfo, Windows
from tenfold.keyed import generator

VALIDATION = 0.2  # of the training series of each class
MOTIONS = ("badminton", "running", "standing", "walking")
MOTION_RATE = 10.0
VOWEL_RATE = 156.25  # frames, one every 6.4 ms
HEART_RATE = 360.0  # samples per second of the MIT-BIH arrhythmia database


@dataclass(frozen=True)
class DemoSet:
    """A whole small data set.

    Attributes:
        info: What is true of it.
        windows: All of it.
    """

    info: StoreInfo
    windows: Windows


class _Split(NamedTuple):
    series: list[NDArray[np.float32]]  # each [C, L]
    labels: NDArray[np.str_]


def basic_motions(*, seed: int) -> DemoSet:
    """Return BasicMotions: 80 windows of 10 s of a watch's accelerometer and gyroscope at 10 Hz.

    Four students walked, ran, stood or played badminton; who is not said. The test split is the
    data set's own, validation is a keyed share of its training split.

    Args:
        seed: Key of that share.

    Raises:
        ValueError: The extra `demo` is not installed.
    """
    load = _sktime("basic_motions").load_basic_motions
    info = StoreInfo(
        channels=tuple(f"{sensor}_{axis}" for sensor in ("acc", "gyr") for axis in "xyz"),
        units=("",) * 6,
        rate=MOTION_RATE,
        classes=MOTIONS,
        source=f"BasicMotions of sktime, validation drawn by seed {seed}",
    )
    return _demo_set(info, "basic_motions", MOTIONS, lambda split: _load(load, split), seed=seed)


def japanese_vowels(*, seed: int) -> DemoSet:
    """Return JapaneseVowels: 640 utterances of 7 to 29 frames of 12 cepstrum coefficients.

    The class is the speaker, one of nine men (Kudo et al. 1999). Shorter utterances are filled
    with zeros; the store's lengths say from where.

    Args:
        seed: Key of the share of the training split that validates.

    Raises:
        ValueError: The extra `demo` is not installed.
    """
    load = _sktime("japanese_vowels").load_japanese_vowels
    speakers = tuple(str(speaker) for speaker in range(1, 10))
    info = StoreInfo(
        channels=tuple(f"lpc_{number}" for number in range(1, 13)),
        units=("",) * 12,
        rate=VOWEL_RATE,
        classes=tuple(f"speaker_{speaker}" for speaker in speakers),
        source=f"JapaneseVowels of sktime, validation drawn by seed {seed}",
    )
    return _demo_set(info, "japanese_vowels", speakers, lambda split: _load(load, split), seed=seed)


def ecg(*, seconds: float) -> DemoSet:
    """Return 21 s of an electrocardiogram of the MIT-BIH arrhythmia database, cut into windows.

    sktime ships the file without a loader or a word on it; the rate is that of the database. It is
    one person's and holds one abnormal beat: a window is `abnormal` where a sample of it is marked.
    All of it is training data, for there is nobody else to test on.

    Args:
        seconds: Length of a window.

    Raises:
        ValueError: The extra `demo` is not installed, or no such window fits.
    """
    table = np.loadtxt(_mitdb(), delimiter=",", skiprows=1, dtype=np.float32)
    length = round(seconds * HEART_RATE)
    count = len(table) // length if length else 0
    if not count:
        longest = len(table) / HEART_RATE
        raise ValueError(f"seconds must lie in (0, {longest:.1f}] for ecg, got {seconds:g}")
    whole = table[: count * length].reshape(count, length, 2)
    info = StoreInfo(
        channels=("ecg",),
        units=("mV",),
        rate=HEART_RATE,
        classes=("normal", "abnormal"),
        source=f"mitdb of sktime, windows of {length} samples",
        dropped={"incomplete last window": int(len(table) > count * length)},
    )
    windows = Windows(
        samples=np.ascontiguousarray(whole[None, :, :, 0].transpose(1, 0, 2)),
        labels=np.asarray(whole[:, :, 1].any(axis=1), dtype=np.int64),
        subjects=["mitdb"] * count,
        recordings=["mitdb"] * count,
        onsets=np.arange(count, dtype=np.float64) * (length / HEART_RATE),
        splits=["train"] * count,
    )
    return DemoSet(info, windows)


def validation_rows(labels: NDArray[np.str_], *, share: float, seed: int) -> NDArray[np.bool_]:
    """Draw the same share of each class, at least one series, bool `[n]`."""
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = generator("demo validation", seed, str(label)).permutation(rows)
        chosen[order[: max(1, round(share * len(rows)))]] = True
    return chosen


def _demo_set(
    info: StoreInfo,
    name: str,
    classes: tuple[str, ...],
    load: Callable[[str], _Split],
    *,
    seed: int,
) -> DemoSet:
    train, test = load("train"), load("test")
    validates = validation_rows(train.labels, share=VALIDATION, seed=seed)
    keys = [f"{name}_train_{row:03d}" for row in range(len(validates))]
    keys += [f"{name}_test_{row:03d}" for row in range(len(test.labels))]
    series = train.series + test.series
    lengths = np.array([one.shape[1] for one in series])
    windows = Windows(
        samples=_padded(series, int(lengths.max())),
        labels=np.array([classes.index(label) for label in (*train.labels, *test.labels)]),
        subjects=keys,
        recordings=keys,
        onsets=np.zeros(len(keys)),
        lengths=lengths,
        splits=["val" if one else "train" for one in validates] + ["test"] * len(test.labels),
    )
    return DemoSet(info, windows)


def _load(load: Callable[..., tuple[Any, Any]], split: str) -> _Split:
    table, labels = load(split=split, return_type="nested_univ")
    rows: Iterable[tuple[Any, ...]] = table.itertuples(index=False, name=None)
    return _Split(
        [np.stack([np.asarray(channel, dtype=np.float32) for channel in row]) for row in rows],
        np.asarray(labels).astype(np.str_),
    )


def _padded(series: list[NDArray[np.float32]], longest: int) -> NDArray[np.float32]:
    padded = np.zeros((len(series), series[0].shape[0], longest), dtype=np.float32)
    for row, one in enumerate(series):
        padded[row, :, : one.shape[1]] = one
    return padded


def _mitdb() -> Path:
    _sktime("ecg")
    path = importlib.resources.files("sktime.datasets") / "data" / "mitdb" / "mitdb.csv"
    if not path.is_file():
        raise ValueError("this sktime does not hold mitdb.csv: install biofame[demo] anew")
    return Path(str(path))


def _sktime(source: str) -> Any:
    try:
        return importlib.import_module("sktime.datasets")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"source {source} needs sktime: install the extra biofame[demo]"
        ) from error
