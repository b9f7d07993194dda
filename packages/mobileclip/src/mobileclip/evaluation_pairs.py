"""Held-out pairs, each once and without chance: whole images, first captions.

Not here: the measures (`module.py`).
"""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mobileclip.pairs import Pair, pair_schema
from mobileclip.reader import PairBatch
from mobileclip.reader_config import ReaderConfig
from mobileclip.tokenizer import tokenize
from tenfold.augment.config import AugmentConfig
from tenfold.augment.params import ViewParams
from tenfold.augment.pipeline import Augment
from tenfold.shards import LocalSource, ShardError, ShardIndex, TarMembers

_OPEN_SHARDS = 8


class EvaluationPairs(Dataset[PairBatch]):
    """One rank's batches, over which all pairs are spread once, as evenly as can be.

    A batch has `image`, `tokens` and `keys` as in `reader.PairBatch`, and `synthetic_tokens` where
    the pairs have synthetic captions. All ranks have the same number of batches.

    Args:
        index: The shards.
        config: Image size, context length and keys of synthetic captions.
        synthetic: Whether the pairs have synthetic captions; see `has_synthetic`.
        batch_size: Most pairs of a batch on one rank.
        rank: This rank, from 0.
        world_size: Number of ranks.

    Raises:
        FileNotFoundError: Shards of the index are missing.
        ValueError: There are fewer pairs than ranks.
    """

    def __init__(
        self,
        index: ShardIndex,
        config: ReaderConfig,
        *,
        synthetic: bool = False,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if index.num_samples < world_size:
            raise ValueError(f"{index.num_samples} pairs are too few for {world_size} ranks")
        self.source = LocalSource(index)
        self.config = config
        self.synthetic = synthetic
        self.schema = pair_schema(_plain(config, synthetic=synthetic))
        self.augment = evaluation_augment(config.image_size)
        self._starts = np.cumsum([0, *(entry.num_samples for entry in index.entries)])
        self._batches = _spread(index.num_samples, batch_size, rank=rank, world_size=world_size)
        self._open: OrderedDict[int, TarMembers] = OrderedDict()

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> PairBatch:
        """Return one batch.

        Raises:
            ShardError: A pair is damaged; held-out data are not skipped over.
        """
        pairs = [self._pair(position) for position in self._batches[number]]
        images = [self.augment.apply(pair.image, ViewParams()) for pair in pairs]
        length = self.config.context_length
        batch: PairBatch = {
            "image": torch.stack(images),
            "tokens": tokenize([pair.captions[0] for pair in pairs], context_length=length),
            "keys": [pair.key for pair in pairs],
        }
        if self.synthetic:
            texts = [next(iter(pair.synthetic.values()))[0] for pair in pairs]
            batch["synthetic_tokens"] = tokenize(texts, context_length=length)
        return batch

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}

    def _pair(self, position: int) -> Pair:
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        members = self._members(shard)
        key = members.keys[position - int(self._starts[shard])]
        try:
            return self.schema.read(members, key)["pair"]
        except ShardError as error:
            raise ShardError(
                f"{members.path}: sample {key!r} of the held-out data: {error}; leave it out of "
                "the shard"
            ) from error

    def _members(self, shard: int) -> TarMembers:
        if shard not in self._open:
            self._open[shard] = TarMembers(self.source.path(self.source.index.entries[shard]))
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[shard]


def evaluation_augment(size: int) -> Augment:
    """Return the transform of evaluation: shorter side to `size`, bilinear, and the centre cut."""
    return Augment(AugmentConfig(size=size, resize=size, crop="center", flip=0.0))


def has_synthetic(index: ShardIndex) -> bool:
    """Return whether the first pair of the shards has synthetic captions."""
    members = TarMembers(LocalSource(index).path(index.entries[0]))
    found = "syn.json" in members.extensions(members.keys[0])
    members.close()
    return found


def _plain(config: ReaderConfig, *, synthetic: bool) -> ReaderConfig:
    return ReaderConfig(
        mode="clip",
        captions="both" if synthetic else "real",
        image_size=config.image_size,
        context_length=config.context_length,
        synthetic_keys=config.synthetic_keys,
    )


def _spread(count: int, batch_size: int, *, rank: int, world_size: int) -> list[range]:
    parts = min(-(-count // (batch_size * world_size)), count // world_size) * world_size
    edges = [part * count // parts for part in range(parts + 1)]
    return [range(edges[part], edges[part + 1]) for part in range(rank, parts, world_size)]
