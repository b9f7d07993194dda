"""The images that a store belongs to, in order: `samples.parquet`. Torch-free.

Labels are stored by position, so a data set that was re-sorted, re-encoded or completed must be
refused, never trained on.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tenfold import atomic

if TYPE_CHECKING:
    from dataset_reinforcement.images import ImageSource

SAMPLES = "samples.parquet"

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("crc32", pa.uint32()),
    ]
)


class Sample(NamedTuple):
    """One image.

    Attributes:
        key: Its name in the data set.
        num_bytes: Encoded size.
        height: Pixels; 0 where it was not decoded (skipped or imported).
        width: Likewise.
        label: Position of its class.
        crc32: Of the encoded bytes; None where they were not read (imported), and in stores of
            before.
    """

    key: str
    num_bytes: int
    height: int
    width: int
    label: int
    crc32: int | None = None


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Write `samples.parquet` into a store's folder."""
    columns = list(zip(*samples, strict=True)) or [[]] * len(_SCHEMA)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], _SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    atomic.write_bytes(folder / SAMPLES, buffer.getvalue())


def read_samples(folder: Path) -> list[Sample]:
    """Read `samples.parquet` from a store's folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged.
    """
    table = _read_table(folder)
    columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
    return [Sample(*row) for row in zip(*columns, strict=True)]


def read_sizes(folder: Path) -> NDArray[np.int32]:
    """Read height and width by image, int32 `[n, 2]`; 0 and 0 for those not decoded.

    Raises:
        FileNotFoundError: There is no `samples.parquet`.
        ValueError: It is damaged.
    """
    table = _read_table(folder)
    return np.stack([table.column(name).to_numpy() for name in ("height", "width")], axis=1)


def read_checksums(folder: Path) -> NDArray[np.int64]:
    """Read the CRC-32 of the images' encoded bytes, int64 `[n]`; -1 for those not recorded.

    Raises:
        FileNotFoundError: There is no `samples.parquet`.
        ValueError: It is damaged.
    """
    column = _read_table(folder).column("crc32").cast(pa.int64())
    return column.fill_null(-1).to_numpy()


def _read_table(folder: Path) -> pa.Table:
    path = folder / SAMPLES
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {folder} is no store, or not a whole one")
    try:
        # `pq.read_table` starts threads, which may abort an interpreter that ends with an error.
        with pq.ParquetFile(pa.BufferReader(path.read_bytes()), pre_buffer=False) as file:
            table = file.read(use_threads=False)
        if "crc32" not in table.column_names:  # a store of before
            table = table.append_column(_SCHEMA.field("crc32"), pa.nulls(len(table), pa.uint32()))
        return table.select(_SCHEMA.names).cast(_SCHEMA)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged: {reason}; copy the store again") from error


def fingerprint(samples: Sequence[Sample]) -> str:
    """Return the hex SHA-256 of all keys, encoded sizes and labels in order.

    Without the checksums, so that it is the same for stores that have none.
    """
    digest = hashlib.sha256()
    for sample in samples:
        key = sample.key.encode("utf-8", "surrogateescape")
        digest.update(b"%d:%s:%d:%d\n" % (len(key), key, sample.num_bytes, sample.label))
    return digest.hexdigest()


def check_images(samples: Sequence[Sample], source: "ImageSource") -> None:
    """Compare the images of a store with those of a data set, without reading them.

    Other bytes of the same size are noticed where an image is read, see `Store.load`.

    Raises:
        ValueError: A key, label or encoded size differs; names the first.
    """
    for index, sample in enumerate(samples[: len(source)]):
        found = (source.key(index), source.label(index), source.num_bytes(index))
        for name, here, stored in zip(
            ("key", "label", "encoded size"),
            found,
            (sample.key, sample.label, sample.num_bytes),
            strict=True,
        ):
            if here != stored:
                raise ValueError(
                    f"image {index} of the store has {name} {stored!r}"
                    + (f" (key {sample.key!r})" if name != "key" else "")
                    + f", the data set has {here!r}: it was re-sorted, changed or encoded anew; "
                    "use the data set that the store was made from"
                )
    if len(samples) != len(source):
        shorter = min(len(samples), len(source))
        longer = samples[shorter].key if len(samples) > shorter else source.key(shorter)
        raise ValueError(
            f"the store has {len(samples)} images, the data set {len(source)}: they differ from "
            f"image {shorter}, key {longer!r}, on; use the data set that the store was made from"
        )
