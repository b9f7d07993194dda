"""Time to open a gallery after its writer was killed, against building its index from scratch.

A process writes records of new vectors, each durable before the next, and kills itself with
SIGKILL; another one then opens the gallery for writing, which replays the journal. Afterwards all
rows and their vectors are compared with what was written. The index in memory must be rebuilt
from the columns after any restart; that is the time to compare with. Files lie in the page cache;
times are of the wall. Run: `python recovery.py [--size 100000] [--records 1000 10000]`.
"""

import argparse
import multiprocessing
import os
import signal
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from fastfill.card import ModelCard
from fastfill.gallery import Gallery, GalleryCards, Version
from fastfill.index import open_index, rebuild
from tenfold import keyed
from tenfold.results import this_machine

BACKENDS = ("faiss-flat", "faiss-ivf")


class Written(NamedTuple):
    """What a killed process had written, and records a second."""

    rows: int
    mebibytes: float
    records_per_s: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--rows", type=int, default=10, help="of a record")
    options = parser.parse_args()
    if max(options.records) * options.rows > options.size:
        parser.error("--size must be >= records x rows: each row is written once")
    faiss.omp_set_num_threads(1)
    print(f"{this_machine()}; {options.size:,} x {options.dim}, {options.rows} rows a record")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "clean"
        make_gallery(folder, options.size, options.dim)
        opening = open_seconds(folder)
        print(f"{'journal':>22} {'MiB':>6} {'written/s':>10} {'open s':>8} {'of rebuilding':>14}")
        index_s = {backend: rebuild_seconds(folder, backend) for backend in BACKENDS}
        plain = index_s[BACKENDS[0]]
        print(f"{'empty':>22} {0:>6} {'':>10} {opening:>8.3f} {opening / plain:>14.2f}")
        for records in options.records:
            killed = Path(made) / f"killed-{records}"
            make_gallery(killed, options.size, options.dim)
            written = write_and_die(killed, records, options.rows)
            opening = open_seconds(killed)
            check(killed, written.rows)
            print(
                f"{records:>14,} records {written.mebibytes:>6.0f} {written.records_per_s:>10,.0f}"
                f" {opening:>8.3f} {opening / plain:>14.2f}"
            )
        for backend, seconds in index_s.items():
            name = f"rebuild {backend}"
            print(f"{name:>22} {'':>6} {'':>10} {seconds:>8.3f} {seconds / plain:>14.2f}")


def make_gallery(folder: Path, size: int, dim: int) -> None:
    """Write a gallery of transformed vectors."""
    random = keyed.generator("recovery benchmark", size)
    vectors = random.standard_normal((size, dim), dtype=np.float32)
    Gallery.create(
        folder,
        (f"item-{row:09d}" for row in range(size)),
        vectors,
        vectors,
        np.arange(size, dtype=np.float32),
        cards=GalleryCards(
            new=ModelCard("new", dim, "l2", "sha-new"), old=(ModelCard("old", dim, "l2", "sha"),)
        ),
    )


def write_and_die(folder: Path, records: int, rows: int) -> Written:
    """Let a process write records and kill itself.

    Raises:
        RuntimeError: It died of something else.
    """
    context = multiprocessing.get_context("spawn")
    seconds = context.Value("d", 0.0)
    process = context.Process(target=_write, args=(folder, records, rows, seconds))
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the writer ended with {process.exitcode}, expected a kill")
    size = sum(path.stat().st_size for path in folder.glob("journal-*.bin"))
    return Written(records * rows, size / 2**20, records / seconds.value)


def _write(folder: Path, records: int, rows: int, seconds: "Synchronized[float]") -> None:
    gallery = Gallery.open(folder, "w")
    began = time.perf_counter()
    for start in range(0, records * rows, rows):
        part = np.arange(start, start + rows)
        gallery.apply(part, new_vectors(part, gallery.dim))
    seconds.value = time.perf_counter() - began
    os.kill(os.getpid(), signal.SIGKILL)


def new_vectors(rows: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
    """Return vectors that tell of which row they are."""
    return (1 + rows[:, None] % 1000 + np.arange(dim) / dim).astype(np.float32)


def open_seconds(folder: Path) -> float:
    """Open a gallery in a new process, which must replay what the journal holds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_open, (folder,))


def _open(folder: Path) -> float:
    began = time.perf_counter()
    gallery = Gallery.open(folder, "w")
    seconds = time.perf_counter() - began
    gallery.close()
    return seconds


def check(folder: Path, rows: int) -> None:
    """Compare a gallery with what was written.

    Raises:
        SystemExit: Something is lost.
    """
    gallery = Gallery.open(folder, "r")
    done = np.flatnonzero(gallery.versions() == Version.NEW)
    expected = np.arange(rows)
    if not np.array_equal(done, expected) or not np.array_equal(
        gallery.vectors(expected), new_vectors(expected, gallery.dim)
    ):
        raise SystemExit(f"error: {len(done)} rows after the replay, {rows} were durable")


def rebuild_seconds(folder: Path, backend: str) -> float:
    """Build the index of a gallery from its columns."""
    gallery = Gallery.open(folder, "r")
    index = open_index(backend, None, dim=gallery.dim, metric="l2")
    began = time.perf_counter()
    rebuild(index, gallery.batches())
    seconds = time.perf_counter() - began
    index.close()
    return seconds


if __name__ == "__main__":
    main()
