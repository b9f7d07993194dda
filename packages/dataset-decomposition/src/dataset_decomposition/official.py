"""Folders as the official preparation leaves them: `D_<k>/shard-*.tar` and bare manifests.

A sample is one row, `txt`, a printed list of `2^k + 1` ids in which the end of a document stands as
a string. A line of `manifest.jsonl` is `{"shard": "shard-0000000", "num_sequences": 4096}`; the
tool that writes it can append copies of the whole list, which repeats the data in training.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.bucket_reader import parse_openlm
from dataset_decomposition.manifest import NAME, Shard, bucket_folders, bucket_of
from dataset_decomposition.mapped import MappedShard
from dataset_decomposition.tokenizer import END_OF_TEXT_NAMES, token_dtype
from tenfold.shards import ShardError

_STRING = re.compile(rb"'([^']*)'|\"([^\"]*)\"")


@dataclass(frozen=True)
class OfficialShard:
    """One listed tar.

    Attributes:
        shard: File name without `.tar`.
        num_sequences: Rows, by the manifest.
        size: Bytes of the file.
        modified_ns: When the file last changed.
    """

    shard: str
    num_sequences: int
    size: int
    modified_ns: int


class OfficialBucket(NamedTuple):
    """What a bucket's manifest lists.

    Attributes:
        folder: The bucket's folder.
        shards: Each shard once, in the order of its first line.
        repeated: Lines beyond each shard's first.
        unlisted: Names of tars that no line lists.
    """

    folder: Path
    shards: tuple[OfficialShard, ...]
    repeated: int
    unlisted: tuple[str, ...]


def read_official(data: Path) -> dict[int, OfficialBucket]:
    """Read the manifests of all buckets, by exponent, shortest first.

    Raises:
        FileNotFoundError: No bucket, no manifest in one, or a listed tar is missing.
        ValueError: A line is malformed, or lines of one shard state different numbers of rows.
    """
    folders = bucket_folders(data)
    if not folders:
        raise FileNotFoundError(f"{data} has no folders D_<exponent>; name the folder above them")
    return {bucket: _read_bucket(folder) for bucket, folder in folders.items()}


def _read_bucket(folder: Path) -> OfficialBucket:
    path = folder / NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write it with open_lm's manifest tool")
    counts: dict[str, int] = {}
    lines: Counter[str] = Counter()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            name, rows = str(entry["shard"]), int(entry["num_sequences"])
            _as_listed(name, rows, bucket_of(folder))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number} is not a shard's line: {error}") from error
        if counts.setdefault(name, rows) != rows:
            raise ValueError(f"{path}:{number} gives {name} {rows} rows, before {counts[name]}")
        lines[name] += 1
    shards = tuple(_stat(folder, name, rows) for name, rows in counts.items())
    unlisted = sorted({file.stem for file in folder.glob("*.tar")} - counts.keys())
    return OfficialBucket(folder, shards, lines.total() - len(lines), tuple(unlisted))


def _as_listed(name: str, rows: int, bucket: int) -> Shard:
    return Shard(name, "openlm", rows, 1, rows, 1 << bucket)


def _stat(folder: Path, name: str, rows: int) -> OfficialShard:
    path = folder / f"{name}.tar"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but its manifest lists it")
    status = path.stat()
    return OfficialShard(name, rows, status.st_size, status.st_mtime_ns)


class OfficialRows(NamedTuple):
    """Rows of some shards.

    Attributes:
        tokens: uint16 or uint32 `[n, 2^bucket + 1]`.
        text_ends: How many items were strings.
    """

    tokens: NDArray[Any]
    text_ends: int


def read_rows(
    folder: Path, shards: Iterable[OfficialShard], *, eot_id: int, vocab_size: int
) -> OfficialRows:
    """Read all rows of `shards`, strings as `eot_id`.

    Raises:
        ShardError: A tar is damaged or holds another number of samples than its manifest says, or
            a sample is no row of this bucket; names file and sample.
    """
    shards = list(shards)
    width = (1 << bucket_of(folder)) + 1
    count = sum(shard.num_sequences for shard in shards)
    tokens = np.empty((count, width), dtype=token_dtype(vocab_size))
    text_ends = 0
    for index, (data, place) in enumerate(_samples(folder, shards)):
        text_ends += _count_strings(data, place)
        row = np.array(parse_openlm(data, eot_id=eot_id, place=place))
        if len(row) != width:
            raise ShardError(f"{place} has {len(row)} tokens, expected {width}")
        if row.min() < 0 or row.max() >= vocab_size:
            raise ShardError(f"{place} has an id outside the vocabulary of {vocab_size}")
        tokens[index] = row
    return OfficialRows(tokens, text_ends)


def _samples(folder: Path, shards: Iterable[OfficialShard]) -> Iterator[tuple[bytes, str]]:
    for shard in shards:
        listed = _as_listed(shard.shard, shard.num_sequences, bucket_of(folder))
        mapped = MappedShard(folder / f"{shard.shard}.tar", listed)
        for record in range(shard.num_sequences):
            yield bytes(mapped.data(record)), mapped.describe(record)


def _count_strings(data: bytes, place: str) -> int:
    """Count the strings of a printed list, all of which must mean the end of a document."""
    found = [
        (single or double).decode(errors="replace") for single, double in _STRING.findall(data)
    ]
    if others := sorted(set(found) - set(END_OF_TEXT_NAMES)):
        raise ShardError(f"{place} holds the string {others[0]!r}, which is no end of text")
    return len(found)
