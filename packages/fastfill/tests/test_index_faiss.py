"""What the indexes in memory do beyond the conformance: swaps, cells, training, rounding."""

import threading

import numpy as np
import pytest

from fastfill.index import faiss_ivf
from fastfill.index.brute import BruteForce
from fastfill.index.exact import Candidates, distances, exact_search
from fastfill.index.faiss_flat import FaissFlat
from fastfill.index.faiss_ivf import FaissIvf
from fastfill.index.locks import ReadWriteLock
from fastfill.index.row_set import RowSet


def _clusters(seed: int, number: int, *, centre: float = 0.0, dim: int = 8) -> np.ndarray:
    draw = np.random.default_rng(seed)
    means = 6 * draw.standard_normal((8, dim)) + centre
    return (means[draw.integers(0, 8, number)] + draw.standard_normal((number, dim))).astype("f4")


def test_near_duplicates_far_from_the_origin_are_ranked_exactly() -> None:
    # BLAS' |q|^2 + |v|^2 - 2qv loses these differences in float32.
    draw = np.random.default_rng(0)
    vectors = (1000 + 1e-3 * draw.standard_normal((600, 16))).astype("f4")
    flat, brute = FaissFlat(dim=16, metric="l2"), BruteForce(dim=16, metric="l2")
    for index in (flat, brute):
        index.upsert(np.arange(600), vectors)
    found, expected = flat.search(vectors[:40], 5), brute.search(vectors[:40], 5)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_more_candidates_are_asked_for_only_where_ties_reach_the_end() -> None:
    vectors = np.arange(1000, dtype="f4")[:, None]
    vectors[500:] = 500
    asked = []

    def nearest(queries: np.ndarray, wanted: int) -> Candidates:
        asked.append((len(queries), wanted))
        order = np.argsort(np.abs(queries - vectors[:, 0]), axis=1)[:, :wanted]
        return Candidates(order, vectors[order])

    queries = np.array([[10.2], [900.0]], dtype="f4")
    hits = exact_search(nearest, queries, 3, metric="l2", largest_norm=999)
    assert hits.rows.tolist() == [[10, 11, 9], [500, 501, 502]]
    assert asked[0] == (2, 19)
    assert {number for number, _ in asked[1:]} == {1}
    assert asked[-1][1] > 500


def test_removal_fills_holes_from_the_end() -> None:
    draw = np.random.default_rng(1)
    flat, held = FaissFlat(dim=3, metric="l2"), {}
    for _ in range(60):
        rows = draw.choice(50, draw.integers(1, 12), replace=False)
        if draw.random() < 0.5:
            vectors = draw.standard_normal((len(rows), 3)).astype("f4")
            flat.upsert(rows, vectors)
            held.update(zip(rows.tolist(), vectors, strict=True))
        else:
            flat.delete(rows)
            held = {row: vector for row, vector in held.items() if row not in rows}
        assert flat.rows().tolist() == sorted(held)
        hits = flat.search(np.zeros((1, 3), "f4"), 50)
        expected = sorted(held, key=lambda row: float(distances_to_zero(held[row])))
        assert hits.rows[0, : len(held)].tolist() == expected


def distances_to_zero(vector: np.ndarray) -> np.ndarray:
    return distances(np.zeros((1, 3), "f4"), vector[None, None], "l2")[0, 0]


def test_a_dropped_snapshot_costs_nothing_more() -> None:
    flat = FaissFlat(dim=2, metric="l2")
    flat.upsert([0, 1], np.eye(2))
    kept, dropped = flat.snapshot(), flat.snapshot()
    del dropped
    flat.upsert([1, 2], np.ones((2, 2)))
    assert len(flat._snapshots) == 1
    assert kept.old.rows().tolist() == [1]
    assert kept.touched.rows().tolist() == [1, 2]


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_cells_find_most_neighbours_and_exact_finds_all(metric: str) -> None:
    vectors = _clusters(0, 2000)
    ivf = FaissIvf(dim=8, metric=metric, cells=16, probes=4, train_at=1000)
    brute = BruteForce(dim=8, metric=metric)
    for index in (ivf, brute):
        index.upsert(np.arange(2000), vectors)
    assert ivf.trainings == 1
    queries = _clusters(0, 2050)[2000:]
    expected = brute.search(queries, 10)
    np.testing.assert_array_equal(ivf.search(queries, 10, exact=True).rows, expected.rows)
    approximate = ivf.search(queries, 10)
    recall = np.mean(
        [np.isin(a, e).mean() for a, e in zip(approximate.rows, expected.rows, strict=True)]
    )
    assert 0.8 < recall <= 1


