"""Windows put together so that they can be stacked: by length, and for staging in sequences.

Torch-free. An item is a row of numbers of windows, `[S]`, with S = 1 but for staging.
"""

import numpy as np
from numpy.typing import NDArray

from biofame.store import SignalStore

LONGEST_STEP = 1.5
"""Windows are consecutive when their onsets are less than this many lengths apart."""

Items = NDArray[np.int64]


def groups_of(
    store: SignalStore, rows: NDArray[np.int64], *, context: int = 1, every_start: bool = False
) -> list[Items]:
    """Return items `[n, S]`, a group for each length of windows and of sequences.

    Args:
        store: The store.
        rows: Windows to use.
        context: S, windows of a sequence. What is left of a recording, or one with fewer, makes a
            shorter sequence.
        every_start: Whether sequences begin at every window, as in training, and not only where the
            one before ends.
    """
    if context == 1:
        lengths = store.lengths[rows]
        return [rows[lengths == length][:, None] for length in np.unique(lengths)]
    groups: dict[tuple[int, int], list[Items]] = {}
    for run in consecutive(store, rows):
        for items in _cut(run, context, every_start=every_start):
            key = int(store.lengths[run[0]]), items.shape[1]
            groups.setdefault(key, []).append(items)
    return [np.concatenate(groups[key]) for key in sorted(groups)]


def consecutive(store: SignalStore, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the stretches of windows of a recording, in time, without a gap and of one length."""
    _, recordings = np.unique(store.recordings[rows], return_inverse=True)
    order = np.lexsort((store.onsets[rows], recordings))
    rows, recordings = rows[order], recordings[order]
    lengths, onsets = store.lengths[rows], store.onsets[rows]
    goes_on = (
        (recordings[1:] == recordings[:-1])
        & (lengths[1:] == lengths[:-1])
        & (np.diff(onsets) < LONGEST_STEP * lengths[:-1] / store.info.rate)
    )
    return [run for run in np.split(rows, np.flatnonzero(~goes_on) + 1) if len(run)]


def _cut(run: NDArray[np.int64], context: int, *, every_start: bool) -> list[Items]:
    if len(run) <= context:
        return [run[None]]
    if every_start:
        return [np.lib.stride_tricks.sliding_window_view(run, context)]
    whole = len(run) // context * context
    rest = [run[None, whole:]] if whole < len(run) else []
    return [run[:whole].reshape(-1, context), *rest]
