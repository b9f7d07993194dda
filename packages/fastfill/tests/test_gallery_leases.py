"""Leases of rows among workers."""

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from gallery_files import claim_all

from fastfill.gallery import Leases


def test_rows_belong_to_one_worker_until_they_expire(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    assert leases.claim("a", [5, 3, 4], ttl=10, now=100).tolist() == [5, 3, 4]
    assert leases.claim("b", [4, 9], ttl=10, now=105).tolist() == [9]
    assert leases.claim("a", [5], ttl=10, now=105).tolist() == []
    assert leases.held(now=109) == {3, 4, 5, 9}
    assert leases.held("b", now=109) == {9}
    assert leases.held(now=110) == {9}
    assert leases.expired(now=110) == {3: "a", 4: "a", 5: "a"}
    assert leases.claim("b", [4], ttl=10, now=110).tolist() == [4]


def test_renewed_leases_last_and_expired_ones_do_not_come_back(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    leases.claim("a", [1, 2], ttl=10, now=100)
    assert leases.renew("a", ttl=10, now=109) == 2
    assert leases.held("a", now=118) == {1, 2}
    assert leases.renew("a", ttl=10, now=119) == 0
    assert leases.held("a", now=119) == set()


def test_workers_release_their_own_rows_alone(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    leases.claim("a", [1, 2, 3], ttl=10, now=100)
    leases.claim("b", [4], ttl=10, now=100)
    leases.release("a", [2, 4])
    assert leases.held(now=100) == {1, 3, 4}
    leases.release("a")
    assert leases.held(now=100) == {4}


def test_processes_share_rows_without_overlap(tmp_path: Path) -> None:
    Leases(tmp_path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastfill.gallery"])
    with context.Pool(3) as pool:
        got = pool.starmap(claim_all, [(tmp_path, f"worker {n}", 120) for n in range(3)])
    assert sorted(row for rows in got for row in rows) == list(range(120))


def test_bad_calls_and_a_damaged_table_are_named(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    with pytest.raises(ValueError, match="ttl must be > 0 seconds, got 0"):
        leases.claim("a", [1], ttl=0)
    with pytest.raises(ValueError, match="needs a name"):
        leases.claim("", [1], ttl=1)
    with pytest.raises(FileNotFoundError, match="no gallery"):
        Leases(tmp_path / "none")
    leases.path.write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="delete it while no worker runs"):
        leases.held()


def test_a_failed_call_leaves_no_half_of_it(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    with pytest.raises(ValueError, match="invalid literal"):
        leases.claim("a", [1, "x"], ttl=10, now=0)  # pyright: ignore[reportArgumentType]
    connection = sqlite3.connect(leases.path)
    assert connection.execute("SELECT count(*) FROM leases").fetchone() == (0,)
    connection.close()
