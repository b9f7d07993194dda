"""Windows in webdataset tars: `x.npy` `[C, T]` with `json` and `cls` beside it.

`json` holds `fs` (or `rate`), `channels`, `unit` (or `units`), `subject`, and may hold `recording`,
`onset` and `split`; `cls` is a label, a number or a name.
"""

import io
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from biofame.readers.part import (
    SourcePart,
    checked_samples,
    labels_of,
    names_of_channels,
    rate_of,
    split_of_name,
    units_of_channels,
)
from biofame.windows import Windows
from tenfold.shards import ShardError, TarMembers

SAMPLES_AT_ONCE = 1024
ARRAY = "x.npy"


class Sample(NamedTuple):
    """A sample of a tar."""

    key: str
    array: NDArray[np.float32]
    facts: dict[str, Any]
    label: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """What all windows of a part share."""
        shared = ("fs", "rate", "channels", "unit", "units")
        return self.array.shape, json.dumps([self.facts.get(name) for name in shared])


def read_webdataset(path: Path, *, name: str | None = None) -> Iterator[SourcePart]:
    """Read the samples of a tar, in runs of one shape, rate and list of channels.

    A name beginning with `train`, `val` or `test` is the split where a sample's JSON has none.

    Args:
        path: The tar.
        name: Of the tar in names of recordings; by default its own, without suffix.

    Raises:
        ValueError: The tar is damaged, or a sample lacks `x.npy` or holds something else.
    """
    try:
        tar = TarMembers(path)
        labels, classes = _labels(tar)
        for first in range(0, len(tar), SAMPLES_AT_ONCE):
            keys = tar.keys[first : first + SAMPLES_AT_ONCE]
            samples = [_sample(tar, key, labels[key]) for key in keys]
            for _, run in groupby(samples, key=lambda sample: sample.kind):
                yield _part(path, name or path.stem, list(run), classes)
    except ShardError as error:
        raise ValueError(f"{error}: write the tar again") from error


def _part(path: Path, name: str, samples: list[Sample], classes: tuple[str, ...]) -> SourcePart:
    split = split_of_name(path.stem)
    facts = samples[0].facts
    where = f"{path}: {samples[0].key}"
    return SourcePart(
        where=str(path),
        windows=Windows(
            samples=np.stack([sample.array for sample in samples]),
            labels=np.asarray([sample.label for sample in samples], dtype=np.int64),
            subjects=[str(sample.facts.get("subject") or "") for sample in samples],
            recordings=[
                str(sample.facts.get("recording") or f"{name}/{sample.key}") for sample in samples
            ],
            onsets=np.asarray([float(sample.facts.get("onset") or 0) for sample in samples]),
            splits=[str(sample.facts.get("split") or split) for sample in samples],
        ),
        channels=names_of_channels(facts.get("channels"), where=where),
        units=units_of_channels(
            facts.get("units", facts.get("unit")), channels=len(samples[0].array)
        ),
        rate=rate_of(facts.get("fs", facts.get("rate")), where=where),
        classes=classes,
    )


def _labels(tar: TarMembers) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the label of each key; names are numbered over the whole tar."""
    texts = [
        tar.read(key, "cls").decode().strip() if "cls" in tar.extensions(key) else ""
        for key in tar.keys
    ]
    where = f"{tar.path}: cls"
    if all(text.lstrip("-").isdigit() for text in texts if text):
        labels, classes = labels_of([int(text or -1) for text in texts], where=where)
    else:
        labels, classes = labels_of(texts, where=where)
    return dict(zip(tar.keys, labels.tolist(), strict=True)), classes


def _sample(tar: TarMembers, key: str, label: int) -> Sample:
    where = f"{tar.path}: {key}"
    try:
        array = np.load(io.BytesIO(tar.read(key, ARRAY)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ShardError(f"{where}.{ARRAY} is no array of numbers ({error})") from error
    array = array[None] if array.ndim == 1 else array
    return Sample(
        key,
        checked_samples(array, where=f"{where}.{ARRAY}", ndim=2),
        _facts(tar, key, where),
        label,
    )


def _facts(tar: TarMembers, key: str, where: str) -> dict[str, Any]:
    if "json" not in tar.extensions(key):
        return {}
    try:
        facts = json.loads(tar.read(key, "json"))
    except ValueError as error:
        raise ShardError(f"{where}.json is no JSON ({error})") from error
    if not isinstance(facts, dict):
        raise ShardError(f"{where}.json is {type(facts).__name__}, expected an object")
    return facts
