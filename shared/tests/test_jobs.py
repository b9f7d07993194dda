"""Jobs: the same tree from a process, a pool and Ray, and the progress that a run shows."""

import hashlib
import importlib
import json
import logging
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jobs_program import (
    SETTINGS,
    Page,
    calls,
    forget_calls,
    heal,
    pages,
    return_task,
    start,
    tree,
    trouble,
    write_page,
)

from tenfold.jobs import JobError, run_jobs
from tenfold.jobs.marks import canonical, differences, fingerprint


def test_files_results_and_marks_of_a_first_run(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    out = tmp_path / "out"
    results = run_jobs(write_page, pages(), out=out, settings=SETTINGS)
    assert list(results.items()) == [
        (f"page-{n}", {"square": n * n, "files": [0, 1]}) for n in range(6)
    ]
    expected = {f"pages/{n % 2}/{n}-{i}.bin" for n in range(6) for i in range(2)}
    marks = {f".jobs/jobs/page-{n}.json" for n in range(6)}
    assert set(tree(out)) == expected | marks | {".jobs/jobs.lock"}
    assert tree(out) == undisturbed
    mark = json.loads((out / ".jobs/jobs/page-4.json").read_text())
    assert mark["settings"] == SETTINGS
    assert mark["result"] == results["page-4"]
    assert set(mark["files"]) == {"pages/0/4-0.bin", "pages/0/4-1.bin"}
    assert mark["files"]["pages/0/4-1.bin"] == {
        "bytes": 3200,
        "sha256": hashlib.sha256((out / "pages/0/4-1.bin").read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_writes_the_same_tree(
    tmp_path: Path, undisturbed: dict[str, str], workers: int
) -> None:
    tasks = pages()
    results = run_jobs(write_page, tasks, out=tmp_path / "out", settings=SETTINGS, workers=workers)
    assert tree(tmp_path / "out") == undisturbed
    assert list(results) == list(tasks)
    assert [result["square"] for result in results.values()] == [0, 1, 4, 9, 16, 25]
    assert calls(tmp_path) == list(range(6))
    pids = {path.read_text() for path in (tmp_path / "calls").glob("*")}
    assert str(os.getpid()) not in pids


def run_on_local_ray(out: Path) -> dict[str, Any]:
    return run_jobs(
        write_page,
        pages(),
        out=out,
        settings=SETTINGS,
        ray_address="local",
        workers=2,
    )


def test_ray_writes_the_same_tree_and_names_a_failure(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    out, ray = tmp_path / "out", importlib.import_module("ray")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    trouble(tmp_path, 2, "raise")
    with pytest.raises(JobError, match=r"1 of 6 jobs .*page-2 \(ZeroDivisionError: no such page\)"):
        run_on_local_ray(out)
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == on_sigterm
    heal(tmp_path)
    forget_calls(tmp_path)
    results = run_jobs(write_page, pages(), out=out, settings=SETTINGS)
    assert [result["square"] for result in results.values()] == [0, 1, 4, 9, 16, 25]
    assert calls(tmp_path) == [2]
    assert tree(out) == undisturbed


@pytest.mark.slow
def test_a_killed_ray_worker_is_named_and_a_connected_ray_stays(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    out, ray = tmp_path / "out", importlib.import_module("ray")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    try:
        trouble(tmp_path, 3, "kill")
        with pytest.raises(JobError, match=r"1 of 6 jobs .*page-3 \(\w+: .*worker.*died"):
            run_on_local_ray(out)
        heal(tmp_path)
        forget_calls(tmp_path)
        run_on_local_ray(out)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, on_sigterm)
    assert calls(tmp_path) == [3]
    assert tree(out) == undisturbed


def test_a_missing_ray_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"tenfold\[ray\]"):
        run_jobs(write_page, pages(), out=tmp_path / "out", settings={}, ray_address="local")


def test_import_is_light() -> None:
    code = "import sys, tenfold.jobs; print({'torch', 'ray', 'numpy', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_pool_workers_compute_with_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    results = run_jobs(return_task, {"a": "threads"}, out=tmp_path / "out", settings={}, workers=2)
    assert results == {"a": "1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_no_tasks_give_no_results(tmp_path: Path) -> None:
    assert run_jobs(write_page, {}, out=tmp_path / "out", settings={}) == {}


def test_fingerprints_follow_the_fields() -> None:
    text = '{"files":2,"folder":"pages","number":3}'
    assert fingerprint(Page(3), "task") == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint({"b": 1, "a": (2,)}, "t") == fingerprint({"a": [2], "b": 1}, "t")
    assert fingerprint(1, "t") != fingerprint(1.0, "t") != fingerprint(True, "t")
    assert canonical({"page": [Page(1)]}, "t")["page"][0]["folder"] == "pages"
    assert differences({"a": {}, "b": 1}, {"a": {"c": 1}, "b": 1}) == [
        "a: {} -> absent",
        "a.c: absent -> 1",
    ]


def test_log_lines_come_every_tenth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tenfold")
    trouble(tmp_path, 0, "exit")
    with pytest.raises(JobError):
        run_jobs(write_page, pages(20, files=1), out=tmp_path / "out", settings={}, title="print")
    lines = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert lines == [f"print: {n} of 20 ended, 1 failed" for n in range(2, 21, 2)]


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = start(tmp_path, workers=1, count=4, stderr=theirs, env=os.environ | {"COLUMNS": "99"})
    os.close(theirs)
    process.wait()
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "jobs" in shown
    assert "4/4" in shown
    assert "0 failed" in shown
