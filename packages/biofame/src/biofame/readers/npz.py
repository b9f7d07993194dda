"""Windows in `.npz` files, one array a column; no pickled objects.

`samples` `[n, C, T]`, and any of `labels` (numbers or names), `targets` `[n, K]`, `subjects`,
`recordings`, `onsets` (seconds), `lengths`, `splits`, each `[n]`; of the whole file `channels`
`[C]`, `units` `[C]` or `unit`, `rate` (or `fs`), `classes`, `target_names`.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from biofame.readers.part import (
    SourcePart,
    checked_samples,
    labels_of,
    names_of_channels,
    numbered_classes,
    rate_of,
    split_of_name,
    targets_of,
    units_of_channels,
)
from biofame.windows import Windows

COLUMNS = ("labels", "targets", "subjects", "recordings", "onsets", "lengths", "splits")
FILE_WIDE = ("channels", "units", "unit", "rate", "fs", "classes", "target_names")


def read_npz(path: Path, *, name: str | None = None) -> Iterator[SourcePart]:
    """Read all windows of a file.

    A name beginning with `train`, `val` or `test` is the split where the file has no `splits`.

    Args:
        path: The file.
        name: Of the file in names of recordings; by default its own, without suffix.

    Raises:
        ValueError: The file is damaged or holds pickled objects, a key is unknown or missing, or
            arrays do not fit each other.
    """
    arrays = _load(path)
    samples = checked_samples(arrays["samples"], where=f"{path}: samples", ndim=3)
    n, channels, _ = samples.shape
    _check_columns(arrays, path, n)
    if "lengths" in arrays:
        # Whatever fills shorter windows up, NaN for one, is not part of them.
        filling = np.arange(samples.shape[2]) >= arrays["lengths"][:, None]
        samples = np.where(filling[:, None], np.float32(0), samples)
    labels, classes = _labels(arrays, path)
    targets, target_names = _targets(arrays, path)
    split = split_of_name(path.stem)
    yield SourcePart(
        where=str(path),
        windows=Windows(
            samples=samples,
            labels=labels,
            targets=targets,
            subjects=_names(arrays, "subjects") or [""] * n,
            recordings=_names(arrays, "recordings")
            or [f"{name or path.stem}/{row:06d}" for row in range(n)],
            onsets=np.asarray(arrays.get("onsets", np.zeros(n)), dtype=np.float64),
            lengths=arrays.get("lengths"),
            splits=_names(arrays, "splits") or [split] * n,
        ),
        channels=names_of_channels(_list(arrays, "channels"), where=str(path)),
        units=units_of_channels(_list(arrays, "units") or _item(arrays, "unit"), channels=channels),
        rate=rate_of(_item(arrays, "rate" if "rate" in arrays else "fs"), where=str(path)),
        classes=classes,
        targets=target_names,
    )


def _check_columns(arrays: dict[str, Any], path: Path, n: int) -> None:
    for column in COLUMNS:
        if column in arrays and (shape := np.shape(arrays[column]))[:1] != (n,):
            raise ValueError(f"{path}: {column} has shape {shape}, expected {n} entries")
    if "recordings" in arrays and "onsets" not in arrays:
        raise ValueError(f"{path} has recordings but no onsets: add the windows' onsets in seconds")


def _load(path: Path) -> dict[str, Any]:
    try:
        # numpy leaves a damaged file open that it has opened itself.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it is damaged, or holds pickled objects; save plain "
            "arrays with numpy.savez"
        ) from error
    unknown = sorted(arrays.keys() - {"samples", *COLUMNS, *FILE_WIDE})
    if unknown or "samples" not in arrays:
        known = ", ".join(("samples", *COLUMNS, *FILE_WIDE))
        what = f"unknown key {', '.join(unknown)}" if unknown else "no key samples"
        raise ValueError(f"{path} has {what}: known are {known}")
    return arrays


def _labels(arrays: dict[str, Any], path: Path) -> tuple[Any, tuple[str, ...]]:
    if "labels" not in arrays:
        return None, ()
    labels, classes = labels_of(arrays["labels"], where=f"{path}: labels")
    stated = tuple(_list(arrays, "classes") or ())
    if not stated or classes != numbered_classes(len(classes)):
        return labels, classes
    if len(classes) > len(stated):
        raise ValueError(
            f"{path}: label {labels.max()} is outside its {len(stated)} classes "
            f"({', '.join(stated)}): name all classes"
        )
    return labels, stated


def _targets(arrays: dict[str, Any], path: Path) -> tuple[Any, tuple[str, ...]]:
    if "targets" not in arrays:
        return None, ()
    targets = targets_of(arrays["targets"], where=f"{path}: targets")
    numbered = [f"target_{column}" for column in range(targets.shape[1])]
    names = tuple(_list(arrays, "target_names") or numbered)
    if len(names) != targets.shape[1]:
        raise ValueError(f"{path}: {len(names)} target_names and {targets.shape[1]} targets")
    return targets, names


def _names(arrays: dict[str, Any], key: str) -> list[str]:
    return [str(name) for name in arrays.get(key, np.empty(0)).tolist()]


def _list(arrays: dict[str, Any], key: str) -> list[str] | None:
    return [str(name) for name in np.atleast_1d(arrays[key]).tolist()] if key in arrays else None


def _item(arrays: dict[str, Any], key: str) -> Any:
    return np.asarray(arrays[key]).reshape(-1)[0].item() if key in arrays else None
