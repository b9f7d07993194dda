"""`manifest.jsonl`: one line per shard of a bucket. Official manifests are read as well."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold import atomic

Format = Literal["packed", "openlm"]

NAME = "manifest.jsonl"
EXTENSIONS: Mapping[Format, str] = {"packed": "tok.npy", "openlm": "txt"}
"""The member of a sample that holds its tokens, by format."""
DOCUMENTS_EXTENSION = "doc.npy"
"""The member that numbers the documents of each row, in buckets that have it."""
_FOLDER = re.compile(r"D_(\d{1,2})")
_SHARD = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Shard:
    """One shard of a bucket.

    Attributes:
        shard: File name without `.tar`.
        format: `packed` or `openlm`.
        num_records: Samples in the tar.
        rows_per_record: Rows of each sample; the last sample may hold fewer.
        num_sequences: Rows in the tar.
        seq_len: Tokens to predict per row, `2^bucket`; a row stores one more.
        bytes: Size of the file; None in official manifests, like the next.
        sha256: Hex digest of the file.
    """

    shard: str
    format: Format
    num_records: int
    rows_per_record: int
    num_sequences: int
    seq_len: int
    bytes: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        """Refuse lines whose counts contradict each other."""
        if not _SHARD.fullmatch(self.shard):
            raise ValueError(f"shard name {self.shard!r} is not plain letters, digits, - and _")
        if self.format not in EXTENSIONS:
            raise ValueError(f"format must be packed or openlm, got {self.format!r}")
        if min(self.num_records, self.rows_per_record, self.num_sequences) < 1:
            raise ValueError("num_records, rows_per_record and num_sequences must be at least 1")
        if self.num_records != -(-self.num_sequences // self.rows_per_record):
            raise ValueError(
                f"num_sequences {self.num_sequences} in records of {self.rows_per_record} do not "
                f"make {self.num_records} records"
            )


def bucket_folder(bucket: int) -> str:
    """Return the folder name of a bucket."""
    return f"D_{bucket}"


def bucket_of(folder: Path) -> int:
    """Return the exponent in a bucket's folder name.

    Raises:
        ValueError: The name is not `D_<exponent>`.
    """
    match = _FOLDER.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder} is not a bucket; its name must be D_<exponent>")
    return int(match.group(1))


def bucket_folders(data: Path) -> dict[int, Path]:
    """Return the bucket folders of a data set by exponent, shortest first."""
    found = [path for path in data.glob("D_*") if path.is_dir() and _FOLDER.fullmatch(path.name)]
    return dict(sorted((bucket_of(path), path) for path in found))


def write_manifest(folder: Path, shards: Iterable[Shard]) -> None:
    """Write a bucket's manifest atomically."""
    lines = [json.dumps(asdict(shard), sort_keys=True) + "\n" for shard in shards]
    atomic.write_text(folder / NAME, "".join(lines))


def read_manifest(folder: Path) -> list[Shard]:
    """Read a bucket's manifest, ours or the official `{"shard", "num_sequences"}` lines.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A line is malformed; names file and line.
    """
    path = folder / NAME
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {NAME}; the preparation is not finished")
    seq_len = 1 << bucket_of(folder)
    shards: list[Shard] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            shards.append(_read_line(json.loads(line), seq_len))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number} is not a shard's line: {error}") from error
    names = [shard.shard for shard in shards]
    if len(set(names)) < len(names):
        # The official tool repeats the whole list five times, which multiplies the data in silence.
        raise ValueError(f"{path} lists {len(names)} shards but only {len(set(names))} differ")
    return shards


def _read_line(line: Mapping[str, Any], seq_len: int) -> Shard:
    if "rows_per_record" not in line:
        rows = int(line["num_sequences"])
        return Shard(str(line["shard"]), "openlm", rows, 1, rows, seq_len)
    shard = Shard(**line)
    if shard.seq_len != seq_len:
        raise ValueError(f"seq_len is {shard.seq_len}, expected {seq_len}")
    return shard


def describe_shards(shards: list[Shard]) -> dict[str, int]:
    """Add up what `dataset.json` says of a bucket."""
    return {
        "sequences": sum(shard.num_sequences for shard in shards),
        "tokens": sum(shard.num_sequences * shard.seq_len for shard in shards),
        "stored_tokens": sum(shard.num_sequences * (shard.seq_len + 1) for shard in shards),
        "shards": len(shards),
    }
