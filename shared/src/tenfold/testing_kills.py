"""For tests: run a function in a process that dies, without clean-up, at its n-th disk change."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.sharedctypes import Synchronized
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def run_killed(
    function: Callable[..., object], *args: Any, kill_at: int, preload: Sequence[str] = ()
) -> int:
    """Call `function(*args)` in a process that kills itself at change `kill_at`, never for 0.

    Args:
        function: At the top level of an importable module.
        args: Are pickled.
        kill_at: Counts renames, removals, new folders and files opened for writing.
        preload: Modules that are imported once for all such processes.

    Returns:
        The number of changes up to there.

    Raises:
        RuntimeError: The process did not die as it should, or for 0 it failed.
    """
    # Forked from a server that has loaded torch once and has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    seen: Synchronized[int] = context.Value("i", 0)
    process = context.Process(target=_work, args=(function, args, kill_at, seen))
    process.start()
    process.join()
    expected = -signal.SIGKILL if kill_at else 0
    if process.exitcode != expected:
        raise RuntimeError(f"exit code {process.exitcode}, expected {expected}")
    return seen.value


def _work(
    function: Callable[..., object],
    args: tuple[Any, ...],
    kill_at: int,
    seen: "Synchronized[int]",
) -> None:
    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and _writes(values[1])):
            seen.value += 1
            if seen.value == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    function(*args)


def _writes(mode: Any) -> bool:
    return isinstance(mode, str) and bool(set(mode) & set("wax+"))
