"""Jobs that fail, and calls that cannot work: a clear word for each, and the rest goes on."""

import logging
from pathlib import Path
from typing import Any

import pytest
from jobs_program import (
    SETTINGS,
    calls,
    forget_calls,
    heal,
    marked,
    pages,
    refuse,
    return_task,
    tree,
    trouble,
    write_page,
)

from tenfold.jobs import JobError, run_jobs
from tenfold.jobs.store import JobStore


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_job_lets_the_others_finish(
    tmp_path: Path,
    undisturbed: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    workers: int,
) -> None:
    def run() -> dict[str, Any]:
        return run_jobs(
            write_page,
            pages(),
            out=tmp_path / "out",
            settings=SETTINGS,
            workers=workers,
        )

    trouble(tmp_path, 1, "raise")
    trouble(tmp_path, 4, "exit")
    message = r"2 of 6 jobs of 'jobs' failed: (?=.*page-1 \(ZeroDivisionError: no such page\))"
    with pytest.raises(JobError, match=message + r".*page-4 \(SystemExit: gone\)"):
        run()
    assert 'raise ZeroDivisionError("no such' in caplog.text
    assert marked(tmp_path / "out") == {"page-0", "page-2", "page-3", "page-5"}
    assert not list(tmp_path.rglob("half.bin"))
    heal(tmp_path)
    forget_calls(tmp_path)
    run()
    assert calls(tmp_path) == [1, 4]
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_value_error_is_one_line_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    caplog.set_level(logging.INFO, logger="tenfold")
    with pytest.raises(JobError) as failed:
        run_jobs(refuse, {"a": 1, "b": 2}, out=tmp_path, settings={}, workers=workers)
    assert str(failed.value).startswith("2 of 2 jobs of 'jobs' failed: ")
    assert "a (page 1 is not to be had)" in str(failed.value)
    assert str(failed.value).endswith("; mend that, then run again to redo only these")
    assert "Traceback" not in caplog.text
    caplog.set_level(logging.DEBUG, logger="tenfold")
    with pytest.raises(JobError):
        run_jobs(refuse, {"a": 1}, out=tmp_path, settings={}, workers=workers)
    assert "Traceback" in caplog.text


def test_an_ended_job_frees_its_folder_at_once(tmp_path: Path) -> None:
    trouble(tmp_path, 1, "raise")
    trouble(tmp_path, 2, "alone")
    with pytest.raises(JobError, match=r"1 of 3 jobs .*page-1"):
        run_jobs(write_page, pages(3), out=tmp_path / "out", settings={})


def test_many_failures_are_not_all_named(tmp_path: Path) -> None:
    for number in range(12):
        trouble(tmp_path, number, "exit")
    with pytest.raises(JobError, match=r"12 of 12 .*page-9 \(SystemExit: gone\) and 2 more; run"):
        run_jobs(write_page, pages(12), out=tmp_path / "out", settings={})


