"""A small corpus for tests of `prepare`, and what a prepared folder holds, read independently."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np

from dataset_decomposition.records import open_dataset
from dataset_decomposition.settings import Layout

# Small parts, so that a small corpus has several tasks, runs, partitions and shards.
SMALL = Layout(
    record_tokens=1 << 7,
    shard_tokens=1 << 11,
    partition_bytes=1 << 14,
    task_bytes=1 << 15,
    buffer_bytes=1 << 14,
)
BUCKETS = {"min_bucket": 3, "max_bucket": 7}


def make_texts(seed: int, count: int) -> list[str]:
    """Make documents of heavy-tailed length, a few shorter than any row."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.lognormal(4.0, 1.3, count).astype(int) + 1, 3000)
    return ["".join(map(chr, rng.integers(97, 123, length))) for length in lengths]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def documents_of(corpus: Path) -> list[tuple[str, int, np.ndarray]]:
    """Return each document as (file, index in it, tokens), independently of the reader."""
    found = []
    for path in sorted(corpus.iterdir()):
        if path.suffix == ".txt":
            texts = [path.read_text()]
        else:
            texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        for index, text in enumerate(texts):
            tokens = np.array([*text.encode(), 256], dtype=np.uint16)
            found.append((path.name, index, tokens))
    return found


def rows_of(out: Path) -> dict[int, Counter[bytes]]:
    data = open_dataset(out)
    readers = {**data.buckets, **data.small_buckets}
    return {
        k: Counter(row.tobytes() for row in reader.read(np.arange(reader.num_rows)))
        for k, reader in readers.items()
    }


def hashes(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
