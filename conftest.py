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
def signal_handlers() -> Iterator[None]:
    """Give the signals back after each test: processes that a later one forks inherit them.

    A worker that does not die of SIGTERM would keep its pool waiting for ever.
    """
    taken = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in taken}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
