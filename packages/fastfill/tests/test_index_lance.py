"""What the index on disk does beyond the conformance: restart, cells, versions, double rows."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from fastfill.index.lance import LanceIndex, by_query


def _vectors(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, 4)).astype("f4")


def test_vectors_survive_a_restart_and_other_handles_see_writes(tmp_path: Path) -> None:
    first = LanceIndex(tmp_path / "i", dim=4, metric="ip")
    vectors = _vectors(0, 50)
    first.upsert(np.arange(50), vectors)
    expected = first.search(vectors[:5], 4)
    second = LanceIndex(tmp_path / "i", dim=4, metric="ip")
    np.testing.assert_array_equal(second.search(vectors[:5], 4).rows, expected.rows)
    first.upsert([7], 100 * vectors[:1])
    assert second.search(vectors[:1], 1).rows[0, 0] == 7
    first.close()
    third = LanceIndex(tmp_path / "i", dim=4, metric="ip")
    assert third.count() == 50
    assert third.search(vectors[:1], 1).rows[0, 0] == 7


def test_another_space_or_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    LanceIndex(tmp_path / "i", dim=4, metric="l2").close()
    with pytest.raises(ValueError, match=r"'metric': 'l2'.*expected .*'metric': 'cosine'"):
        LanceIndex(tmp_path / "i", dim=4, metric="cosine")
    with pytest.raises(ValueError, match=r"'dim': 4.*expected .*'dim': 5"):
        LanceIndex(tmp_path / "i", dim=5, metric="l2")
    (tmp_path / "i" / "index.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON; delete"):
        LanceIndex(tmp_path / "i", dim=4, metric="l2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and no index"):
        LanceIndex(tmp_path / "full", dim=4, metric="l2")
    with pytest.raises(ValueError, match="name a folder"):
        LanceIndex(None, dim=4, metric="l2")


def test_cells_follow_updates_and_give_each_row_once(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path / "i", dim=4, metric="l2", cells_at=300, probes=4)
    vectors = _vectors(1, 300)
    index.upsert(np.arange(300), vectors)
    index.flush()
    assert index._table.list_indices()
    moved = _vectors(2, 100)
    for start in range(0, 100, 25):  # not in the cells until the next flush
        index.upsert(np.arange(start, start + 25), moved[start : start + 25])
    for _ in range(2):
        hits = index.search(moved, 20)
        assert hits.rows[:, 0].tolist() == list(range(100))
        assert all(np.unique(row[row >= 0]).size == (row >= 0).sum() for row in hits.rows)
        index.flush()
    assert index.count() == 300


def test_many_writes_are_compacted_and_snapshots_survive_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfill.index.lance.WRITES_PER_FLUSH", 3)
    monkeypatch.setattr("fastfill.index.lance.KEEP_VERSIONS", timedelta(milliseconds=1))
    index = LanceIndex(tmp_path / "i", dim=4, metric="l2")
    vectors = _vectors(3, 20)
    index.upsert(np.arange(20), vectors)
    with index.snapshot() as snapshot:
        for _ in range(4):
            index.upsert(np.arange(20), vectors[::-1])
        index.flush()
        assert index.search(vectors[:1], 1, snapshot=snapshot).rows[0, 0] == 0
        assert index.search(vectors[:1], 1).rows[0, 0] == 19
        assert len(index._table.list_versions()) > 4
    index.flush()
    assert len(index._table.list_versions()) == 1
    assert index._table.stats()["fragment_stats"]["num_fragments"] == 1


def test_a_row_that_comes_twice_is_kept_once() -> None:
    place = np.array([0, 0, 0, 1, 1])
    rows = np.array([4, 2, 4, 4, 9])
    vectors = np.arange(5, dtype="f4")[:, None]
    found = by_query(place, rows, vectors, queries=3)
    assert found.rows.tolist() == [[2, 4], [4, 9], [-1, -1]]
    assert found.vectors[:2, :, 0].tolist() == [[1, 0], [3, 4]]


def test_the_extra_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ValueError, match=r"pip install 'fastfill\[lancedb\]'"):
        LanceIndex(tmp_path / "i", dim=4, metric="l2")
    assert not (tmp_path / "i").exists()


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    LanceIndex(tmp_path / "i", dim=4, metric="cosine").close()
    found = json.loads((tmp_path / "i" / "index.json").read_text())
    assert found == {"schema_version": 1, "dim": 4, "metric": "cosine"}
