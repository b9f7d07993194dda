"""How many loader processes are started."""

import logging
import os
from functools import cache

logger = logging.getLogger(__name__)


def usable_workers(wanted: int, *, option: str = "data.workers") -> int:
    """Return `wanted`, or as many as there are processors, and say so once.

    Nothing that is read depends on the number of workers.

    Args:
        wanted: Loader processes of the options.
        option: How the user spells it.
    """
    available = processors()
    if wanted <= available:
        return wanted
    _note(wanted, available, option)
    return available


def processors() -> int:
    """Return the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _note(wanted: int, available: int, option: str) -> None:
    logger.warning(
        "%s is %d, this process has %d processors: %d are started",
        *(option, wanted, available, available),
    )
