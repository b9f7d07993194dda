"""EDF files for tests: real ones, written by edfio, and damaged ones."""

from collections.abc import Sequence
from datetime import date, time
from pathlib import Path

import edfio
import numpy as np
from numpy.typing import NDArray

NIGHT = time(16, 13, 0)
DAY = date(1989, 4, 24)
# Label, unit and stored rate of a Sleep-EDF recording's signals (record of 30 s).
SLEEP_SIGNALS = (
    ("EEG Fpz-Cz", "uV", 100),
    ("EEG Pz-Oz", "uV", 100),
    ("EOG horizontal", "uV", 100),
    ("Resp oro-nasal", "", 1),
    ("EMG submental", "uV", 1),
    ("Temp rectal", "DegC", 1),
    ("Event marker", "", 1),
)
Stage = tuple[float, float, str]


def waves(rate: float, seconds: int, *, seed: int, scale: float = 50.0) -> NDArray[np.float64]:
    """Return noise within `scale`."""
    rng = np.random.default_rng(seed)
    return scale * rng.uniform(-1, 1, int(rate * seconds))


def write_edf(
    path: Path,
    signals: Sequence[edfio.EdfSignal],
    *,
    annotations: Sequence[Stage] | None = None,
    day: date = DAY,
    start: time = NIGHT,
    record_seconds: float | None = None,
) -> Path:
    """Write an EDF or, with annotations, an EDF+C file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = None
    if annotations is not None:
        notes = [edfio.EdfAnnotation(*one) for one in annotations]
    edfio.Edf(
        list(signals),
        annotations=notes,
        recording=edfio.Recording(startdate=day),
        starttime=start,
        data_record_duration=record_seconds,
    ).write(path)
    return path


def patch(path: Path, offset: int, text: str) -> None:
    """Overwrite bytes of a file."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(text)] = text.encode("latin-1")
    path.write_bytes(bytes(data))


def write_night(
    root: Path,
    stem: str,
    stages: Sequence[Stage],
    *,
    epochs: int,
    scorer: str = "C",
    labels: Sequence[str] | None = None,
    hypnogram_start: time = NIGHT,
    rate_factor: int = 1,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write a recording and its hypnogram as Sleep-EDF has them."""
    signals = [
        edfio.EdfSignal(
            waves(rate * rate_factor, 30 * epochs, seed=100 * seed + number),
            rate * rate_factor,
            label=label,
            physical_dimension=unit,
            physical_range=(-60, 60),
        )
        for number, (label, unit, rate) in enumerate(SLEEP_SIGNALS)
        if labels is None or label in labels
    ]
    psg = write_edf(root / f"{stem}0-PSG.edf", signals, record_seconds=30)
    hypnogram = write_edf(
        root / f"{stem}{scorer}-Hypnogram.edf", [], annotations=stages, start=hypnogram_start
    )
    return psg, hypnogram