def test_a_killed_worker_is_explained(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    trouble(tmp_path, 3, "kill")
    tasks, out = pages(), tmp_path / "out"
    with pytest.raises(JobError, match=r"died.*unfinished: .*page-3.*fewer workers") as caught:
        run_jobs(write_page, tasks, out=out, settings=SETTINGS, workers=2)
    finished = marked(out)
    assert "page-3" not in finished
    assert all((key in str(caught.value)) == (key not in finished) for key in tasks)
    heal(tmp_path)
    forget_calls(tmp_path)
    run_jobs(write_page, tasks, out=out, settings=SETTINGS, workers=2)
    assert calls(tmp_path) == [n for n in range(6) if f"page-{n}" not in finished]
    assert tree(out) == undisturbed


def test_a_full_disk_stops_the_run(tmp_path: Path) -> None:
    trouble(tmp_path, 2, "full")
    with pytest.raises(JobError, match=r"'page-2' could not write below .*out.*No space left"):
        run_jobs(write_page, pages(), out=tmp_path / "out", settings=SETTINGS)
    assert calls(tmp_path) == [0, 1, 2]
    assert marked(tmp_path / "out") == {"page-0", "page-1"}
    assert not list((tmp_path / "out/.jobs/jobs").glob("work-*"))


def test_an_output_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "pages").write_text("a file where a folder must be")
    with pytest.raises(JobError, match=r"'page-0' could not write .*out/pages.*allow writing"):
        run_jobs(write_page, pages(), out=out, settings=SETTINGS)
    assert calls(tmp_path) == [0]
    assert marked(out) == set()
    assert not list((out / ".jobs/jobs").glob("work-*"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("clash", r"jobs 'page-0' and 'page-2' both write 'pages/0/0-0\.bin'"),
        ("link", "the job made 'link', expected only plain files"),
        ("mark", r"the job wrote '\.jobs', but"),
    ],
)
def test_files_that_a_job_must_not_write(tmp_path: Path, kind: str, message: str) -> None:
    out = tmp_path / "out"
    trouble(tmp_path, 2, kind)
    with pytest.raises(JobError, match=message):
        run_jobs(write_page, pages(3), out=out, settings=SETTINGS)
    assert marked(out) == {"page-0", "page-1"}
    heal(tmp_path)
    run_jobs(write_page, pages(3), out=out, settings=SETTINGS)
    run_jobs(write_page, pages(3), out=tmp_path / "fresh", settings=SETTINGS)
    assert tree(out) == tree(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("tuple", r"changes in a JSON round trip .*\(1, 2\)"),
        ("nan", "the result is not JSON"),
        ("number key", "changes in a JSON round trip"),
        ("path", "the result is not JSON .*PosixPath"),
    ],
)
def test_results_must_be_json(tmp_path: Path, task: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        run_jobs(return_task, {"a": task}, out=tmp_path / "out", settings={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"../x": 1}}, r"job key '\.\./x' is refused"),
        ({"tasks": {"a..b": 1}}, r"'a\.\.b' is refused"),
        ({"tasks": {".hidden": 1}}, r"'\.hidden' is refused"),
        ({"tasks": {"a/b": 1}}, "'a/b' is refused"),
        ({"tasks": {"a\n": 1}}, r"'a\\n' is refused"),
        ({"tasks": {"": 1}}, "'' is refused"),
        ({"tasks": {"a" * 201: 1}}, "is refused, expected 1-200"),
        ({"title": "a/b"}, "title is 'a/b'"),
        ({"title": "a.lock"}, r"title is 'a\.lock'"),
        ({"workers": 0}, "workers is 0, expected at least 1"),
        ({"tasks": {"a": {"b": [1, {2}]}}}, r"task 'a'\.b\[1\] is \{2\} \(set\), expected"),
        ({"tasks": {"a": {3: 1}}}, r"task 'a' has the key 3 \(int\)"),
        ({"tasks": {"a": float("inf")}}, r"task 'a' is inf \(float\)"),
        ({"settings": {"f": len}}, r"settings\.f is <built-in function len>"),
        ({"function": lambda task, folder: 1, "workers": 2}, "top level of a module"),
    ],
)
def test_bad_arguments(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"function": return_task, "tasks": {"a": 1}, "settings": {}}
    arguments |= {"out": tmp_path / "out"} | change
    with pytest.raises(ValueError, match=message):
        run_jobs(arguments.pop("function"), arguments.pop("tasks"), **arguments)
    assert not (tmp_path / "out").exists()


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with JobStore(out, "jobs", {}).locked():
        with pytest.raises(JobError, match=r"another run of 'jobs' is writing to .*out"):
            run_jobs(write_page, pages(1), out=out, settings={})
        run_jobs(write_page, pages(1), out=out, settings={}, title="others")
    run_jobs(write_page, pages(1), out=out, settings={})
