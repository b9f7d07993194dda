"""Batches of windows, read from a store in an order that seed and number alone decide.

Shapes: B windows (or sequences), S windows of a sequence, C channels, L samples, K targets.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from biofame.sequences import Items
from biofame.store import SignalStore
from tenfold import keyed


class WindowBatch(TypedDict):
    """Windows of one length; in sequences all shapes but `keys` have an axis S after B.

    `samples` is float32 `[B, C, L]`, `label` int64 `[B]` (-1: unknown), `target` float32 `[B, K]`
    where the store has targets, `present` bool `[B, C]` where a window lacks a channel. `channels`
    and `rate` are those of all windows; `keys` names them, sequence after sequence.
    """

    samples: Tensor
    label: Tensor
    target: NotRequired[Tensor]
    present: NotRequired[Tensor]
    channels: tuple[str, ...]
    rate: float
    keys: list[str]


class WindowSource(NamedTuple):
    """A store as it is read: some of its channels, perhaps with fewer labels.

    Attributes:
        store: The store.
        columns: Its channels that are read, in their order.
        labels: Labels in the place of the store's, int64 `[n]`.
        in_sequences: Whether batches have the axis S.
    """

    store: SignalStore
    columns: NDArray[np.int64]
    labels: NDArray[np.int64]
    in_sequences: bool

    def read(self, items_BS: Items) -> WindowBatch:
        """Return the windows that items name; all have one length."""
        rows, store = items_BS.ravel(), self.store
        length = int(store.lengths[rows[0]])
        samples = store.samples[rows[:, None], self.columns, :length]
        batch: WindowBatch = {
            "samples": self._shaped(samples, items_BS),
            "label": self._shaped(self.labels[rows], items_BS),
            "channels": tuple(store.info.channels[column] for column in self.columns),
            "rate": store.info.rate,
            "keys": [store.key(row) for row in rows.tolist()],
        }
        if store.targets is not None:
            batch["target"] = self._shaped(store.targets[rows], items_BS)
        present = store.present[rows[:, None], self.columns]
        if not present.all():
            batch["present"] = self._shaped(present, items_BS)
        return batch

    def _shaped(self, values: NDArray[Any], items_BS: Items) -> Tensor:
        lead = items_BS.shape if self.in_sequences else items_BS.shape[:1]
        return torch.from_numpy(np.ascontiguousarray(values).reshape(*lead, *values.shape[1:]))


class WindowStream(IterableDataset[WindowBatch]):
    """Training micro-batches `start, start + 1, ...` of one rank, without end.

    Args:
        source: The windows.
        groups: Items that may share a batch.
        batch_size: Items of a micro-batch over all ranks.
        seed: Key of the order.
        start: Number of the first micro-batch.
        rank: This rank, from 0.
        world_size: Number of ranks.

    Raises:
        ValueError: The batch does not divide among the ranks, or no group has an item for each.
    """

    def __init__(
        self,
        source: WindowSource,
        groups: Sequence[Items],
        batch_size: int,
        seed: int,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                f"data.batch_size must be a multiple of the {world_size} ranks, got {batch_size}"
            )
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size
        self.groups = [group for group in groups if len(group) >= world_size]
        if not self.groups:
            raise ValueError(
                f"there are fewer training windows of one length than the {world_size} ranks"
            )
        self.per_epoch = sum(len(group) // self._size(group) for group in self.groups)

    def __iter__(self) -> Iterator[WindowBatch]:
        epoch, position = divmod(self.start, self.per_epoch)
        while True:
            for items in self._epoch(epoch)[position:]:
                yield self.source.read(items[self.rank :: self.world_size])
            epoch, position = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[Items]:
        """Return the batches of an epoch; what fills no batch is left out, another time others."""
        batches: list[Items] = []
        for number, group in enumerate(self.groups):
            size = self._size(group)
            order = keyed.generator("windows", self.seed, epoch, number).permutation(len(group))
            whole = order[: len(group) // size * size]
            batches += list(group[whole].reshape(-1, size, group.shape[1]))
        order = keyed.generator("batches", self.seed, epoch).permutation(len(batches))
        return [batches[number] for number in order]

    def _size(self, group: Items) -> int:
        return min(self.batch_size, len(group) // self.world_size * self.world_size)


class WholeSplit(Dataset[WindowBatch]):
    """Batches that show every item once, in order.

    Args:
        source: The windows.
        groups: Items that may share a batch.
        batch_size: Items of a batch; the last one of a group may have fewer.
    """

    def __init__(self, source: WindowSource, groups: Sequence[Items], batch_size: int) -> None:
        self.source = source
        self.batches = [
            group[first : first + batch_size]
            for group in groups
            for first in range(0, len(group), batch_size)
        ]

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.batches)

    def __getitem__(self, number: int) -> WindowBatch:
        return self.source.read(self.batches[number])


def share_of_rank(groups: Sequence[Items], *, rank: int, world_size: int) -> list[Items]:
    """Return the items of one rank: each has the same number of all groups together, within one."""
    shares: list[Items] = []
    before = 0
    for group in groups:
        shares.append(group[(rank - before) % world_size :: world_size])
        before += len(group)
    return [share for share in shares if len(share)]