def test_the_quantiser_is_trained_again_after_a_quarter() -> None:
    ivf = FaissIvf(dim=8, metric="l2", cells=4, probes=1, train_at=400)
    vectors = _clusters(1, 400)
    ivf.upsert(np.arange(399), vectors[:399])
    assert ivf.trainings == 0
    ivf.upsert([399], vectors[399:])
    assert (ivf.trainings, ivf.drift) == (1, 0.0)
    moved = _clusters(2, 101, centre=50)
    ivf.upsert(np.arange(100), moved[:100])
    ivf.upsert(np.arange(50), moved[:50])
    assert (ivf.trainings, ivf.drift) == (1, 0.25)
    ivf.upsert([100], moved[100:])
    assert (ivf.trainings, ivf.drift) == (2, 0.0)
    assert ivf.search(moved, 1).rows[:, 0].tolist() == list(range(101))
    ivf.upsert([200], vectors[:1])
    ivf.delete([200, 201])
    assert ivf.drift == 0


def test_retraining_on_given_vectors_changes_no_exact_list() -> None:
    ivf = FaissIvf(dim=8, metric="l2", cells=4, train_at=200)
    ivf.upsert(np.arange(300), _clusters(3, 300))
    queries = _clusters(4, 10)
    snapshot, before = ivf.snapshot(), ivf.search(queries, 9, exact=True)
    ivf.retrain(_clusters(5, 300, centre=20))
    for found in (
        ivf.search(queries, 9, exact=True),
        ivf.search(queries, 9, snapshot=snapshot, exact=True),
    ):
        np.testing.assert_array_equal(found.rows, before.rows)
    with pytest.raises(ValueError, match="needs 39 vectors or more, got 5"):
        ivf.retrain(_clusters(5, 5))
    ivf.upsert([0], queries[:1])
    assert ivf.search(queries[:1], 1).rows[0, 0] == 0


def test_writes_during_a_training_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ivf = FaissIvf(dim=8, metric="l2", cells=4, train_at=200, retrain_at=1.0)
    vectors = _clusters(6, 300)
    ivf.upsert(np.arange(300), vectors)
    brute = BruteForce(dim=8, metric="l2")
    brute.upsert(np.arange(300), vectors)
    fresh, real = _clusters(7, 30), faiss_ivf.IvfStore

    def train_slowly(*args: object, **options: object) -> faiss_ivf.IvfStore:
        def write() -> None:
            for index in (ivf, brute):
                index.upsert(np.arange(290, 320), fresh)
                index.delete(np.arange(0, 40))

        writer = threading.Thread(target=write)
        writer.start()
        ivf.search(vectors[:2], 3)
        writer.join()
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(faiss_ivf, "IvfStore", train_slowly)
    ivf.retrain()
    assert ivf.count() == brute.count() == 280
    assert ivf.drift == pytest.approx(30 / 280)
    found, expected = ivf.search(vectors, 8, exact=True), brute.search(vectors, 8)
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_bad_options_are_refused() -> None:
    for options, message in [
        ({"cells": -1}, "cells must be >= 0"),
        ({"probes": 0}, "probes must be >= 1"),
        ({"cells": 10, "train_at": 100}, "use 390 or fewer cells"),
        ({"retrain_at": 0.0}, r"retrain_at must lie in \(0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            FaissIvf(dim=2, metric="l2", **options)


def test_row_sets_grow_and_count_each_row_once() -> None:
    rows = RowSet()
    rows.add(np.array([3, 3, 70]))
    rows.add(np.array([3, 5]))
    rows.discard(np.array([70, 70, 900]))
    assert len(rows) == 2
    assert rows.rows().tolist() == [3, 5]
    assert rows.has(np.array([3, 4, 5, 70, 10_000])).tolist() == [True, False, True, False, False]
    assert np.unpackbits(rows.bits(), bitorder="little")[:6].tolist() == [0, 0, 0, 1, 0, 1]


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock, order = ReadWriteLock(), []

    def write() -> None:
        with lock.writing():
            order.append("write")

    def read() -> None:
        with lock.reading():
            order.append("read")

    with lock.reading():
        writer = threading.Thread(target=write)
        writer.start()
        while not lock._writers_waiting:
            pass
        reader = threading.Thread(target=read)
        reader.start()
        order.append("first")
    writer.join()
    reader.join()
    assert order == ["first", "write", "read"]
