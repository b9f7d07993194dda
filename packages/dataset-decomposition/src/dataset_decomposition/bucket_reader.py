"""Read any row of one bucket by its number, by offset into memory-mapped shards."""

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataset_decomposition.manifest import Shard, bucket_of, read_manifest
from dataset_decomposition.mapped import MappedShard, ShardCache
from dataset_decomposition.packing import document_dtype
from tenfold.bucketing import BadRecordError
from tenfold.shards import ShardError


class BucketReader:
    """Random access to the rows of one bucket. Safe to fork, and to send to a spawned process.

    Attributes:
        folder: The bucket's folder, `D_<exponent>`.
        bucket: Exponent.
        seq_len: Tokens to predict per row, `2^bucket`.
        num_rows: Rows in all shards, by the manifest.
        shards: The manifest.
        dtype: Type of the tokens that `read` returns.
        has_documents: Whether `read_documents` can be asked.
    """

    def __init__(
        self,
        folder: Path,
        *,
        eot_id: int | None = None,
        dtype: np.dtype[Any] | None = None,
        has_documents: bool = False,
    ) -> None:
        """Open a bucket by its manifest; shards are opened when first needed.

        Args:
            folder: The bucket's folder.
            eot_id: Id that the string items of official text samples stand for.
            dtype: Stored type; by default that of the first packed record, uint32 for text.
            has_documents: Whether the records number the documents of their rows.

        Raises:
            FileNotFoundError: The manifest or a shard is missing.
            ValueError: The manifest is malformed, or a shard has another size than it says.
        """
        self.folder = folder
        self.bucket = bucket_of(folder)
        self.seq_len = 1 << self.bucket
        self.shards = read_manifest(folder)
        self._eot_id = eot_id
        self._cache = ShardCache(folder)
        for shard in self.shards:
            _check_size(folder / f"{shard.shard}.tar", shard.bytes)
        self._ends = np.cumsum([shard.num_sequences for shard in self.shards], dtype=np.int64)
        self.num_rows = int(self._ends[-1]) if self.shards else 0
        self.dtype = dtype or self._stored_dtype()
        self.has_documents = has_documents

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.num_rows

    def read(self, rows: ArrayLike) -> NDArray[Any]:
        """Read rows by number, in any order.

        Args:
            rows: Integers `[n]` in `[0, num_rows)`.

        Returns:
            `[n, 2^bucket + 1]` of `dtype`.

        Raises:
            IndexError: A number is out of range.
            BadRecordError: A shard is damaged or not as the manifest says; the reason names shard
                and sample.
        """
        return self._collect(rows, documents=False)

    def read_documents(self, rows: ArrayLike) -> NDArray[Any]:
        """Read which document each token of these rows belongs to.

        Args:
            rows: As for `read`.

        Returns:
            int16 or int32 `[n, 2^bucket + 1]`, counted from 0 in each row, -1 for padding.

        Raises:
            ValueError: The bucket has none.
            IndexError: As `read`.
            BadRecordError: As `read`.
        """
        if not self.has_documents:
            raise ValueError(f"the rows of {self.folder} are stored without document numbers")
        return self._collect(rows, documents=True)

    def _collect(self, rows: ArrayLike, *, documents: bool) -> NDArray[Any]:
        numbers = np.asarray(rows, dtype=np.int64)
        if numbers.ndim != 1:
            raise ValueError(f"rows must be a 1-D array of row numbers, got shape {numbers.shape}")
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self.num_rows):
            raise IndexError(
                f"rows {numbers.min()} to {numbers.max()} were asked of {self.num_rows} in "
                f"{self.folder}"
            )
        dtype = document_dtype(self.bucket) if documents else self.dtype
        out = np.empty((len(numbers), self.seq_len + 1), dtype=dtype)
        owners = np.searchsorted(self._ends, numbers, side="right")
        for index, (number, owner) in enumerate(
            zip(numbers.tolist(), owners.tolist(), strict=True)
        ):
            shard = self.shards[owner]
            local = number - int(self._ends[owner]) + shard.num_sequences
            try:
                mapped = self._cache.get(shard)
                out[index] = self._row(mapped, shard, local, dtype, documents=documents)
            except (ShardError, FileNotFoundError) as error:
                raise BadRecordError(number, str(error)) from error
        return out

    def _row(
        self,
        mapped: MappedShard,
        shard: Shard,
        local: int,
        dtype: np.dtype[Any],
        *,
        documents: bool,
    ) -> NDArray[Any]:
        record, row = divmod(local, shard.rows_per_record)
        data = mapped.data(record, documents=documents)
        if shard.format == "openlm":
            return self._parse(data, mapped.describe(record))
        count = min(shard.rows_per_record, shard.num_sequences - record * shard.rows_per_record)
        width = self.seq_len + 1
        header = npy_header(count, width, dtype.str)
        row_bytes = width * dtype.itemsize
        if len(data) != len(header) + count * row_bytes or bytes(data[: len(header)]) != header:
            raise ShardError(
                f"{mapped.describe(record, documents=documents)} is not {dtype} "
                f"[{count}, {width}] as npy; prepare anew"
            )
        start = len(header) + row * row_bytes
        return np.frombuffer(data, dtype=dtype, count=width, offset=start)

    def _parse(self, data: memoryview, place: str) -> NDArray[Any]:
        tokens = parse_openlm(bytes(data), eot_id=self._eot_id, place=place)
        if len(tokens) != self.seq_len + 1:
            raise ShardError(f"{place} has {len(tokens)} tokens, expected {self.seq_len + 1}")
        if max(tokens) > np.iinfo(self.dtype).max or min(tokens) < 0:
            raise ShardError(f"{place} has an id outside {self.dtype}")
        return np.array(tokens, dtype=self.dtype)

    def _stored_dtype(self) -> np.dtype[Any]:
        if not self.shards or self.shards[0].format == "openlm":
            return np.dtype(np.uint32)
        mapped = self._cache.get(self.shards[0])
        try:
            stream = io.BytesIO(bytes(mapped.data(0)[:256]))
            np.lib.format.read_magic(stream)
            found = np.lib.format.read_array_header_1_0(stream)[2]
        except ValueError as error:
            raise ShardError(f"{mapped.describe(0)} is not an npy array: {error}") from error
        if found not in (np.dtype(np.uint16), np.dtype(np.uint32)):
            raise ShardError(f"{mapped.describe(0)} has type {found}, expected uint16 or uint32")
        return found


def _check_size(path: Path, expected: int | None) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but its manifest lists it")
    size = path.stat().st_size
    if expected is not None and size != expected:
        raise ValueError(f"{path} has {size} bytes, but its manifest says {expected}")


@lru_cache(maxsize=256)
def npy_header(rows: int, width: int, descr: str) -> bytes:
    """Return the bytes with which an npy array `[rows, width]` begins."""
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def parse_openlm(data: bytes, *, eot_id: int | None, place: str) -> list[int]:
    """Parse a printed list of ids in which end of text may stand as a string.

    Raises:
        ShardError: It is no such list, or holds a string and `eot_id` is None; names `place`.
    """
    try:
        items = json.loads(data.replace(b"'", b'"'))
    except ValueError as error:
        raise ShardError(f"{place} is not a list of token ids: {error}") from error
    if not isinstance(items, list) or not all(type(item) in (int, str) for item in items):
        raise ShardError(f"{place} is not a list of token ids")
    if eot_id is None and any(type(item) is str for item in items):
        raise ShardError(f"{place} writes end of text as a string; give its id as eot_id")
    return [eot_id if eot_id is not None and isinstance(item, str) else int(item) for item in items]
