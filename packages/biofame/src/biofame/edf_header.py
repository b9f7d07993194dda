"""The header of an EDF, EDF+ or BDF file: what MNE does not tell or does not check.

MNE reads a truncated file up to where it ends, renames channels of the same name, and takes the
records of a discontinuous file for neighbours; here all of that is visible before it reads.
"""

import logging
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

FIXED_BYTES = 256
SIGNAL_BYTES = 256
ANNOTATION_LABELS = ("EDF Annotations", "BDF Annotations")
TRIGGER_LABELS = ("status", "trigger")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# Two-digit years: EDF's own rule.
FIRST_YEAR = 1985


@dataclass(frozen=True)
class EdfSignal:
    """A signal of the header.

    Attributes:
        label: As in the file.
        unit: As in the file, "" where it is not given.
        samples: In a data record.
    """

    label: str
    unit: str
    samples: int

    @property
    def is_annotations(self) -> bool:
        """Whether it holds EDF+ annotations instead of samples."""
        return self.label in ANNOTATION_LABELS

    @property
    def is_trigger(self) -> bool:
        """Whether it holds an amplifier's trigger codes."""
        return self.label.lower() in TRIGGER_LABELS


@dataclass(frozen=True, kw_only=True)
class EdfHeader:
    """What a file says of itself.

    Attributes:
        path: The file.
        start: Of the recording, local time; None where the header does not say.
        discontinuous: Whether it is EDF+D, with gaps between data records.
        header_bytes: Offset of the first data record.
        records: Number of data records.
        record_seconds: Duration of a record; 0 where there are only annotations.
        sample_bytes: 2 in EDF, 3 in BDF.
        signals: In the order of the file.
    """

    path: Path
    start: datetime | None
    discontinuous: bool
    header_bytes: int
    records: int
    record_seconds: float
    sample_bytes: int
    signals: tuple[EdfSignal, ...]

    @property
    def channels(self) -> tuple[EdfSignal, ...]:
        """Signals that are neither annotations nor trigger codes."""
        return tuple(one for one in self.signals if not one.is_annotations and not one.is_trigger)

    @property
    def record_bytes(self) -> int:
        """Bytes of a data record."""
        return self.sample_bytes * sum(signal.samples for signal in self.signals)


def read_header(path: Path) -> EdfHeader:
    """Read the header of an EDF, EDF+ or BDF file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, it was never closed, or it is shorter than its header says.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name an .edf or .bdf file")
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            header = _parse(path, file)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path} is no EDF or BDF file, or its header is damaged") from error
    _check_size(header, size)
    return header


def _parse(path: Path, file: IO[bytes]) -> EdfHeader:
    fixed = file.read(FIXED_BYTES)
    if len(fixed) < FIXED_BYTES or fixed[:8] not in (b"0       ", b"\xffBIOSEMI"):
        raise ValueError("neither EDF's nor BDF's first bytes")
    count = int(fixed[252:256])
    table = file.read(SIGNAL_BYTES * count)
    labels, units = _column(table, count, 0, 16), _column(table, count, 96, 8)
    samples = [int(text) for text in _column(table, count, 216, 8)]
    seconds = float(_text(fixed[244:252]).replace(",", "."))
    if min(samples, default=0) < 1 or seconds < 0:
        raise ValueError("records without samples or of negative duration")
    return EdfHeader(
        path=path,
        start=_start(_text(fixed[88:168]), _text(fixed[168:176]), _text(fixed[176:184])),
        discontinuous=fixed[192:197] in (b"EDF+D", b"BDF+D"),
        header_bytes=int(fixed[184:192]),
        records=int(fixed[236:244]),
        record_seconds=seconds,
        sample_bytes=3 if fixed[0] == 0xFF else 2,
        signals=tuple(map(EdfSignal, labels, units, samples)),
    )


def _check_size(header: EdfHeader, size: int) -> None:
    if header.records < 0:
        raise ValueError(
            f"{header.path} was never closed (its header has no number of data records): "
            "repair it with the recorder's program"
        )
    expected = header.header_bytes + header.records * header.record_bytes
    if size < expected:
        raise ValueError(
            f"{header.path} is truncated: it has {size} bytes, its header says {expected} "
            f"({header.records} data records): copy or download it again"
        )
    if size > expected:
        logger.warning(
            "%s: the last %d bytes are beyond what its header says and are left out",
            header.path,
            size - expected,
        )


def _column(table: bytes, signals: int, offset: int, width: int) -> list[str]:
    """Return one field of all signals; `offset` is that of the field in a signal's 256 bytes."""
    first = offset * signals
    return [_text(table[first + width * n : first + width * (n + 1)]) for n in range(signals)]


def _text(field: bytes) -> str:
    return field.strip().decode("latin-1").split("\x00")[0]


def _start(recording: str, date: str, time: str) -> datetime | None:
    """Return when the recording began; EDF+ gives the whole year with the recording."""
    try:
        hour, minute, second = (int(part) for part in time.split("."))
        found = re.match(r"STARTDATE (\d+)-([A-Z]{3})-(\d{4})(?: |$)", recording.upper())
        if found is not None:
            year, month = int(found[3]), MONTHS.index(found[2]) + 1
            return datetime(year, month, int(found[1]), hour, minute, second)
        day, month, short = (int(part) for part in date.split("."))
        year = short + (1900 if short >= FIRST_YEAR % 100 else 2000)
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
