"""How fast a backfill gets on: a few moments and how many items were done by then.

Kept beside the columns, which hold no times: an interrupted backfill ends in the same bytes.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tenfold import atomic

PROGRESS = "progress.json"
_MOMENTS, _APART_S, _PAUSE_S = 60, 1.0, 120.0


class Speed(NamedTuple):
    """Items a second of late, and the moment it was measured last."""

    rate: float
    at: float


def note_progress(folder: Path, count: Callable[[], int], *, now: float) -> None:
    """Add a moment, at most one a second; `count` gives the number of items done."""
    moments = _read(folder)
    if moments and 0 <= now - moments[-1][0] < _APART_S:
        return
    moments = [*moments, (now, count())][-_MOMENTS:]
    atomic.write_json(folder / PROGRESS, moments)


def speed(folder: Path, *, now: float | None = None) -> Speed | None:
    """Return the late speed; None before there are two moments or long after the last.

    Only moments since the last pause or roll-back count.
    """
    moments = _read(folder)
    now = time.time() if now is None else now
    if not moments or now - moments[-1][0] > _PAUSE_S:
        return None
    run = moments[-1:]
    for moment in reversed(moments[:-1]):
        if run[0][0] - moment[0] > _PAUSE_S or moment[1] > run[0][1]:
            break
        run.insert(0, moment)
    seconds = run[-1][0] - run[0][0]
    return Speed((run[-1][1] - run[0][1]) / seconds, run[-1][0]) if seconds > 0 else None


def _read(folder: Path) -> list[tuple[float, int]]:
    """Return the moments; none where the file is absent or damaged: it is only a measurement."""
    try:
        value = json.loads((folder / PROGRESS).read_bytes())
        return [(float(at), int(done)) for at, done in value]
    except (FileNotFoundError, TypeError, ValueError):
        return []
