"""Writing a store: windows part after part into one file, then the index, and last `store.json`.

The bytes depend on the windows alone, not on how they were cut into parts.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biofame.windows import UNLABELLED, StoreInfo, Windows
from tenfold import atomic

SCHEMA_VERSION = 1
SAMPLES = "samples.npy"
INDEX = "index.parquet"
TARGETS = "targets.npy"
MANIFEST = "store.json"


def window_key(recording: str, onset: float) -> str:
    """Return the name of a window, `recording@onset`."""
    return f"{recording}@{onset:.15g}"


def write_store(folder: Path, info: StoreInfo, parts: Iterable[Windows]) -> None:
    """Write windows to a new store; `store.json`, written last, says that it is whole.

    One part is in memory at a time. The order of windows is that of the parts.

    Raises:
        ValueError: The folder holds a store already, a part does not fit `info` or the parts before
            it, samples are NaN or infinite, or a window (recording and onset) appears twice.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} already holds a store: choose another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    atomic.remove_temporaries(folder)
    columns = _Columns(info)
    with atomic.open_atomic(folder / SAMPLES) as file:
        _write_samples(file, parts, columns)
    _write_index(folder / INDEX, columns)
    _write_targets(folder / TARGETS, columns)
    names = [SAMPLES, INDEX, *([TARGETS] if info.targets else [])]
    atomic.write_json(
        folder / MANIFEST,
        {
            "schema_version": SCHEMA_VERSION,
            **info.to_json(),
            "windows": len(columns.recordings),
            "length": columns.length,
            "files": {name: _record(folder / name) for name in names},
        },
    )


class _Columns:
    """All that is kept of windows besides their samples."""

    def __init__(self, info: StoreInfo) -> None:
        self.info = info
        self.length = 0
        self.subjects: list[str] = []
        self.recordings: list[str] = []
        self.splits: list[str] = []
        self.onsets: list[NDArray[np.float64]] = []
        self.labels: list[NDArray[np.int64]] = []
        self.lengths: list[NDArray[np.int64]] = []
        self.present: list[NDArray[np.bool_]] = []
        self.targets: list[NDArray[np.float32]] = []
        self._keys: set[str] = set()

    def add(self, part: Windows) -> None:
        self._check(part)
        n, channels, length = part.samples.shape
        self.length = length
        self.subjects += part.subjects
        self.recordings += part.recordings
        self.splits += [""] * n if part.splits is None else part.splits
        self.onsets.append(np.asarray(part.onsets, dtype=np.float64))
        self.labels.append(_filled(part.labels, (n,), UNLABELLED, np.int64))
        self.lengths.append(_filled(part.lengths, (n,), length, np.int64))
        self.present.append(_filled(part.present, (n, channels), True, np.bool_))
        if part.targets is not None:
            self.targets.append(part.targets.astype(np.float32))

    def _check(self, part: Windows) -> None:
        channels, length = part.samples.shape[1:]
        wanted = len(self.info.channels)
        if channels != wanted:
            raise ValueError(f"windows have {channels} channels, the store names {wanted}")
        if self.length not in (0, length):
            raise ValueError(
                f"windows of {length} samples follow windows of {self.length}: pad them and give "
                "their lengths, or choose one length"
            )
        columns = 0 if part.targets is None else part.targets.shape[1]
        if columns != len(self.info.targets):
            raise ValueError(
                f"windows have {columns} targets, the store names {len(self.info.targets)}"
            )
        self._check_labels(part)
        self._check_keys(part)
        _check_finite(part)

    def _check_labels(self, part: Windows) -> None:
        if part.labels is None:
            return
        wrong = (part.labels < UNLABELLED) | (part.labels >= len(self.info.classes))
        if wrong.any():
            row = int(np.argmax(wrong))
            known = ", ".join(self.info.classes) or "none"
            raise ValueError(
                f"label {part.labels[row]} of window {_key(part, row)} is outside the "
                f"{len(self.info.classes)} classes ({known}): name all classes, or label it -1"
            )

    def _check_keys(self, part: Windows) -> None:
        for row in range(len(part)):
            key = _key(part, row)
            if key in self._keys:
                raise ValueError(
                    f"window {key} appears twice: give each recording a name of its own, and its "
                    "windows their onsets"
                )
            self._keys.add(key)


def _write_samples(file: IO[bytes], parts: Iterable[Windows], columns: _Columns) -> None:
    channels = len(columns.info.channels)
    # numpy pads the header for growth of the first axis, so that it can be written again at the
    # end, in place, when the number of windows is known.
    _write_header(file, (0, channels, 1))
    start = file.tell()
    for part in parts:
        columns.add(part)
        file.write(np.ascontiguousarray(part.samples, dtype="<f4").data)
    file.seek(0)
    _write_header(file, (len(columns.recordings), channels, max(columns.length, 1)))
    assert file.tell() == start, "the header grew"
    file.seek(0, 2)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_index(path: Path, columns: _Columns) -> None:
    present = _joined(columns.present, (0, len(columns.info.channels)), np.bool_)
    offsets = np.arange(len(present) + 1, dtype=np.int32) * present.shape[1]
    table = pa.table(
        {
            "subject": pa.array(columns.subjects, pa.string()),
            "recording": pa.array(columns.recordings, pa.string()),
            "onset": _joined(columns.onsets, (0,), np.float64),
            "label": _joined(columns.labels, (0,), np.int64),
            "length": _joined(columns.lengths, (0,), np.int64),
            "split": pa.array(columns.splits, pa.string()),
            "present": pa.ListArray.from_arrays(pa.array(offsets), pa.array(present.reshape(-1))),
        }
    )
    with atomic.open_atomic(path) as file:
        pq.write_table(table, file)


def _write_targets(path: Path, columns: _Columns) -> None:
    if not columns.info.targets:
        path.unlink(missing_ok=True)
        return
    targets = _joined(columns.targets, (0, len(columns.info.targets)), np.float32)
    with atomic.open_atomic(path) as file:
        np.save(file, targets, allow_pickle=False)


def _check_finite(part: Windows) -> None:
    for name, values in (("samples", part.samples), ("targets", part.targets)):
        if values is None:
            continue
        # Of what is stored: a double may be too great for single precision.
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32, copy=False))
        if finite.all():
            continue
        row = int(np.argmin(finite.reshape(len(part), -1).all(axis=1)))
        raise ValueError(
            f"{name} of window {_key(part, row)} are NaN or infinite: drop such windows first"
        )


def _key(part: Windows, row: int) -> str:
    return window_key(part.recordings[row], part.onsets[row])


def _record(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": atomic.sha256_file(path)}


def _filled(values: Any, shape: tuple[int, ...], default: Any, dtype: Any) -> NDArray[Any]:
    return np.full(shape, default, dtype) if values is None else np.asarray(values, dtype=dtype)


def _joined(arrays: list[Any], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.empty(shape, dtype)
