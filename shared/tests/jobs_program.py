"""Small jobs that note their calls and meet troubles on request, and a program that runs them.

The tests use its functions, and start it to interrupt and kill it:
`jobs_program.py OUT WORKERS COUNT` runs the jobs, `jobs_program.py every-step FOLDER` kills itself.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tenfold.jobs import run_jobs

SETTINGS = {"version": 1, "size": {"rows": 3}}
PAGES = PurePosixPath("pages")


@dataclass(frozen=True)
class Page:
    """One task: its number, and the folder and the number of files that it writes."""

    number: int
    folder: PurePosixPath = PAGES
    files: int = 2


def pages(count: int = 6, **fields: Any) -> dict[str, Page]:
    return {f"page-{number}": Page(number, **fields) for number in range(count)}


def write_page(page: Page, folder: Path) -> dict[str, Any]:
    """Write files that follow from the task alone; note the call and meet troubles beside `out`."""
    outside = folder.parents[3]
    note = outside / "calls" / f"{page.number}-{uuid.uuid4().hex}"
    note.parent.mkdir(exist_ok=True)
    note.write_text(str(os.getpid()))
    if (trouble := outside / f"trouble-{page.number}").exists():
        TROUBLES[trouble.read_text()](folder)
    for index in range(page.files):
        path = folder / page.folder / str(page.number % 2) / f"{page.number}-{index}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha256(f"{page}-{index}".encode()).digest() * 100)
    return {"square": page.number**2, "files": list(range(page.files))}


def _raise(folder: Path) -> None:
    (folder / "half.bin").write_bytes(b"half")
    raise ZeroDivisionError("no such\npage")


def _exit(folder: Path) -> None:
    sys.exit("gone")


def _fill_disk(folder: Path) -> None:
    Path("/dev/full").write_bytes(b"x")


def _kill_worker(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _write_other_page(folder: Path) -> None:
    path = folder / "pages/0/0-0.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")


def _expect_to_be_alone(folder: Path) -> None:
    if list(folder.parent.glob("work-*")) != [folder]:
        raise RuntimeError("an ended job still holds its folder")


def _link(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/hostname")


def _write_mark(folder: Path) -> None:
    (folder / ".jobs").mkdir()
    (folder / ".jobs/page-0.json").write_text("{}")


TROUBLES: dict[str, Callable[[Path], None]] = {
    "raise": _raise,
    "exit": _exit,
    "full": _fill_disk,
    "kill": _kill_worker,
    "clash": _write_other_page,
    "alone": _expect_to_be_alone,
    "link": _link,
    "mark": _write_mark,
    "slow": lambda folder: time.sleep(600),
    "short": lambda folder: time.sleep(0.03),
}


def refuse(task: object, folder: Path) -> None:
    raise ValueError(f"page {task} is\nnot to be had")


def return_task(task: Any, folder: Path) -> Any:
    return {
        "tuple": (1, 2),
        "nan": [float("nan")],
        "number key": {1: 2},
        "path": folder,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }[task]


def tree(out: Path) -> dict[str, str]:
    """Every file below `out`, marks included, with its SHA-256."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def calls(root: Path) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in (root / "calls").glob("*"))


def forget_calls(root: Path) -> None:
    shutil.rmtree(root / "calls", ignore_errors=True)


def marked(out: Path) -> set[str]:
    return {path.stem for path in (out / ".jobs/jobs").glob("*.json")}


def trouble(root: Path, number: int, kind: str) -> None:
    (root / f"trouble-{number}").write_text(kind)


def heal(root: Path) -> None:
    for path in root.glob("trouble-*"):
        path.unlink()


def start(
    root: Path,
    *,
    workers: int,
    count: int,
    stderr: int | None = None,
    env: dict[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, str(root / "out"), str(workers), str(count)]
    return subprocess.Popen(command, start_new_session=True, stderr=stderr, env=env)


def main(out: str, workers: str, count: str) -> int:
    try:
        run_jobs(
            write_page, pages(int(count)), out=Path(out), settings=SETTINGS, workers=int(workers)
        )
    except KeyboardInterrupt as interrupt:
        return 128 + int(interrupt.args[0])
    return 0


def die_at_every_step(root: Path) -> None:
    """End the process, without any clean-up, before each rename, unlink and fsync in turn.

    The killed run does jobs B, in an empty folder or over finished jobs A; the run after it does A
    or B and must leave exactly the tree of an undisturbed run.
    """
    sets = {"A": pages(2), "B": pages(2, folder=PurePosixPath("other"), files=1)}
    os.fsync = lambda descriptor: None
    for name, tasks in sets.items():
        run_jobs(write_page, tasks, out=root / name, settings=SETTINGS)
    for before in (None, "A"):
        for after in ("A", "B"):
            steps = sum(1 for _ in _killed_outs(root, before, sets["B"], sets[after], after))
            sys.stdout.write(f"{steps}\n")


def _killed_outs(
    root: Path, before: str | None, killed: dict[str, Page], tasks: dict[str, Page], after: str
) -> Iterator[int]:
    for step in range(1000):
        out = root / f"{before}-{after}-{step}"
        if before is not None:
            shutil.copytree(root / before, out)
        child = os.fork()
        if child == 0:
            _die_before(step)
            run_jobs(write_page, killed, out=out, settings=SETTINGS)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        run_jobs(write_page, tasks, out=out, settings=SETTINGS)
        assert tree(out) == tree(root / after), (before, after, step)
        if status == 0:
            return
        assert status == 9
        yield step


def _die_before(step: int) -> None:
    countdown = iter(range(step))

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(countdown, None) is None:
                os._exit(9)
            return function(*args, **kwargs)

        return call

    os.fsync = dying(os.fsync)
    Path.replace = dying(Path.replace)  # type: ignore[method-assign]
    Path.unlink = dying(Path.unlink)  # type: ignore[method-assign]


if __name__ == "__main__":
    # A background shell starts its children with SIGINT ignored, and jobs leave it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[1] == "every-step":
        die_at_every_step(Path(sys.argv[2]))
    else:
        sys.exit(main(*sys.argv[1:]))
