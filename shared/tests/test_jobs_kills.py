"""Jobs that are killed or signalled at any moment: a rerun completes the same tree."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jobs_program
import pytest
from jobs_program import (
    SETTINGS,
    calls,
    forget_calls,
    heal,
    marked,
    pages,
    start,
    tree,
    trouble,
    write_page,
)

from tenfold.jobs import run_jobs


def wait_for_calls(root: Path, count: int) -> None:
    _wait_until(lambda: len(list((root / "calls").glob("*"))) >= count)


def _wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited 30 s in vain")


def _alive(session: int) -> set[int]:
    """The processes of a session; those that have ended and wait for a parent do not count."""
    alive: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state not in "ZX":
            alive.add(int(path.parent.name))
    return alive


@pytest.mark.parametrize("seed", range(10))
def test_a_run_killed_at_a_random_moment_is_completed(
    tmp_path: Path, undisturbed: dict[str, str], seed: int
) -> None:
    for number in range(6):
        trouble(tmp_path, number, "short")
    process = start(tmp_path, workers=1 + seed % 2, count=6)
    wait_for_calls(tmp_path, 1)
    time.sleep(random.Random(seed).uniform(0, 0.2))
    process.kill()
    process.wait()
    _wait_until(lambda: not _alive(process.pid))
    heal(tmp_path)
    forget_calls(tmp_path)
    missing = [n for n in range(6) if f"page-{n}" not in marked(tmp_path / "out")]
    run_jobs(write_page, pages(), out=tmp_path / "out", settings=SETTINGS)
    assert calls(tmp_path) == missing
    assert tree(tmp_path / "out") == undisturbed


def test_a_kill_of_the_parent_ends_its_workers(tmp_path: Path) -> None:
    trouble(tmp_path, 0, "slow")
    trouble(tmp_path, 1, "slow")
    process = start(tmp_path, workers=2, count=2)
    wait_for_calls(tmp_path, 2)
    assert len(_alive(process.pid)) >= 3
    process.kill()
    process.wait()
    _wait_until(lambda: not _alive(process.pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_stops_cleanly(
    tmp_path: Path, undisturbed: dict[str, str], number: signal.Signals, workers: int
) -> None:
    for slow in (2, 3):
        trouble(tmp_path, slow, "slow")
    process = start(tmp_path, workers=workers, count=6, stderr=subprocess.PIPE)
    at_work = {1: [0, 1, 2], 2: [0, 1, 2, 3]}[workers]
    wait_for_calls(tmp_path, len(at_work))
    _wait_until(lambda: marked(tmp_path / "out") == {"page-0", "page-1"})
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert b"Traceback" not in errors
    assert calls(tmp_path) == at_work
    _wait_until(lambda: not _alive(process.pid))
    assert not list((tmp_path / "out/.jobs/jobs").glob("work-*"))
    heal(tmp_path)
    forget_calls(tmp_path)
    run_jobs(write_page, pages(), out=tmp_path / "out", settings=SETTINGS)
    assert calls(tmp_path) == [2, 3, 4, 5]
    assert tree(tmp_path / "out") == undisturbed


def test_a_kill_at_every_single_step_is_completed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, jobs_program.__file__, "every-step", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in done.stdout.split()]
    assert len(steps) == 4
    assert min(steps) >= 20
