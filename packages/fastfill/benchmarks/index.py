"""Writes and queries of each index, alone and while a backfill runs, against plain numpy.

Half of the vectors are overwritten in batches of 256, then single queries for the 10 nearest are
timed: alone, and while another thread overwrites at 1,000 items a second, about what one GPU
embeds, and as fast as it can. Cells are trained anew whenever a quarter has been overwritten, in
the writing thread, and are part of its time. numpy's full scan has no lock, no row numbers and no
durability: it is what the ratios are to, and what the found rows are checked against. Run:
`python index.py [--size 50000] [--backends faiss-flat ...] [--seconds 10]`.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastfill.index import open_index
from tenfold import keyed
from tenfold.results import this_machine

NUMPY = "numpy"
BACKENDS = ("faiss-flat", "faiss-ivf", "lancedb")
BATCH, K, QUERIES = 256, 10, 256
RATES = {"alone": None, "1,000/s": 1000.0, "full speed": 0.0}
FACTORS = 24

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]
Upsert = Callable[[NDArray[np.int64], NDArray[np.float32]], None]


class Index(NamedTuple):
    """What is timed: one query `[1, d]` to rows `[10]`, and a batch to overwrite."""

    search: Search
    upsert: Upsert
    close: Callable[[], None]


class Latency(NamedTuple):
    """Of single queries, and items a second that were overwritten meanwhile."""

    p50_ms: float
    p99_ms: float
    written_per_s: float


class Vectors(NamedTuple):
    """Vectors before and after the backfill `[N, d]`, and queries `[Q, d]`."""

    z: NDArray[np.float32]
    new: NDArray[np.float32]
    queries: NDArray[np.float32]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of queries, for each line")
    options = parser.parse_args()
    vectors = make_vectors(options.size, options.dim)
    threads = torch.get_num_threads()
    print(f"{this_machine()}; {options.size:,} x {options.dim}, {threads} threads, l2")
    print(
        f"{'index':>10} {'upserts/s':>10} {'backfill':>10} {'written/s':>10} {'p50 ms':>8} "
        f"{'ratio':>6} {'p99 ms':>8} {'recall@10':>9}"
    )
    plain, truth = 0.0, np.zeros((0, K), dtype=np.int64)
    for name in (NUMPY, *options.backends):
        with tempfile.TemporaryDirectory() as folder:
            index = opened(name, Path(folder), vectors)
            per_s = upserts_per_second(index, vectors)
            found = np.stack([index.search(query[None]) for query in vectors.queries])
            truth = found if name == NUMPY else truth
            same = [len(np.intersect1d(*pair)) for pair in zip(found, truth, strict=True)]
            for arm, rate in RATES.items():
                latency = measure(index, vectors, rate, options.seconds)
                plain = plain or latency.p50_ms
                print(
                    f"{name:>10} {per_s:>10,.0f} {arm:>10} {latency.written_per_s:>10,.0f} "
                    f"{latency.p50_ms:>8.2f} {latency.p50_ms / plain:>6.2f} "
                    f"{latency.p99_ms:>8.2f} {np.mean(same) / K:>9.3f}",
                    flush=True,
                )
            index.close()


def make_vectors(size: int, dim: int) -> Vectors:
    """Return rectified linear functions of 24 factors, and z with an error."""
    random = keyed.generator("index benchmark", size)
    mixing = random.standard_normal((FACTORS, dim), dtype=np.float32)

    def drawn(count: int) -> NDArray[np.float32]:
        factors = random.standard_normal((count, FACTORS), dtype=np.float32)
        return np.maximum(factors @ mixing, 0)

    new, queries = drawn(size), drawn(QUERIES)
    z = random.standard_normal(new.shape, dtype=np.float32)
    z += new
    return Vectors(z, new, queries)


def opened(name: str, folder: Path, vectors: Vectors) -> Index:
    """Return an index that holds the vectors before the backfill."""
    if name == NUMPY:
        return plain_numpy(vectors.z.copy())
    index = open_index(name, folder / "index", dim=vectors.z.shape[1], metric="l2")
    index.upsert(np.arange(len(vectors.z)), vectors.z)
    index.flush()
    return Index(lambda query: index.search(query, K).rows[0], index.upsert, index.close)


def plain_numpy(items: NDArray[np.float32]) -> Index:
    """Return a full scan as one would write it, squared norms kept."""
    squares = (items**2).sum(1)

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        distance = squares - 2 * (items @ query[0])
        nearest = np.argpartition(distance, K)[:K]
        return nearest[np.argsort(distance[nearest])]

    def upsert(rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        items[rows] = vectors
        squares[rows] = (vectors**2).sum(1)

    return Index(search, upsert, lambda: None)


def upserts_per_second(index: Index, vectors: Vectors) -> float:
    """Overwrite half of the vectors and return how many a second of wall time."""
    order = keyed.generator("index benchmark order").permutation(len(vectors.new))
    half = order[: len(order) // 2]
    began = time.perf_counter()
    for start in range(0, len(half), BATCH):
        rows = half[start : start + BATCH]
        index.upsert(rows, vectors.new[rows])
    return len(half) / (time.perf_counter() - began)


def measure(index: Index, vectors: Vectors, rate: float | None, seconds: float) -> Latency:
    """Time single queries for some seconds."""
    milliseconds: list[float] = []
    with backfill(index, vectors, rate) as written:
        began = now = time.perf_counter()
        while now - began < seconds:
            query = vectors.queries[len(milliseconds) % QUERIES][None]
            index.search(query)
            before, now = now, time.perf_counter()
            milliseconds.append(1e3 * (now - before))
        per_s = sum(written) / (now - began)
    p50, p99 = np.quantile(milliseconds, [0.5, 0.99]).tolist()
    return Latency(p50, p99, per_s)


@contextmanager
def backfill(index: Index, vectors: Vectors, rate: float | None) -> Generator[list[int]]:
    """Overwrite in another thread; gives the lengths of the written batches as they grow."""
    written: list[int] = []
    stop = threading.Event()
    if rate is None:
        yield written
        return
    worker = threading.Thread(target=_overwrite, args=(index, vectors, rate, stop, written))
    worker.start()
    try:
        yield written
    finally:
        stop.set()
        worker.join()


def _overwrite(
    index: Index, vectors: Vectors, rate: float, stop: threading.Event, written: list[int]
) -> None:
    order = keyed.generator("index benchmark backfill").permutation(len(vectors.new))
    due, place = time.perf_counter(), 0
    while not stop.wait(max(0.0, due - time.perf_counter())):
        rows = order[place : place + BATCH]
        index.upsert(rows, vectors.new[rows])
        written.append(len(rows))
        place = (place + BATCH) % len(order)
        if rate:
            due = max(due + len(rows) / rate, time.perf_counter() - 1)


if __name__ == "__main__":
    main()
