"""Steps left out of a plan, as half-open ranges: those of a loss spike, for example."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Range = tuple[int, int]


def skip_mask(ranges: Iterable[Range], length: int) -> NDArray[np.bool_]:
    """Mark the steps that the ranges hold, bool[length]; they may overlap.

    Raises:
        ValueError: A range is empty or reaches beyond the plan.
    """
    mask = np.zeros(length, dtype=np.bool_)
    for first, end in ranges:
        if not 0 <= first < end:
            raise ValueError(
                f"the range {first}:{end} holds no step; {first}:{first + 1} is one step"
            )
        if end > length:
            raise ValueError(f"the range {first}:{end} reaches beyond the plan's {length} steps")
        mask[first:end] = True
    return mask


def ranges_of(mask: NDArray[np.bool_]) -> tuple[Range, ...]:
    """Return the ranges that a mask marks, in order and apart from each other."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return tuple((first, end) for first, end in edges.reshape(-1, 2).tolist())


def written(ranges: Iterable[Range]) -> str:
    """Write ranges as a user gives them: `5:8, 12:13`."""
    return ", ".join(f"{first}:{end}" for first, end in ranges)


def check_same_until(end: int, saved: Iterable[Range], current: Iterable[Range]) -> None:
    """Check that a run may go on with other ranges: they must not differ in its past.

    Args:
        end: Steps of the plan that lie behind the run.
        saved: What it has left out, or was to leave out later.
        current: What it is to leave out now.

    Raises:
        ValueError: A step that was trained is to be left out, or the other way round.
    """
    before, now = (_clipped(ranges, end) for ranges in (saved, current))
    if trained := ranges_of(now & ~before):
        raise ValueError(
            f"steps {written(trained)} are trained already, the checkpoint stands at step {end} of "
            f"the plan; to leave them out, resume from a checkpoint of step {trained[0][0]} or "
            "earlier"
        )
    if missing := ranges_of(before & ~now):
        raise ValueError(
            f"the run has left out steps {written(missing)}, which cannot be undone; keep them"
        )


def _clipped(ranges: Iterable[Range], end: int) -> NDArray[np.bool_]:
    return skip_mask(((a, min(b, end)) for a, b in ranges if a < end), end)
