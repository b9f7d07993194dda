"""Reruns of jobs: what is redone, what is kept, and which marks and settings are refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from jobs_program import SETTINGS, Page, calls, forget_calls, pages, tree, write_page

from tenfold.jobs import run_jobs


def test_a_rerun_calls_nothing_and_returns_the_same(tmp_path: Path) -> None:
    first = run_jobs(write_page, pages(), out=tmp_path / "out", settings=SETTINGS)
    forget_calls(tmp_path)
    again = run_jobs(write_page, pages(), out=tmp_path / "out", settings=SETTINGS)
    assert calls(tmp_path) == []
    assert json.dumps(again) == json.dumps(first)


def _flip(out: Path) -> None:
    path = out / "pages/1/3-0.bin"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def _cut(out: Path) -> None:
    os.truncate(out / "pages/1/3-1.bin", 17)


def _remove(out: Path) -> None:
    (out / "pages/1/3-0.bin").unlink()


def _remove_mark(out: Path) -> None:
    (out / ".jobs/jobs/page-3.json").unlink()


@pytest.mark.parametrize("spoil", [_flip, _cut, _remove, _remove_mark])
def test_only_the_spoilt_job_is_redone(
    tmp_path: Path, undisturbed: dict[str, str], spoil: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    run_jobs(write_page, pages(), out=out, settings=SETTINGS)
    forget_calls(tmp_path)
    spoil(out)
    run_jobs(write_page, pages(), out=out, settings=SETTINGS)
    assert calls(tmp_path) == [3]
    assert tree(out) == undisturbed


def test_a_changed_task_is_redone_and_leaves_no_old_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_jobs(write_page, pages(), out=out, settings=SETTINGS)
    forget_calls(tmp_path)
    changed = pages() | {"page-1": Page(1, PurePosixPath("moved"), files=1)}
    run_jobs(write_page, changed, out=out, settings=SETTINGS)
    assert calls(tmp_path) == [1]
    run_jobs(write_page, changed, out=tmp_path / "fresh", settings=SETTINGS)
    assert tree(out) == tree(tmp_path / "fresh")


def test_changed_jobs_may_swap_their_paths(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_jobs(write_page, {"a": Page(0), "b": Page(1)}, out=out, settings=SETTINGS)
    swapped = {"a": Page(1), "b": Page(0)}
    results = run_jobs(write_page, swapped, out=out, settings=SETTINGS)
    assert [result["square"] for result in results.values()] == [1, 0]


def test_jobs_of_other_keys_stay_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    run_jobs(write_page, pages(3), out=out, settings=SETTINGS)
    before = tree(out)
    run_jobs(write_page, pages(2), out=out, settings=SETTINGS)
    assert tree(out) == before
    assert "1 finished jobs of earlier runs" in caplog.text


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"version": 2, "size": {"rows": 3}}, r"\(version: 1 -> 2\)"),
        ({"version": 1, "size": {"rows": 4}}, r"\(size\.rows: 3 -> 4\)"),
        (
            {"version": 1, "size": {"rows": 3}, "name": "a"},
            r'\(name: absent -> "a"\)',
        ),
        ({"size": {"rows": 3.0}}, r"\(size\.rows: 3 -> 3\.0; version: 1 -> absent\)"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], difference: str
) -> None:
    out = tmp_path / "out"
    run_jobs(write_page, pages(2), out=out, settings=SETTINGS)
    before = tree(out)
    with pytest.raises(ValueError, match=difference):
        run_jobs(write_page, pages(4), out=out, settings=settings)
    assert tree(out) == before


def test_settings_compare_by_their_json(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_jobs(write_page, pages(1), out=out, settings={"a": (1, 2), "b": Path("x")})
    forget_calls(tmp_path)
    run_jobs(write_page, pages(1), out=out, settings={"b": "x", "a": [1, 2]})
    assert calls(tmp_path) == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"schema": 2}, r"page-0\.json cannot be used: it has schema version 2, expected 1"),
        ({"files": {"../victim": {"bytes": 1, "sha256": "0"}}}, "leaves the output folder"),
        ({"files": {"/etc/x": {"bytes": 1, "sha256": "0"}}}, "leaves the output folder"),
        ({"files": {"x": {}}}, "missing or malformed.*delete it to redo its job"),
        ({"files": None}, "missing or malformed"),
    ],
)
def test_a_mark_that_cannot_be_used_is_named(
    tmp_path: Path, edit: dict[str, Any], message: str
) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    run_jobs(write_page, pages(1), out=out, settings=SETTINGS)
    victim.write_text("keep")
    path = out / ".jobs/jobs/page-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(ValueError, match=message):
        run_jobs(write_page, pages(1), out=out, settings=SETTINGS)
    assert victim.exists()
    path.write_text("{")
    with pytest.raises(ValueError, match=r"page-0\.json cannot be used"):
        run_jobs(write_page, pages(1), out=out, settings=SETTINGS)
