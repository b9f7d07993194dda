"""Settings of every test session: offline, a private cache, one thread a process.

They stand in the environment, so that subprocesses have them too, and before any test module
imports torch, which reads its thread count at import.
"""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share few cores
os.environ.setdefault("MKL_NUM_THREADS", "1")

if "TENFOLD_CACHE" not in os.environ:
    os.environ["TENFOLD_CACHE"] = tempfile.mkdtemp(prefix="tenfold-test-cache-")
    atexit.register(shutil.rmtree, os.environ["TENFOLD_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own debugging switch out of tests of error messages."""
    monkeypatch.delenv("TENFOLD_DEBUG", raising=False)


@pytest.fixture(autouse=True)
def _signals_given_back() -> Iterator[None]:
    """Fail a test that leaves its signal handler: what a later one forks would inherit it.

    A worker that does not die of SIGTERM keeps its pool waiting for ever.
    """
    taken = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in taken]
    yield
    after = [signal.getsignal(number) for number in taken]
    for number, handler in zip(taken, before, strict=True):
        if handler is not None:
            signal.signal(number, handler)
    assert after == before, f"handlers of SIGINT and SIGTERM were {before}, the test left {after}"
