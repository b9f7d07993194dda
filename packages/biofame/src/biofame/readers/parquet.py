"""Windows in parquet files, one a row.

Column `samples` is a list of numbers for one channel, or a list of such lists, one for each
channel; further columns may be `label`, `subject`, `recording`, `onset`, `split`. What holds for
the whole file stands in the schema's metadata as JSON: `channels`, `units` or `unit`, `rate`.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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

ROWS_AT_ONCE = 1024
COLUMNS = ("samples", "label", "subject", "recording", "onset", "split")


def read_parquet(path: Path, *, name: str | None = None) -> Iterator[SourcePart]:
    """Read the rows of a file, in runs of one length.

    A name beginning with `train`, `val` or `test` is the split where there is no such column.

    Args:
        path: The file.
        name: Of the file in names of recordings; by default its own, without suffix.

    Raises:
        ValueError: The file is damaged, has no column `samples`, or rows differ in their channels.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no intact parquet file ({error}): write it again") from error
    there = file.schema_arrow.names
    if "samples" not in there:
        raise ValueError(f"{path} has the columns {', '.join(there)}, expected `samples`")
    if "recording" in there and "onset" not in there:
        raise ValueError(f"{path} has the column recording but no onset: add it, in seconds")
    _check_type(file.schema_arrow.field("samples").type, path)
    facts = _facts(file, path)
    labels, classes = _labels(file, path)
    first = 0
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=[c for c in COLUMNS if c in there]):
        rows = batch.to_pydict()
        if labels is not None:
            rows["label"] = labels[first : first + batch.num_rows].tolist()
        for windows in _runs(rows, path, name or path.stem, first):
            width = windows.samples.shape[1]
            yield SourcePart(
                windows=windows,
                where=str(path),
                channels=names_of_channels(facts.get("channels"), where=str(path)),
                units=units_of_channels(facts.get("units", facts.get("unit")), channels=width),
                rate=rate_of(facts.get("rate"), where=str(path)),
                classes=classes,
            )
        first += batch.num_rows


def _check_type(kind: pa.DataType, path: Path) -> None:
    inner = kind
    depth = 0
    while pa.types.is_list(inner) or pa.types.is_large_list(inner):
        inner, depth = inner.value_type, depth + 1
    if depth not in (1, 2) or not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise ValueError(
            f"{path}: samples is {kind}, expected a list of numbers, or of such a list per channel"
        )


def _facts(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    metadata = file.schema_arrow.metadata or {}
    facts: dict[str, Any] = {}
    for key in ("channels", "units", "unit", "rate"):
        text = metadata.get(key.encode())
        if text is None:
            continue
        try:
            facts[key] = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}: metadata {key} is no JSON: {text!r}") from error
    return facts


def _labels(file: pq.ParquetFile, path: Path) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if "label" not in file.schema_arrow.names:
        return None, ()
    column = file.read(columns=["label"])["label"].to_pylist()
    return labels_of(np.asarray(column, dtype=object), where=f"{path}: label")


def _runs(rows: dict[str, list[Any]], path: Path, name: str, first: int) -> Iterator[Windows]:
    """Yield windows in runs of rows of one shape; `first` is the number of the first row."""
    samples = [
        _sample(value, where=f"{path}: samples of row {first + row}")
        for row, value in enumerate(rows["samples"])
    ]
    n = len(samples)
    columns = {
        "subject": [""] * n,
        "recording": [f"{name}/{first + row:06d}" for row in range(n)],
        "onset": [0.0] * n,
        "split": [split_of_name(path.stem)] * n,
    } | rows
    for _, run in groupby(range(n), key=lambda row: samples[row].shape):
        places = list(run)
        yield Windows(
            samples=np.stack([samples[place] for place in places]),
            labels=np.asarray([rows["label"][place] for place in places])
            if "label" in rows
            else None,
            subjects=[str(columns["subject"][place] or "") for place in places],
            recordings=[str(columns["recording"][place]) for place in places],
            onsets=np.asarray([columns["onset"][place] for place in places], dtype=np.float64),
            splits=[str(columns["split"][place] or "") for place in places],
        )


def _sample(value: Any, *, where: str) -> NDArray[np.float32]:
    nested = bool(value) and isinstance(value[0], list)
    if nested and len({len(channel) for channel in value}) > 1:
        raise ValueError(f"{where} have channels of different lengths: resample or cut them")
    array = np.asarray(value, dtype=np.float32 if value else None)
    return checked_samples(array if nested else array[None], where=where, ndim=2)
