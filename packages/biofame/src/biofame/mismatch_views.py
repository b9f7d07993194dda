"""Test windows as a model did not see them in training: fewer or other channels, length, rate.

Torch only for the batches that a model takes; the windows are changed as NumPy arrays.

Shapes: B windows, C channels, L samples, R windows joined in time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from biofame.data import WindowBatch, WindowSource
from biofame.sequences import Items, consecutive
from biofame.signals import modality, resample
from biofame.store import SignalStore

MOST_SENSORS = 10
"""Of more, there are too many subsets to test (2^10 - 1 are 1,023)."""


def all_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all 2^M - 1 subsets but the empty one, the largest first, each in the given order.

    Raises:
        ValueError: There are too many names.
    """
    if len(names) > MOST_SENSORS:
        raise ValueError(
            f"{len(names)} channels have {2 ** len(names) - 1} subsets, too many to test: group "
            f"them (by modality), or name what to drop; at most {MOST_SENSORS} are taken"
        )
    return [subset for size in range(len(names), 0, -1) for subset in combinations(names, size)]


def sensors_of(channels: Sequence[str], *, by_modality: bool) -> dict[str, tuple[str, ...]]:
    """Return the channels of each sensor: each channel alone, or those of a kind together.

    A kind is what `signals.modality` tells from the name, or the name's first word.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for name in channels:
        kind = modality(name)
        if kind == "other":
            kind = name.partition("_")[0]
        sensor = kind if by_modality else name
        groups[sensor] = (*groups.get(sensor, ()), name)
    return groups


@dataclass(frozen=True)
class View:
    """Windows of a store as they are handed to a model.

    Attributes:
        source: What reads the store's channels.
        names: What the model is told that they are; their own names by default.
        factor: Length of a window in lengths as recorded.
        rate: Samples per second that windows are resampled to; as recorded by default.
        kept: Which channels a model is to have, `[C]`; the others are marked as absent.
        chains: With a `factor` above 1: the windows that follow each window, `extend`'s.
    """

    source: WindowSource
    names: tuple[str, ...] | None = None
    factor: float = 1.0
    rate: float | None = None
    kept: NDArray[np.bool_] | None = None
    chains: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def store(self) -> SignalStore:
        """Where the windows come from."""
        return self.source.store

    def read(self, items_BS: Items) -> WindowBatch:
        """Return the windows that items name, changed."""
        batch = self.source.read(items_BS)
        length = round(self.factor * batch["samples"].shape[-1])
        if self.factor > 1:
            batch["samples"] = torch.from_numpy(self._longer(items_BS[:, 0], length))
        elif self.factor < 1:
            first = (batch["samples"].shape[-1] - length) // 2
            batch["samples"] = batch["samples"][..., first : first + length].contiguous()
        if self.rate is not None:
            changed = resample(batch["samples"].numpy(), rate=batch["rate"], wanted=self.rate)
            batch["samples"], batch["rate"] = torch.from_numpy(changed), self.rate
        if self.names is not None:
            batch["channels"] = self.names
        if self.kept is not None:
            there = self.store.present[items_BS[..., None], self.source.columns] & self.kept
            if not self.source.in_sequences:
                there = there[:, 0]
            batch["present"] = torch.from_numpy(there)
        return batch

    def _longer(self, rows_B: NDArray[np.int64], length: int) -> NDArray[np.float32]:
        assert self.chains is not None
        store, columns = self.store, self.source.columns
        own = int(store.lengths[rows_B[0]])
        parts = [
            store.samples[rows[:, None], columns, :own].swapaxes(0, 1).reshape(len(columns), -1)
            for rows in self.chains[rows_B]
        ]
        return np.stack(parts)[..., :length]


@dataclass(frozen=True)
class Extension:
    """How windows are made longer.

    Attributes:
        chains: int64 `[store, R]`, the windows that are put one after the other for each window of
            the store: those that follow it, or itself again.
        joined: Number of windows that others follow.
        tiled: Number of windows that are repeated instead.
    """

    chains: NDArray[np.int64]
    joined: int
    tiled: int


def extend(source: WindowSource, rows: NDArray[np.int64], factor: float) -> Extension:
    """Find for each window those that follow it without a gap and have its label and channels.

    Where there are not enough of them the window itself is repeated.

    Args:
        source: Reads the store.
        rows: Windows that are tested; only they are joined.
        factor: Length wanted, in windows.
    """
    store, repeats = source.store, int(np.ceil(factor))
    chains = np.repeat(np.arange(len(store))[:, None], repeats, axis=1)
    joined = 0
    for run in consecutive(store, rows):
        for first in range(len(run) - repeats + 1):
            chain = run[first : first + repeats]
            if _alike(source, chain):
                chains[chain[0]] = chain
                joined += 1
    return Extension(chains, joined, len(rows) - joined)


def _alike(source: WindowSource, rows: NDArray[np.int64]) -> bool:
    store = source.store
    same = (store.labels[rows] == store.labels[rows[0]]).all()
    if store.targets is not None:
        same &= (store.targets[rows] == store.targets[rows[0]]).all()
    present = store.present[np.ix_(rows, source.columns)]
    return bool(same and (present == present[0]).all())


def shorter_or_longer(
    view: View, rows: NDArray[np.int64], factor: float, *, patch: int
) -> tuple[View, str]:
    """Return a view of another length and how it is made, in words.

    Raises:
        ValueError: Windows would be shorter than a patch, or the factor is not positive.
    """
    shortest = int(view.store.lengths[rows].min())
    if not 0 < factor < np.inf or round(factor * shortest) < patch:
        raise ValueError(
            f"lengths must leave a patch of {patch} samples or more of {shortest}, got {factor:g}"
        )
    if factor < 1:
        return replace(view, factor=factor), "cut from the middle"
    if factor == 1:
        return view, "as recorded"
    made = extend(view.source, rows, factor)
    how = f"{made.joined} joined to the windows that follow, {made.tiled} repeated"
    return replace(view, factor=factor, chains=made.chains), how
