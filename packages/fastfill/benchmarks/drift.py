"""Recall of the index with cells while a gallery drifts from h's vectors to the new model's.

Embeddings are drawn: rectified linear functions of 24 factors, of which the old model sees 12, and
h can but expect the mean of the others. So cells fitted to z do not divide new vectors by what z
lacks. Three ways: cells are kept, are trained anew when a quarter has been overwritten (the
default), or are fitted once, before the backfill, to new vectors. Recall is that of the 10 nearest
by an exact search of the same mixture; time is a query's in a batch of all, of one thread. Items
with the largest error go first. Run:
`python drift.py [--size 50000] [--probes 32] [--plot drift.png]`.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from fastfill.index.faiss_flat import FaissFlat
from fastfill.index.faiss_ivf import FaissIvf
from tenfold import atomic, keyed
from tenfold.results import this_machine

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NEVER, AUTOMATIC, AHEAD = "kept", "retrained", "fitted ahead"
RETRAIN_AT = {NEVER: 1.0, AUTOMATIC: 0.25, AHEAD: 1.0}
BATCH, K, REPEATS = 256, 10, 3
FACTORS, SEEN = 24, 12


class Drift(NamedTuple):
    """Vectors `[N, d]` before and after, the order of the backfill, queries `[Q, d]`."""

    z: NDArray[np.float32]
    new: NDArray[np.float32]
    order: NDArray[np.int64]
    queries: NDArray[np.float32]


class Point(NamedTuple):
    """What an index reaches at one share of the backfill."""

    recall: float
    microseconds: float
    trainings: int


def main() -> None:
    """Print the table, and draw it where a file is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=32)
    parser.add_argument("--plot", type=Path, help="a PNG to write")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    drift = make_drift(options.size, options.dim, options.queries)
    truth = exact(drift)
    print(
        f"{this_machine()}; {options.size:,} x {options.dim}, {options.queries:,} queries, "
        f"{options.probes} probes; recall@10 (us a query)"
    )
    print(f"{'cells':>12}" + "".join(f"{share:>16.0%}" for share in SHARES) + "  trainings")
    points = {}
    for arm in RETRAIN_AT:
        points[arm] = measure(arm, drift, truth, options.probes)
        cells = "".join(f"{p.recall:>9.3f} ({p.microseconds:>4.0f})" for p in points[arm])
        print(f"{arm:>12}{cells}  {points[arm][-1].trainings:>9}", flush=True)
    if options.plot:
        plot(points, options.plot)


def make_drift(size: int, dim: int, queries: int) -> Drift:
    """Return new vectors, and z of which the unseen factors are mostly gone."""
    random = keyed.generator("drift benchmark", size)
    mixing = random.standard_normal((FACTORS, dim), dtype=np.float32)
    factors = random.standard_normal((size, FACTORS), dtype=np.float32)
    guessed = factors.copy()
    guessed[:, SEEN:] *= random.uniform(0, 0.5, (size, 1))
    asked = random.standard_normal((queries, FACTORS), dtype=np.float32)
    z, new = np.maximum(guessed @ mixing, 0), np.maximum(factors @ mixing, 0)
    order = np.argsort(-np.square(z - new).sum(1))
    return Drift(z, new, order, np.maximum(asked @ mixing, 0))


def exact(drift: Drift) -> list[NDArray[np.int64]]:
    """Return the true lists of the queries at each share."""
    index, found = FaissFlat(dim=drift.z.shape[1], metric="l2"), []
    index.upsert(np.arange(len(drift.z)), drift.z)
    for start, end in steps(len(drift.z)):
        rows = drift.order[start:end]
        index.upsert(rows, drift.new[rows])
        found.append(index.search(drift.queries, K).rows)
    return found


def measure(arm: str, drift: Drift, truth: list[NDArray[np.int64]], probes: int) -> list[Point]:
    """Backfill an index in batches and look at it at each share."""
    dim = drift.z.shape[1]
    index = FaissIvf(dim=dim, metric="l2", probes=probes, retrain_at=RETRAIN_AT[arm])
    index.upsert(np.arange(len(drift.z)), drift.z)
    if arm == AHEAD:
        index.retrain(drift.new)
    points = []
    for (start, end), right in zip(steps(len(drift.z)), truth, strict=True):
        for first in range(start, end, BATCH):
            rows = drift.order[first : min(first + BATCH, end)]
            index.upsert(rows, drift.new[rows])
        points.append(look(index, drift.queries, right))
    return points


def steps(size: int) -> list[tuple[int, int]]:
    """Return the part of the order that brings each share."""
    ends = [round(share * size) for share in SHARES]
    return list(zip([0, *ends], ends, strict=False))


def look(index: FaissIvf, queries: NDArray[np.float32], right: NDArray[np.int64]) -> Point:
    """Search all queries a few times."""
    times, rows = [], right
    for _ in range(REPEATS):
        began = time.process_time()
        rows = index.search(queries, K).rows
        times.append(time.process_time() - began)
    same = [len(np.intersect1d(*pair)) for pair in zip(rows, right, strict=True)]
    # The training that filled the index counts for all.
    return Point(float(np.mean(same)) / K, 1e6 * median(times) / len(queries), index.trainings - 1)


def plot(points: dict[str, list[Point]], path: Path) -> None:
    """Write recall over the backfilled share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for arm, line in points.items():
        axes.plot(SHARES, [point.recall for point in line], "o-", label=f"cells {arm}")
    axes.set(xlabel="backfilled share", ylabel="recall@10")
    axes.legend()
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


if __name__ == "__main__":
    main()
