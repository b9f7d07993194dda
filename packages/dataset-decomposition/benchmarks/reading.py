"""Packed records against text records: tokens a second of one core until they are an int64 array.

The same rows lie in both forms. Packed rows are read in random order by `BucketReader`, as training
does; text rows one after the other, as webdataset streams them, each parsed with
`ast.literal_eval` (the official way) or `json.loads`. Ids are uniform below 50,432.

    python benchmarks/reading.py [--tokens 1048576] [--runs 3]
"""

import argparse
import ast
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dataset_decomposition.bucket_reader import BucketReader
from dataset_decomposition.manifest import Format, write_manifest
from dataset_decomposition.records import write_rows
from tenfold.results import this_machine

VOCABULARY = 50_432
BUCKETS = (8, 10, 13)
BATCH_TOKENS = 65_536
RECORD_TOKENS = {"packed": 1 << 16, "openlm": 1}


def write_bucket(folder: Path, rows: NDArray[Any], form: Format) -> Path:
    """Write the rows of one bucket as one shard with its manifest."""
    bucket = folder / f"D_{(rows.shape[1] - 1).bit_length() - 1}"
    per_record = max(1, RECORD_TOKENS[form] // (rows.shape[1] - 1))
    path = bucket / "shard-0000000.tar"
    shard = write_rows(path, rows, number=0, rows_per_record=per_record, format=form)
    write_manifest(bucket, [shard])
    return bucket


def read_packed(folder: Path, order: NDArray[np.int64]) -> int:
    """Read all rows in `order`, batch by batch; return the sum of their first tokens."""
    reader = BucketReader(folder)
    batch = max(1, BATCH_TOKENS // reader.seq_len)
    total = 0
    for start in range(0, len(order), batch):
        total += int(reader.read(order[start : start + batch]).astype(np.int64)[:, 0].sum())
    return total


def read_text(folder: Path, parse: Callable[[str], list[int]]) -> int:
    """Read all rows from first to last, batch by batch; return the sum of their first tokens."""
    batch: list[list[int]] = []
    total, width = 0, 1 << int(folder.name.removeprefix("D_"))
    with tarfile.open(folder / "shard-0000000.tar") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            batch.append(parse(file.read().decode()))
            if len(batch) * width >= BATCH_TOKENS:
                total += int(np.array(batch, dtype=np.int64)[:, 0].sum())
                batch = []
    return total + sum(row[0] for row in batch)


def seconds(read: Callable[[], int], expected: int, *, runs: int) -> float:
    """Return the median processor time of `read`, whose result is checked."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        assert read() == expected
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare packed with text records.")
    parser.add_argument("--tokens", type=int, default=1 << 20, help="Of each length.")
    parser.add_argument("--runs", type=int, default=3, help="Runs of each.")
    options = parser.parse_args()
    table = Table("length", "packed", "literal_eval", "json", "ratio", "ratio to json")
    rng = np.random.Generator(np.random.Philox(key=0))
    for bucket in BUCKETS:
        count = max(1, options.tokens >> bucket)
        rows = rng.integers(0, VOCABULARY, (count, (1 << bucket) + 1)).astype(np.uint16)
        expected = int(rows[:, 0].astype(np.int64).sum())
        with tempfile.TemporaryDirectory() as folder:
            packed = write_bucket(Path(folder) / "packed", rows, "packed")
            text = write_bucket(Path(folder) / "text", rows, "openlm")
            ways: list[Callable[[], int]] = [
                partial(read_packed, packed, rng.permutation(count)),
                partial(read_text, text, ast.literal_eval),
                partial(read_text, text, json.loads),
            ]
            times = [seconds(way, expected, runs=options.runs) for way in ways]
        rates = [f"{count * (1 << bucket) / found / 1e6:.2f}" for found in times]
        ratios = [f"{found / times[0]:.0f}x" for found in times[1:]]
        table.add_row(f"{1 << bucket:,}", *rates, *ratios)
    console = Console(soft_wrap=True)
    console.print(f"{this_machine()}; medians of {options.runs} runs, CPU time")
    console.print("million tokens a second of one core")
    console.print(table)


if __name__ == "__main__":
    main()
