"""One global sequence of samples that ranks and workers slice: random access, no hidden state.

Epoch e puts the shards in an order drawn from (seed, e), cuts that order into blocks of
`mix_shards` shards and permutes the samples of each block with a draw from (seed, e, block). Any
position of the endless sequence is found without walking to it, so resume costs nothing and the
numbers of ranks and workers do not matter. Memory is that of two blocks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_SHARDS, _SAMPLES, _SUBSTITUTES = 1, 2, 3
_KEPT = 2


class Place(NamedTuple):
    """One position of the sequence: data epoch, shard number, sample number in the shard."""

    epoch: int
    shard: int
    sample: int


class _Epoch(NamedTuple):
    shards: np.ndarray  # shard numbers in the epoch's order
    block_starts: np.ndarray  # offset in the epoch at which each block begins


class _Block(NamedTuple):
    shards: np.ndarray
    samples: np.ndarray


class GlobalOrder:
    """The endless order of all samples, epoch after epoch."""

    def __init__(
        self, sizes: Sequence[int], *, seed: int, shuffle: bool = True, mix_shards: int = 8
    ) -> None:
        """Prepare the order for shards of `sizes` samples.

        Raises:
            ValueError: `seed` is negative or `mix_shards` below 1.
        """
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}")
        if mix_shards < 1:
            raise ValueError(f"mix_shards must be at least 1, got {mix_shards}")
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.num_samples = int(self.sizes.sum())
        self.seed, self.shuffle, self.mix_shards = seed, shuffle, mix_shards
        self._epochs: dict[int, _Epoch] = {}
        self._blocks: dict[tuple[int, int], _Block] = {}

    def locate(self, position: int) -> Place:
        """Return what stands at an absolute position, counted over all epochs from 0."""
        epoch, offset = divmod(position, self.num_samples)
        starts = self._epoch(epoch).block_starts
        number = int(np.searchsorted(starts, offset, side="right")) - 1
        block = self._block(epoch, number)
        within = offset - int(starts[number])
        return Place(epoch, int(block.shards[within]), int(block.samples[within]))

    def substitutes(self, place: Place) -> list[int]:
        """Return the other samples of the place's shard, in the order in which to try them."""
        size = int(self.sizes[place.shard])
        order = keyed_permutation(size, self.seed, _SUBSTITUTES, *place)
        return [int(sample) for sample in order if sample != place.sample]

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            _drop_oldest(self._epochs)
            shards = np.arange(len(self.sizes))
            if self.shuffle:
                shards = keyed_permutation(len(shards), self.seed, _SHARDS, epoch)
            ends = np.cumsum(self.sizes[shards])
            starts = np.concatenate([[0], ends[:-1]])[:: self.mix_shards]
            self._epochs[epoch] = _Epoch(shards, starts)
        return self._epochs[epoch]

    def _block(self, epoch: int, number: int) -> _Block:
        if (epoch, number) not in self._blocks:
            _drop_oldest(self._blocks)
            first = number * self.mix_shards
            members = self._epoch(epoch).shards[first : first + self.mix_shards]
            sizes = self.sizes[members]
            shards = np.repeat(members, sizes)
            samples = np.concatenate([np.arange(size) for size in sizes])
            if self.shuffle:
                order = keyed_permutation(len(shards), self.seed, _SAMPLES, epoch, number)
                shards, samples = shards[order], samples[order]
            self._blocks[epoch, number] = _Block(shards, samples)
        return self._blocks[epoch, number]


def keyed_permutation(length: int, *key: int) -> np.ndarray:
    """Permute `range(length)` by a key alone.

    Sorts raw Philox output instead of calling `Generator.permutation`, whose stream numpy does not
    promise to keep: a run must resume after an upgrade.
    """
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(bits, kind="stable")


def _drop_oldest(cache: dict[Any, Any]) -> None:
    while len(cache) >= _KEPT:
        del cache[next(iter(cache))]
