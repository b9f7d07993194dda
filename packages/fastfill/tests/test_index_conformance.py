"""Every backend gives the same exact lists as a naive loop, whatever was written before."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fastfill.config import Metric
from fastfill.index import BACKENDS, Hits, VectorIndex, open_index, rebuild

DIM = 6
OPTIONS = {"faiss-ivf": {"cells": 4, "probes": 1, "train_at": 160}, "lancedb": {"cells_at": 200}}

METRICS: tuple[Metric, ...] = ("l2", "cosine", "ip")


def _open(backend: str, folder: Path, metric: Metric) -> VectorIndex:
    return open_index(backend, folder / "index", dim=DIM, metric=metric, **OPTIONS.get(backend, {}))


@pytest.fixture(params=[(b, m) for b in BACKENDS for m in METRICS], ids="-".join)
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndex]:
    opened = _open(request.param[0], tmp_path, request.param[1])
    yield opened
    opened.close()


@pytest.fixture(params=BACKENDS)
def l2_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndex]:
    opened = _open(request.param, tmp_path, "l2")
    yield opened
    opened.close()


def _naive(held: dict[int, np.ndarray], queries: np.ndarray, k: int, metric: Metric) -> Hits:
    rows = np.full((len(queries), k), -1)
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    for place, query in enumerate(queries):
        ranked = []
        for row, vector in held.items():
            q, v = query.astype(np.float64), vector.astype(np.float64)
            if metric == "cosine":
                q, v = q / np.linalg.norm(q), v / np.linalg.norm(v)
            distance = ((q - v) ** 2).sum() if metric == "l2" else -(q @ v)
            ranked.append((round(float(distance), 5), row, distance))
        for rank, (_, row, distance) in enumerate(sorted(ranked)[:k]):
            rows[place, rank], distances[place, rank] = row, distance
    return Hits(rows, distances)


def _integers(seed: int, number: int) -> np.ndarray:
    """Small whole numbers: many vectors are equal, and sums of squares are without rounding."""
    drawn = np.random.default_rng(seed).integers(-1, 3, (number, DIM)).astype(np.float32)
    drawn[np.abs(drawn).sum(axis=1) == 0, 0] = 1
    return drawn


def _check(index: VectorIndex, held: dict[int, np.ndarray], k: int) -> None:
    queries = _integers(99, 24)
    hits, expected = index.search(queries, k, exact=True), _naive(held, queries, k, index.metric)
    np.testing.assert_array_equal(hits.rows, expected.rows)
    np.testing.assert_allclose(hits.distances, expected.distances, rtol=1e-5, atol=1e-5)
    assert hits.rows.dtype == np.int64
    assert hits.distances.dtype == np.float32
    assert index.count() == len(held)
    assert index.rows().tolist() == sorted(held)


def test_lists_equal_the_naive_loop_after_every_kind_of_write(index: VectorIndex) -> None:
    held = dict(enumerate(_integers(0, 240)))
    index.upsert(np.arange(240), np.stack(list(held.values())))
    _check(index, held, 5)
    # In place, and new rows after a gap, in one call and out of order.
    rows, vectors = np.array([300, 7, 239, 100, 301]), _integers(1, 5)
    index.upsert(rows, vectors)
    held.update(zip(rows.tolist(), vectors, strict=True))
    _check(index, held, 5)
    gone = [0, 301, 7, 12, 150, 5000]
    index.delete(gone)
    held = {row: vector for row, vector in held.items() if row not in gone}
    _check(index, held, 5)
    index.upsert([7, 0], _integers(2, 2))
    held.update(zip([7, 0], _integers(2, 2), strict=True))
    _check(index, held, 5)
    index.flush()
    _check(index, held, 40)


def test_equal_vectors_come_by_row_even_at_the_end_of_the_list(index: VectorIndex) -> None:
    order = np.random.default_rng(3).permutation(230)
    index.upsert(order, np.ones((230, DIM), np.float32))
    hits = index.search(np.ones((1, DIM), np.float32), 7, exact=True)
    assert hits.rows.tolist() == [[0, 1, 2, 3, 4, 5, 6]]


def test_empty_and_short_indexes_are_padded(l2_index: VectorIndex) -> None:
    query = np.zeros((2, DIM), np.float32)
    assert l2_index.count() == 0
    assert l2_index.search(query, 3).rows.tolist() == [[-1] * 3] * 2
    l2_index.upsert([5], np.ones((1, DIM), np.float32))
    hits = l2_index.search(query, 3)
    assert hits.rows.tolist() == [[5, -1, -1]] * 2
    assert hits.distances.tolist() == [[DIM, np.inf, np.inf]] * 2
    l2_index.delete([5])
    l2_index.delete([])
    l2_index.upsert([], np.zeros((0, DIM), np.float32))
    assert l2_index.search(query, 1).rows.tolist() == [[-1], [-1]]
    assert l2_index.search(query[:0], 4).rows.shape == (0, 4)


def test_a_snapshot_stays_as_it_was(index: VectorIndex) -> None:
    held = dict(enumerate(_integers(4, 240)))
    index.upsert(np.arange(240), np.stack(list(held.values())))
    queries = _integers(98, 4)
    before = index.search(queries, 12, exact=True)
    with index.snapshot() as first:
        index.upsert(np.arange(100), _integers(5, 100))
        index.delete(np.arange(50, 130))
        second = index.snapshot()
        middle = index.search(queries, 12, exact=True)
        index.upsert(np.arange(40, 400), _integers(6, 360))
        index.flush()
        for snapshot, expected in ((first, before), (second, middle)):
            found = index.search(queries, 12, snapshot=snapshot, exact=True)
            np.testing.assert_array_equal(found.rows, expected.rows)
            np.testing.assert_array_equal(found.distances, expected.distances)
    with pytest.raises(ValueError, match="is released; take a new one"):
        index.search(queries, 1, snapshot=first)
    second.release()


def test_searches_run_beside_a_writer(l2_index: VectorIndex) -> None:
    # All rows hold the same number at any time, so a half-written state would show.
    rows = np.arange(200)
    l2_index.upsert(rows, np.zeros((200, DIM), np.float32))
    snapshot, stop = l2_index.snapshot(), threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for value in range(1, 13):
                l2_index.upsert(rows, np.full((200, DIM), value, np.float32))
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    query, rounds = np.zeros((1, DIM), np.float32), 0
    while not stop.is_set() or rounds < 2:
        now = l2_index.search(query, 200, exact=True)
        then = l2_index.search(query, 200, snapshot=snapshot, exact=True)
        assert now.rows[0].tolist() == rows.tolist()
        assert np.unique(now.distances).size == 1
        assert then.rows[0].tolist() == rows.tolist()
        assert not then.distances.any()
        rounds += 1
    writer.join()
    assert not failures
    assert l2_index.search(query, 1).distances[0, 0] == DIM * 144


def test_rebuild_leaves_exactly_the_given_rows(l2_index: VectorIndex) -> None:
    l2_index.upsert(np.arange(10), _integers(7, 10))
    fresh = _integers(8, 6)
    number = rebuild(l2_index, [([0, 3, 20], fresh[:3]), ([21, 3], fresh[3:5])])
    assert number == 4
    _check(l2_index, {0: fresh[0], 3: fresh[4], 20: fresh[2], 21: fresh[3]}, 3)


def test_bad_input_is_refused_and_nothing_written(l2_index: VectorIndex) -> None:
    good = np.ones((2, DIM), np.float32)
    bad = good.copy()
    bad[1, 2] = np.nan
    cases = [
        ([0, 1], good[:, :4], r"vectors must have the shape \[n, 6\], got \[2, 4\]"),
        ([0, 1], good[0], r"must have the shape"),
        ([0, 1], bad, "vectors have NaN or inf in 1 rows, first at 1"),
        ([0, 1], np.full((2, DIM), 1e300), "NaN or inf in 2 rows"),
        ([0, 1], good.astype(int), "must be floating-point numbers"),
        ([0], good, "must be a vector a row, got 1 and 2"),
        ([0, -1], good, "rows must be >= 0, got -1"),
        ([4, 4], good, "must be different in one call"),
        ([0.5, 1.5], good, "must be a list of integers"),
    ]
    for rows, vectors, message in cases:
        with pytest.raises(ValueError, match=message):
            l2_index.upsert(rows, vectors)
    with pytest.raises(ValueError, match="queries have NaN or inf"):
        l2_index.search(bad, 1)
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        l2_index.search(good, 0)
    assert l2_index.count() == 0


def test_a_foreign_snapshot_is_refused(l2_index: VectorIndex) -> None:
    other = open_index("brute", None, dim=DIM, metric="l2").snapshot()
    if l2_index.snapshot().__class__ is other.__class__:
        other = open_index("faiss-flat", None, dim=DIM, metric="l2").snapshot()
    with pytest.raises(ValueError, match="is of another index"):
        l2_index.search(np.ones((1, DIM), np.float32), 1, snapshot=other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cosine_normalises_and_refuses_zero(backend: str, tmp_path: Path) -> None:
    index = _open(backend, tmp_path, "cosine")
    index.upsert([0, 1], np.diag([5.0, 0.1, 1, 1, 1, 1])[:2])
    hits = index.search(np.array([[3.0, 4, 0, 0, 0, 0]]), 2)
    assert hits.rows.tolist() == [[1, 0]]
    np.testing.assert_allclose(hits.distances, [[-0.8, -0.6]], rtol=1e-6)
    with pytest.raises(ValueError, match="1 zero rows, first at 0; cosine is undefined"):
        index.upsert([3], np.zeros((1, DIM)))
    index.close()


def test_unknown_backends_and_spaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"backend must be one of faiss-flat, .* got annoy"):
        open_index("annoy", None, dim=3, metric="l2")
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="dim must be >= 1, got 0"):
            open_index(backend, tmp_path, dim=0, metric="l2")
        with pytest.raises(ValueError, match="metric must be one of"):
            open_index(backend, tmp_path, dim=2, metric="hamming")  # pyright: ignore
