"""The annotations of an EDF+ or BDF+ file, such as the stages of a hypnogram.

Read from the file itself: MNE cuts annotations to the samples that lie beside them, and a file of
annotations alone has no samples.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from biofame.edf_header import EdfHeader

# Onset, duration and texts of a time-stamped annotation list (EDF+ specification, 2.2.2).
STAMPED = re.compile(rb"([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?\x14([^\x00]*?)\x14\x00")


@dataclass(frozen=True)
class Annotation:
    """A stretch of a recording with a text.

    Attributes:
        onset: Seconds since the first sample.
        duration: Seconds, 0 for an event.
        text: As in the file.
    """

    onset: float
    duration: float
    text: str


class Annotations(NamedTuple):
    """All annotations of a file by onset, and the fraction of a second at which samples start."""

    entries: tuple[Annotation, ...]
    offset: float


def read_annotations(header: EdfHeader) -> Annotations:
    """Read the annotations of a file; a plain EDF or BDF file has none."""
    entries: list[Annotation] = []
    offset: float | None = None
    for onset, duration, texts in STAMPED.findall(_lists(header)):
        # The first list of the first record is empty but for its onset: when samples start.
        offset = float(onset) if offset is None else offset
        entries.extend(
            Annotation(float(onset) - offset, float(duration or 0), _decoded(text))
            for text in texts.split(b"\x14")
            if text
        )
    entries.sort(key=lambda one: one.onset)
    return Annotations(tuple(entries), offset or 0.0)


def _lists(header: EdfHeader) -> bytes:
    """Return the bytes of all annotation signals, record after record."""
    if not any(signal.is_annotations for signal in header.signals) or not header.records:
        return b""
    records = np.memmap(
        header.path,
        dtype=np.uint8,
        mode="r",
        offset=header.header_bytes,
        shape=(header.records, header.record_bytes),
    )
    ends = np.cumsum([header.sample_bytes * signal.samples for signal in header.signals])
    pieces = [
        records[:, end - header.sample_bytes * signal.samples : end]
        for signal, end in zip(header.signals, ends.tolist(), strict=True)
        if signal.is_annotations
    ]
    return np.concatenate(pieces, axis=1).tobytes()


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:  # the standard says UTF-8, older recorders write Latin-1
        return text.decode("latin-1")
