"""Backfilling curve: our harness against the plain evaluation with a whole matrix at each point.

The plain one is written anew from its description (spec 5): for each of 22 points all distances,
each row sorted, average precision by scikit-learn. Where it is run at fewer points, both ends
included, its time is scaled to 22, and numbers are compared at these. Both take the same distances,
float64 rounded to float32: otherwise ties would be broken differently. Each line has a process of
its own; its peak is resident memory above the vectors and libraries, its time processor time of one
thread. `--million` evaluates 1,000 queries on 1,000,000 items, ours alone. Run:
`python curve.py [--sizes 2000 10000] [--naive_points 3] [--million]`.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from fastfill.evaluation.auc import cut_offs
from fastfill.evaluation.curve import curve
from tenfold import keyed
from tenfold.results import this_machine

POINTS = 22
CHUNK = 65_536
TOLERANCE = 1e-6


class Gallery(NamedTuple):
    """What is evaluated: vectors `[N, d]`, labels and order `[N]`, rows of the queries `[Q]`."""

    z: NDArray[np.float32]
    new: NDArray[np.float32]
    labels: NDArray[np.int64]
    order: NDArray[np.int64]
    queries: NDArray[np.int64]


class Workload(NamedTuple):
    """What one process evaluates; `queries` 0 stands for all items."""

    arm: str
    size: int
    dim: int
    points: int
    queries: int


class Measured(NamedTuple):
    """Points (numbers of backfilled items), what they reach `[C, 3]`, and what that took."""

    cuts: NDArray[np.int64]
    scores: NDArray[np.float64]
    seconds: float
    extra_mib: float
    peak_mib: float


def main() -> None:
    """Print the table; fail where the numbers differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[2000, 10_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--naive_points", type=int, default=3, help="2 to 22 of the 22 points")
    parser.add_argument("--million", action="store_true")
    options = parser.parse_args()
    if not 2 <= options.naive_points <= POINTS:
        parser.error(f"--naive_points must lie in 2..{POINTS}, got {options.naive_points}")
    print(f"{this_machine()}; {options.dim} dimensions, {POINTS} points, one thread")
    print(f"{'items':>9} {'arm':>6} {'s':>8} {'ratio':>6} {'MiB':>7} {'ratio':>6}  largest gap")
    for size in options.sizes:
        compare(size, options.dim, options.naive_points)
    if options.million:
        found = measure_alone(Workload("ours", 1_000_000, options.dim, POINTS, 1000))
        print(
            f"{1_000_000:>9,} {'ours':>6} {found.seconds:>8,.1f} {'':>6} {found.extra_mib:>7,.0f} "
            f"{'':>6}  1,000 queries; {found.peak_mib / 1024:.2f} GiB with everything"
        )


def compare(size: int, dim: int, naive_points: int) -> None:
    """Print two lines.

    Raises:
        SystemExit: The numbers differ.
    """
    naive = measure_alone(Workload("naive", size, dim, naive_points, 0))
    ours = measure_alone(Workload("ours", size, dim, POINTS, 0))
    at = np.searchsorted(ours.cuts, naive.cuts)
    gap = float(np.abs(ours.scores[at] - naive.scores).max())
    whole = naive.seconds * POINTS / naive_points
    scaled = "" if naive_points == POINTS else f"  (scaled from {naive_points} points)"
    print(f"{size:>9,} {'naive':>6} {whole:>8,.1f} {1:>6} {naive.extra_mib:>7,.0f} {1:>6}{scaled}")
    print(
        f"{size:>9,} {'ours':>6} {ours.seconds:>8,.1f} {ours.seconds / whole:>6.3f} "
        f"{ours.extra_mib:>7,.0f} {ours.extra_mib / naive.extra_mib:>6.3f}  {gap:.1e}"
    )
    if gap > TOLERANCE:
        raise SystemExit(f"error: the numbers differ by {gap:.1e}, expected {TOLERANCE} at most")


def measure_alone(work: Workload) -> Measured:
    """Measure in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (work,))


def measure(work: Workload) -> Measured:
    """Evaluate once."""
    torch.set_num_threads(1)
    gallery = make_gallery(work)
    arms: dict[str, Callable[[Gallery, NDArray[np.int64]], NDArray[np.float64]]]
    arms = {"naive": naive_points, "ours": our_points}
    every = cut_offs(work.size, POINTS - 2)
    cuts = every[np.linspace(0, POINTS - 1, work.points).round().astype(int)]
    before, began = peak_mib(), time.process_time()
    found = arms[work.arm](gallery, cuts)
    seconds, peak = time.process_time() - began, peak_mib()
    return Measured(cuts, found, seconds, peak - before, peak)


def make_gallery(work: Workload) -> Gallery:
    """Return classes of about 100 items (1,000 of a million), and z that errs the more the less.

    The order is by the true error with noise, as a good prediction of it is.
    """
    random = keyed.generator("curve benchmark", work.size)
    classes = max(work.size // 100, 10) if work.size < 10**6 else 1000
    labels = random.integers(classes, size=work.size)
    centres = random.standard_normal((classes, work.dim), dtype=np.float32)
    error = random.gamma(2.0, 0.5, work.size).astype(np.float32)
    z = np.empty((work.size, work.dim), dtype=np.float32)
    new = np.empty_like(z)
    for start in range(0, work.size, CHUNK):
        part = slice(start, start + CHUNK)
        shape = new[part].shape
        new[part] = centres[labels[part]] + 1.5 * random.standard_normal(shape, np.float32)
        z[part] = new[part] + error[part, None] * random.standard_normal(shape, np.float32)
    order = np.argsort(-error * random.uniform(0.7, 1.3, work.size))
    queries = np.arange(work.size)
    if work.queries:
        queries = np.sort(random.choice(work.size, work.queries, replace=False))
    return Gallery(z, new, labels, order, queries)


def our_points(gallery: Gallery, cuts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return mAP, CMC 1 and CMC 5 at all points, `[C, 3]`."""
    found = curve(
        gallery.new[gallery.queries],
        gallery.z,
        gallery.new,
        gallery.labels,
        gallery.order,
        steps=len(cuts) - 2,
        self_rows=gallery.queries,
    )
    return np.stack([found.map, found.cmc[1], found.cmc[5]], axis=1)


def naive_points(gallery: Gallery, cuts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the same as one would write it, of all items as queries."""
    mixed, rows = gallery.z.copy(), []
    for cut in cuts:
        mixed[gallery.order[:cut]] = gallery.new[gallery.order[:cut]]
        rows.append(naive_point(gallery.new, mixed, gallery.labels))
    return np.array(rows)


def naive_point(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Return mAP, CMC 1 and CMC 5 from the whole matrix of distances."""
    query, item = queries.astype(np.float64), gallery.astype(np.float64)
    squares = (query**2).sum(1)[:, None] + (item**2).sum(1)
    distance = (squares - 2 * query @ item.T).astype(np.float32)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)
    scores, first = [], []
    for row in range(len(query)):
        right = labels == labels[row]
        right[row] = False
        if not right.any():
            continue
        others = np.delete(np.arange(len(item)), row)
        scores.append(average_precision_score(right[others], -distance[row, others]))
        first.append(int(np.argmax(right[nearest[row]])))
    places = np.array(first)
    return float(np.mean(scores)), float((places < 1).mean()), float((places < 5).mean())


def peak_mib() -> float:
    """Return the most resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
