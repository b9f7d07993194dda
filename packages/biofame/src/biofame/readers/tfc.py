"""The files of TF-C: `train.pt`, `val.pt`, `test.pt`, each a dict of `samples` and `labels`.

They hold neither channel names, units, rate nor subjects (spec 3). Needs torch, which is imported
when a file is read.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from biofame.readers.part import SourcePart, checked_samples, labels_of, split_of_name
from biofame.windows import Windows

WINDOWS_AT_ONCE = 4096


def read_tfc(path: Path, *, name: str | None = None) -> Iterator[SourcePart]:
    """Read the windows of a file; `samples` is `[n, C, T]`, `labels` `[n]`.

    A name beginning with `train`, `val` or `test` is the split. Each window counts as a recording
    of its own, since nothing tells which follow each other.

    Args:
        path: The file.
        name: Of the file in names of recordings; by default its own, without suffix.

    Raises:
        ValueError: The file is no such dict, or its tensors do not fit each other.
    """
    content = _load(path)
    samples = checked_samples(_array(content, "samples", path), where=f"{path}: samples", ndim=3)
    labels, classes = None, ()
    if "labels" in content:
        labels, classes = labels_of(_array(content, "labels", path), where=f"{path}: labels")
        if len(labels) != len(samples):
            raise ValueError(
                f"{path}: {len(labels)} labels for {len(samples)} samples: give each one"
            )
    split = split_of_name(path.stem)
    for first in range(0, len(samples), WINDOWS_AT_ONCE):
        rows = range(first, min(first + WINDOWS_AT_ONCE, len(samples)))
        yield SourcePart(
            where=str(path),
            classes=classes,
            windows=Windows(
                samples=samples[rows.start : rows.stop],
                labels=None if labels is None else labels[rows.start : rows.stop],
                subjects=[""] * len(rows),
                recordings=[f"{name or path.stem}/{row:06d}" for row in rows],
                onsets=np.zeros(len(rows)),
                splits=[split] * len(rows),
            ),
        )


def _load(path: Path) -> dict[str, Any]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} cannot be read as a dict of tensors ({reason}): it is damaged, or holds "
            "objects that are not loaded for safety; save plain tensors"
        ) from error
    if not isinstance(content, dict) or "samples" not in content:
        kind = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds {kind}, expected a dict with `samples` and `labels`")
    return content


def _array(content: dict[str, Any], key: str, path: Path) -> Any:
    import torch

    value = content[key]
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, (list, np.ndarray)):
        return np.asarray(value)
    raise ValueError(f"{path}: {key} is a {type(value).__name__}, expected a tensor")
