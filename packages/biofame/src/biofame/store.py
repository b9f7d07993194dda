"""The store: windows of biosignals on disk, mapped and not loaded.

A folder of `samples.npy` float32 `[n, C, L]`, `index.parquet` with a row per window (subject,
recording, onset, label, length, split, present), `targets.npy` where there are targets, and
`store.json` with channels, units, rate, classes, what was dropped, and size and SHA-256 of each
file. Torch-free.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biofame.store_writing import (
    INDEX,
    MANIFEST,
    SAMPLES,
    SCHEMA_VERSION,
    TARGETS,
    window_key,
    write_store,
)
from biofame.windows import SPLITS, UNLABELLED, StoreInfo, Windows
from tenfold import atomic

__all__ = [
    "SPLITS",
    "UNLABELLED",
    "SignalStore",
    "StoreInfo",
    "Windows",
    "open_store",
    "window_key",
    "write_store",
]


class SignalStore:
    """An open store; a pickled copy opens the folder again.

    Attributes:
        folder: Its folder.
        info: What is true of all windows.
        samples: float32 `[n, C, L]`, mapped read-only.
        labels: int64 `[n]`, -1 where unknown.
        targets: float32 `[n, K]` or None.
        subjects: str `[n]`, "" where unknown.
        recordings: str `[n]`.
        onsets: float64 `[n]`, seconds since the recording's start.
        lengths: int64 `[n]`, valid samples; the rest are zeros.
        present: bool `[n, C]`, channels that a window has.
        splits: str `[n]`, "train", "val", "test" or "".
    """

    def __init__(self, folder: Path, info: StoreInfo) -> None:
        self.folder = folder
        self.info = info
        self.samples: NDArray[np.float32] = _mapped(folder / SAMPLES)
        self.targets: NDArray[np.float32] | None = None
        if info.targets:
            self.targets = np.load(folder / TARGETS, allow_pickle=False)
        table = pq.read_table(folder / INDEX)
        self.subjects: NDArray[np.str_] = _strings(table, "subject")
        self.recordings: NDArray[np.str_] = _strings(table, "recording")
        self.splits: NDArray[np.str_] = _strings(table, "split")
        self.onsets: NDArray[np.float64] = table["onset"].to_numpy()
        self.labels: NDArray[np.int64] = table["label"].to_numpy()
        self.lengths: NDArray[np.int64] = table["length"].to_numpy()
        flat = table["present"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self.present: NDArray[np.bool_] = flat.astype(np.bool_).reshape(-1, len(info.channels))

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[object, ...]:
        return open_store, (self.folder,)

    def key(self, row: int) -> str:
        """Return the name of a window, `recording@onset`."""
        return window_key(str(self.recordings[row]), float(self.onsets[row]))

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the windows of a split in order; those of no split for "".

        Raises:
            ValueError: There is no such split.
        """
        if split not in (*SPLITS, ""):
            raise ValueError(f"split {split!r} is unknown: use {', '.join(SPLITS)} or ''")
        return np.flatnonzero(self.splits == split)


def open_store(folder: Path, *, verify: bool = False) -> SignalStore:
    """Open a store; sizes of its files are always checked, their content with `verify`.

    Raises:
        FileNotFoundError: The folder holds no finished store, or a file of it is gone.
        ValueError: A file is truncated or damaged, or of another schema version.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for name, record in manifest["files"].items():
        _check_file(folder / name, record, verify=verify)
    try:
        store = SignalStore(folder, StoreInfo.from_json(manifest))
    except (KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{folder} is damaged ({error!r}): prepare it again") from error
    expected = (manifest["windows"], len(store.info.channels))
    if store.samples.shape[:2] != expected or len(store) != expected[0]:
        raise ValueError(
            f"{folder / SAMPLES} has shape {store.samples.shape} and {INDEX} {len(store)} rows, "
            f"{MANIFEST} says {expected}: prepare the store again"
        )
    return store


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {folder} is no finished store; make one with `biofame prepare`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, _, _ = manifest["schema_version"], manifest["files"], manifest["windows"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): prepare the store again") from error
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}: "
            "prepare the store again"
        )
    return manifest


def _check_file(path: Path, record: dict[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is gone: prepare the store again")
    size = path.stat().st_size
    if size != record["bytes"]:
        raise ValueError(
            f"{path} has {size} bytes, {MANIFEST} says {record['bytes']}: it is cut short or was "
            "changed; prepare the store again"
        )
    if verify and atomic.sha256_file(path) != record["sha256"]:
        raise ValueError(f"{path} is damaged: its SHA-256 differs; prepare the store again")


def _mapped(path: Path) -> NDArray[np.float32]:
    # An empty file cannot be mapped.
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return np.load(path, allow_pickle=False)


def _strings(table: pa.Table, name: str) -> NDArray[np.str_]:
    return np.asarray(table[name].to_pylist(), dtype=np.str_)
