"""Where jobs run: this process, a pool of spawned processes, or Ray.

Each backend takes calls lazily, keeps a bounded number in flight and yields `(call, outcome)` as
they end. Closing a backend's iterator, or any error in it, stops the running jobs.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tenfold.jobs.work import Call, Failed, Outcome, perform

Function = Callable[[Any, Path], object]
Outcomes = Generator[tuple[Call, Outcome], None, None]

# Two per worker: the next job is there when one ends, and little is lost on a stop.
IN_FLIGHT_PER_WORKER = 2
THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class WorkerDiedError(Exception):
    """A pool process ended without an answer."""


def in_process(function: Function, calls: Iterable[Call]) -> Outcomes:
    """Run jobs one after the other, here."""
    for call in calls:
        yield call, perform(function, call)


def in_pool(function: Function, calls: Iterable[Call], *, workers: int) -> Outcomes:
    """Run jobs in `workers` spawned processes with one computing thread each.

    Raises:
        WorkerDiedError: A worker was killed; every job that ended before was yielded.
    """
    ear, lifeline = multiprocessing.get_context("spawn").Pipe(duplex=False)
    running: dict[Future[Outcome], Call] = {}
    with _one_thread_per_child():
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(ear,),
        )
        try:
            for call in calls:
                while len(running) >= IN_FLIGHT_PER_WORKER * workers:
                    yield from _ended(running)
                running[pool.submit(perform, function, call)] = call
            while running:
                yield from _ended(running)
        except BrokenProcessPool as error:
            for future, call in running.items():
                if future.exception() is None:
                    yield call, future.result()
            raise WorkerDiedError from error
        except BaseException:
            lifeline.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            lifeline.close()
            ear.close()


def on_ray(function: Function, calls: Iterable[Call], *, address: str, workers: int) -> Outcomes:
    """Run each job as a remote task; every node must see the output folder under the same path.

    `address="local"` starts a Ray of `workers` CPUs on this machine. A Ray that is already
    connected is used as it is and left running.

    Raises:
        ImportError: Ray is not installed.
    """
    ray = _import_ray()
    with _connected(ray, address, workers):
        remote = ray.remote(max_retries=0)(perform)
        shared_function = ray.put(function)
        slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: dict[Any, Call] = {}
        try:
            for call in calls:
                while len(running) >= IN_FLIGHT_PER_WORKER * slots:
                    yield _ended_on_ray(ray, running)
                running[remote.remote(shared_function, call)] = call
            while running:
                yield _ended_on_ray(ray, running)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _ended(running: "dict[Future[Outcome], Call]") -> Outcomes:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        outcome = future.result()
        yield running.pop(future), outcome


def _start_worker(ear: Connection) -> None:
    # Ctrl-C reaches the whole process group: the parent decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if ear.poll():  # gone already: begin no job
        os._exit(1)
    threading.Thread(target=_end_with_parent, args=(ear,), daemon=True).start()


def _end_with_parent(ear: Connection) -> None:
    """Leave at once when the parent closes its end, be it by a stop or by a SIGKILL."""
    ear.poll(None)
    os._exit(1)


@contextmanager
def _one_thread_per_child() -> Generator[None]:
    # In the environment, since numerical libraries read it when a child first imports them, which
    # can be before any initialiser runs.
    before = {name: os.environ.get(name) for name in THREAD_LIMITS}
    os.environ.update(dict.fromkeys(THREAD_LIMITS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _import_ray() -> Any:
    # Under `uv run` Ray would copy the working folder to every worker and build an environment
    # there; the nodes share the file system already.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "running jobs on Ray needs the extra tenfold[ray]: install it or drop the Ray address"
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str, workers: int) -> Generator[None]:
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(address=address, **own)
    # Ray takes SIGTERM for itself and would exit here without a clean stop.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _ended_on_ray(ray: Any, running: dict[Any, Call]) -> tuple[Call, Outcome]:
    (reference, *_), _ = ray.wait(list(running), num_returns=1)
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        # Of a remote traceback the last line names the error, of Ray's own errors the first.
        last = -1 if isinstance(error, ray.exceptions.RayTaskError) else 0
        line = str(error).strip().splitlines()[last]
        outcome = Failed(f"{type(error).__name__}: {line}", str(error))
    return running.pop(reference), outcome
