"""Drive a set of jobs: skip what is finished, run the rest anywhere, publish, report failures."""

import logging
import pickle
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from tenfold.jobs.backends import Outcomes, WorkerDiedError, in_pool, in_process, on_ray
from tenfold.jobs.marks import canonical, fingerprint
from tenfold.jobs.progress import JobProgress
from tenfold.jobs.store import JobError, JobStore
from tenfold.jobs.work import Call, Done, Failed, Outcome

logger = logging.getLogger(__name__)

T = TypeVar("T")
KEY = re.compile(r"(?!\.)(?!.*\.\.)[A-Za-z0-9._-]{1,200}")
TITLE = re.compile(r"[A-Za-z0-9_-]{1,100}")
NAMED_AT_MOST = 10


def run_jobs(
    function: Callable[[T, Path], object],
    tasks: Mapping[str, T],
    *,
    out: Path,
    settings: Mapping[str, Any],
    workers: int = 1,
    ray_address: str | None = None,
    title: str = "jobs",
) -> dict[str, Any]:
    """Run `function(task, folder)` once per task; a rerun does only what is missing.

    Each job writes a tree of files into its own empty `folder`. When it has returned, the files are
    moved to the same relative paths below `out`, and last of all the mark
    `out/.jobs/<title>/<key>.json` is written (settings, fingerprint of the task, size and SHA-256
    of each file, result). A later run skips the jobs whose mark and files are intact, which it
    checks by reading the files, and redoes the others; files of a job whose task changed are
    removed at its start. After a kill at any moment a rerun gives the same bytes as an undisturbed
    run, for any number of workers.

    Ctrl-C and SIGTERM stop the running jobs and raise `KeyboardInterrupt` (the signal number is its
    argument); finished jobs stay. A failing job lets the others finish; a full disk does not.

    Args:
        function: Makes one job's files and returns a JSON value. It must be deterministic, also in
            the number of threads, and for more than one worker importable in a fresh process.
        tasks: Key (letters, digits, `.`, `_`, `-`) to task. Tasks are made of JSON values, tuples,
            paths and dataclasses.
        out: Output folder; jobs of one title must not share a path in it.
        settings: Whatever else shapes the files, such as a version; jobs made with other settings
            are refused.
        workers: 1 runs in this process, more in that many spawned processes of one thread each.
        ray_address: Run on Ray instead: `local` starts one of `workers` CPUs, any other address
            uses that cluster's CPUs, all of whose nodes must see `out` under the same path.
        title: Name of this set of jobs below `out` and on the progress bar.

    Returns:
        The results in the order of `tasks`.

    Raises:
        ValueError: A malformed key, title, task, setting or number of workers, or `out` holds jobs
            made with other settings (the message shows the differences).
        JobError: Jobs failed or a worker died (the message names the jobs), `out` cannot be
            written, or another run is at work there.
        ImportError: Ray is not installed.
    """
    _check(function, tasks, workers=workers, ray_address=ray_address, title=title)
    fingerprints = {key: fingerprint(task, f"task {key!r}") for key, task in tasks.items()}
    store = JobStore(Path(out).resolve(), title, canonical(settings, "settings"))
    failures: dict[str, Failed] = {}
    with store.locked(), _signals_interrupt(), JobProgress(title, len(tasks)) as progress:
        store.keep_only_unchanged(fingerprints)
        calls = _unfinished_calls(tasks, store, progress)
        with closing(_start(function, calls, workers, ray_address)) as outcomes:
            try:
                for call, outcome in outcomes:
                    failed = _settle(store, call, outcome, fingerprints[call.key])
                    if failed is not None:
                        failures[call.key] = failed
                    progress.step(failed=failed is not None)
            except WorkerDiedError as error:
                raise _died(store, tasks) from error
    if failures:
        raise _failed(failures, title, len(tasks))
    return {key: store.marks[key].result for key in tasks}


def _check(
    function: Callable[[T, Path], object],
    tasks: Mapping[str, T],
    *,
    workers: int,
    ray_address: str | None,
    title: str,
) -> None:
    if not TITLE.fullmatch(title):
        raise ValueError(f"title is {title!r}, expected 1-100 of A-Z a-z 0-9 _ -: rename it")
    for key in tasks:
        if not KEY.fullmatch(key):
            raise ValueError(
                f"job key {key!r} is refused, expected 1-200 of A-Z a-z 0-9 . _ - without a "
                "leading dot and without '..': rename it"
            )
    if workers < 1:
        raise ValueError(f"workers is {workers}, expected at least 1")
    if workers > 1 and ray_address is None:
        try:
            pickle.dumps((function, list(tasks.values())))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"the jobs cannot be sent to worker processes ({error}): define their function "
                "and task class at the top level of a module, or use workers=1"
            ) from error


def _start(
    function: Callable[[T, Path], object],
    calls: Iterator[Call],
    workers: int,
    ray_address: str | None,
) -> Outcomes:
    if ray_address is not None:
        return on_ray(function, calls, address=ray_address, workers=workers)
    if workers > 1:
        return in_pool(function, calls, workers=workers)
    return in_process(function, calls)


def _unfinished_calls(
    tasks: Mapping[str, Any], store: JobStore, progress: JobProgress
) -> Iterator[Call]:
    """Yield what is to be done; finished jobs are checked here, while workers are busy."""
    for key, task in tasks.items():
        if store.is_finished(key):
            progress.step()
        else:
            yield Call(key, task, store.new_work_folder())


def _settle(store: JobStore, call: Call, outcome: Outcome, task: str) -> Failed | None:
    """Publish a job or return why it failed; stop everything when `out` cannot be written."""
    failed: Failed
    try:
        if isinstance(outcome, Done):
            store.publish(call, outcome, task)
            return None
        if outcome.storage_full:
            raise OSError(outcome.reason)
        failed = outcome
        # The error at the end repeats what was explained; a traceback would only bury it.
        level = logging.DEBUG if failed.explained else logging.ERROR
        details = failed.traceback or failed.reason
        logger.log(level, "%s: %s failed\n%s", store.title, call.key, details)
    except OSError as error:
        raise JobError(
            f"job {call.key!r} could not write below {store.out} ({error}): "
            "make room or allow writing, then run again; finished jobs stay"
        ) from error
    except ValueError as error:
        failed = Failed(str(error))
        logger.error("%s: %s failed: %s", store.title, call.key, failed.reason)
    finally:
        store.remove_work_folder(call.folder)
    return failed


def _died(store: JobStore, tasks: Mapping[str, Any]) -> JobError:
    unfinished = [key for key in tasks if key not in store.marks]
    return JobError(
        f"a worker process of {store.title!r} died, most often for lack of memory; unfinished: "
        f"{_some(unfinished)}; run again with fewer workers, finished jobs stay"
    )


def _failed(failures: Mapping[str, Failed], title: str, total: int) -> JobError:
    reasons = [f"{key} ({failed.reason})" for key, failed in failures.items()]
    explained = all(failed.explained for failed in failures.values())
    remedy = "mend that, then run again" if explained else "run again"
    return JobError(
        f"{len(failures)} of {total} jobs of {title!r} failed: {_some(reasons)}; "
        f"{remedy} to redo only these"
    )


def _some(names: list[str]) -> str:
    rest = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


@contextmanager
def _signals_interrupt() -> Generator[None]:
    """Raise `KeyboardInterrupt` on SIGINT and SIGTERM, whatever the caller does with them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # An ignored signal stays ignored: that is what nohup and background shells ask for.
    taken = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
