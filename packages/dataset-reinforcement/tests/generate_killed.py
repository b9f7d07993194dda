"""Generate a store in a forked process that dies, without clean-up, at the n-th change on disk."""

import multiprocessing
import os
import signal
import sys
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from teacher_files import OPTIONS

from dataset_reinforcement.generate import generate
from dataset_reinforcement.teacher_config import TeacherConfig

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def run(images: Path, out: Path, teacher: TeacherConfig, number: int, *, append: bool) -> int:
    """Generate in a process that dies at change `number`, never for 0.

    Returns:
        The number of changes of a whole run; raises when it did not die as it should.
    """
    # Forked from a server that has loaded torch once and has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dataset_reinforcement.generate"])
    seen: Synchronized[int] = context.Value("i", 0)
    process = context.Process(target=_work, args=(images, out, teacher, number, append, seen))
    process.start()
    process.join()
    expected = -signal.SIGKILL if number else 0
    if process.exitcode != expected:
        raise RuntimeError(f"exit code {process.exitcode}, expected {expected}")
    return seen.value


def _work(
    images: Path,
    out: Path,
    teacher: TeacherConfig,
    number: int,
    append: bool,
    seen: "Synchronized[int]",
) -> None:
    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and _writes(args[1])):
            seen.value += 1
            if seen.value == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    generate(str(images), out, teacher, append=append, **OPTIONS)


def _writes(mode: Any) -> bool:
    return isinstance(mode, str) and bool(set(mode) & set("wax+"))
