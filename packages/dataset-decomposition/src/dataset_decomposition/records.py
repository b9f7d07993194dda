"""Rows of tokens in shards, and the prepared data set that they make up.

A packed sample is `tok.npy`, uint16 or uint32 `[rows, 2^bucket + 1]`: one tar header for some
65,536 tokens. Where a row may hold several documents, for a document mask, `doc.npy` numbers them
from 0 in each row, int16 or int32 of the same shape, -1 for padding. The official form is one row
per sample, `txt`, a printed list.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.bucket_reader import BucketReader
from dataset_decomposition.heldout import Heldout, read_heldout
from dataset_decomposition.manifest import (
    DOCUMENTS_EXTENSION,
    EXTENSIONS,
    Format,
    Shard,
    bucket_folders,
)
from tenfold.shards import write_shard

__all__ = [
    "BucketReader",
    "Dataset",
    "Heldout",
    "has_documents",
    "open_dataset",
    "read_info",
    "shard_name",
    "write_rows",
]

DATASET = "dataset.json"
SCHEMA = 1


def shard_name(number: int) -> str:
    """Return the name of a bucket's `number`-th shard, without `.tar`."""
    return f"shard-{number:07d}"


def write_rows(
    path: Path,
    rows: NDArray[Any],
    *,
    number: int,
    rows_per_record: int,
    format: Format,
    documents: NDArray[Any] | None = None,
) -> Shard:
    """Write one shard.

    Args:
        path: The tar to write.
        rows: uint16 or uint32 `[n, 2^bucket + 1]`.
        number: The shard's number in its bucket; sample keys begin with it.
        rows_per_record: Rows of one sample.
        format: `packed` or `openlm`.
        documents: Document numbers shaped as `rows`, for `packed` only.
    """
    entry = write_shard(path, _samples(rows, documents, number, rows_per_record, format))
    return Shard(
        shard=path.stem,
        format=format,
        num_records=entry.num_samples,
        rows_per_record=rows_per_record,
        num_sequences=len(rows),
        seq_len=rows.shape[1] - 1,
        bytes=entry.num_bytes,
        sha256=entry.sha256,
    )


def _samples(
    rows: NDArray[Any],
    documents: NDArray[Any] | None,
    number: int,
    rows_per_record: int,
    format: Format,
) -> Iterator[dict[str, Any]]:
    for record, start in enumerate(range(0, len(rows), rows_per_record)):
        sample: dict[str, Any] = {"__key__": f"{number:07d}{record:05d}"}
        block = slice(start, start + rows_per_record)
        if format == "packed":
            sample[EXTENSIONS[format]] = np.ascontiguousarray(rows[block])
            if documents is not None:
                sample[DOCUMENTS_EXTENSION] = np.ascontiguousarray(documents[block])
        else:
            assert documents is None, "the official form has no place for document numbers"
            # Ids throughout: where the official writer prints the string "<|endoftext|>", the
            # official reader takes any string for id 0.
            sample[EXTENSIONS[format]] = str(rows[start].tolist())
        yield sample


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        path: Its folder.
        info: The content of `dataset.json`.
        buckets: Readers of what is trained on, by exponent, shortest first; some may have no rows.
        small_buckets: Readers of the shorter pieces that tail `keep-small` wrote.
    """

    path: Path
    info: Mapping[str, Any]
    buckets: Mapping[int, BucketReader]
    small_buckets: Mapping[int, BucketReader]

    def heldout(self) -> Heldout:
        """Open the held-out documents.

        Raises:
            ValueError: There are none.
        """
        return read_heldout(self.path)


def open_dataset(path: Path, *, eot_id: int | None = None) -> Dataset:
    """Open what `prepare` made, or a folder of official `D_<k>` text shards.

    Args:
        path: The folder.
        eot_id: End-of-text id of official shards, which do not say it; not for ours.

    Raises:
        FileNotFoundError: The folder, `dataset.json` or a shard is missing.
        ValueError: Manifests and `dataset.json` disagree, or `eot_id` is given where it is known
            or missing where it is not.
    """
    folders = bucket_folders(path)
    if (path / DATASET).is_file():
        info = read_info(path)
        if eot_id not in (None, info["eot_id"]):
            raise ValueError(f"{path / DATASET} says eot_id {info['eot_id']}, got eot_id={eot_id}")
        dtype = np.dtype(info["dtype"])
        readers = {
            k: BucketReader(
                folder,
                eot_id=info["eot_id"],
                dtype=dtype,
                has_documents=has_documents(info, k),
            )
            for k, folder in folders.items()
        }
        _check_counts(path, info, readers)
        shortest = info["min_bucket"]
        trained = {k: reader for k, reader in readers.items() if k >= shortest}
        small = {k: reader for k, reader in readers.items() if k < shortest}
        return Dataset(path, info, trained, small)
    if not folders:
        raise FileNotFoundError(f"{path} is no prepared data set; make one with prepare")
    if eot_id is None:
        raise FileNotFoundError(
            f"{path} has no {DATASET}: run prepare again to finish it, or, if these are official "
            "text shards, give their eot_id"
        )
    readers = {k: BucketReader(folder, eot_id=eot_id) for k, folder in folders.items()}
    return Dataset(path, _official_info(readers, eot_id), readers, {})


def read_info(path: Path) -> dict[str, Any]:
    """Read `dataset.json`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not JSON or of another schema version.
    """
    if not (path / DATASET).is_file():
        raise FileNotFoundError(
            f"{path} has no {DATASET}; run prepare, again if it was interrupted"
        )
    try:
        info = json.loads((path / DATASET).read_text(encoding="utf-8"))
        schema = info["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path / DATASET} cannot be read ({error}); prepare anew") from error
    if schema != SCHEMA:
        raise ValueError(f"{path / DATASET} has schema {schema}, expected {SCHEMA}; prepare anew")
    return info


def has_documents(info: Mapping[str, Any], bucket: int) -> bool:
    """Whether the rows of a bucket come with document numbers, by `dataset.json`."""
    return bool(info["buckets"].get(str(bucket), {}).get("documents", False))


def _check_counts(path: Path, info: Mapping[str, Any], readers: Mapping[int, BucketReader]) -> None:
    stated = {int(k): bucket["sequences"] for k, bucket in info["buckets"].items()}
    found = {k: reader.num_rows for k, reader in readers.items()}
    if stated != found:
        raise ValueError(
            f"{path / DATASET} says sequences {stated} by bucket, but the manifests say {found}; "
            "prepare anew"
        )


def _official_info(readers: Mapping[int, BucketReader], eot_id: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "format": "openlm",
        "eot_id": eot_id,
        "vocab_size": None,
        "dtype": "uint32",
        "heldout": None,
        "buckets": {
            str(k): {
                "sequences": r.num_rows,
                "tokens": r.num_rows * r.seq_len,
                "shards": len(r.shards),
            }
            for k, r in readers.items()
        },
    }
