"""Batches of cached features: what h is trained on.

Batch n is a function of the seed and n alone and the position is the trainer's step, so that a run
resumes exactly and does not depend on the number of ranks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fastfill.feature_cache import FeatureCache, read_cache
from tenfold import keyed
from tenfold.loader import StepLoader


class PairBatch(TypedDict):
    """Embeddings `[B, d_o]` and `[B, d_n]` of the same views, classes `[B]` (-1: unknown).

    `side` is `[B, d_s]` where there is side information.
    """

    old: Tensor
    new: Tensor
    side: NotRequired[Tensor]
    label: Tensor
    keys: list[str]


class PairData(lightning.LightningDataModule):
    """Cached features as an endless stream of batches.

    Each epoch shows every item once, in one of its views; the views of an item take turns.

    Args:
        path: Folder that `cache-features` made of the training data.
        val: Another of held-out data, with the same models; none to measure on `path`.
        batch_size: Items of a micro-batch over all ranks.
        seed: Key of order and views.
        prepare: Options of the verb `demo-data`, which makes the features where they are not there.
    """

    cache: FeatureCache
    val: FeatureCache

    def __init__(
        self,
        path: Path,
        val: Path | None = None,
        batch_size: int = 1024,
        seed: int = 0,
        prepare: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise ValueError(f"data.batch_size must be >= 2, got {batch_size}")
        self.path, self.val_path, self.batch_size, self.seed = path, val, batch_size, seed
        self.prepare_options = prepare

    def prepare_data(self) -> None:
        """Make the demo's features if `prepare` says how; one process does it."""
        if self.prepare_options is not None:
            from fastfill.demo_data import demo_data  # trains, which other data do not need

            demo_data(**self.prepare_options)

    def setup(self, stage: str) -> None:
        """Open the features.

        Raises:
            FileNotFoundError: They are not there.
            ValueError: They are damaged, too few, or not of the same models.
        """
        self.cache = read_cache(self.path)
        self.val = self.cache if self.val_path is None else read_cache(self.val_path)
        if self.val.cards != self.cache.cards:
            raise ValueError(
                f"data.val {self.val_path} was made with other models than data.path {self.path}"
            )
        if self.batch_size > len(self.cache):
            raise ValueError(
                f"data.batch_size must lie in 2..{len(self.cache)}, the items of {self.path}, "
                f"got {self.batch_size}"
            )

    def train_dataloader(self) -> StepLoader[PairBatch]:
        """Return this rank's micro-batches from the trainer's step on."""
        assert self.trainer is not None
        if self.batch_size % self.trainer.world_size:
            raise ValueError(
                f"data.batch_size must be a multiple of the {self.trainer.world_size} ranks, "
                f"got {self.batch_size}"
            )
        stream = PairStream(
            self.cache,
            self.batch_size,
            self.seed,
            start=self.trainer.global_step * self.trainer.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return StepLoader(stream, batch_size=None)

    def val_dataloader(self) -> DataLoader[PairBatch]:
        """Return the held-out items, all of them on every rank: they are ranked as a whole."""
        return DataLoader(HeldOut(self.val, self.batch_size), batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader


class PairStream(IterableDataset[PairBatch]):
    """Training micro-batches `start, start + 1, ...` of one rank, without end.

    Args:
        cache: The features.
        batch_size: Items of a micro-batch over all ranks; the rest of an epoch is left out.
        seed: Key of the order.
        start: Number of the first micro-batch.
        rank: This rank, from 0.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        cache: FeatureCache,
        batch_size: int,
        seed: int,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.cache, self.batch_size, self.seed = cache, batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    def __iter__(self) -> Iterator[PairBatch]:
        per_epoch = len(self.cache) // self.batch_size
        epoch, position = divmod(self.start, per_epoch)
        while True:
            order = keyed.generator("pairs", self.seed, epoch).permutation(len(self.cache))
            for number in range(position, per_epoch):
                first = number * self.batch_size
                rows = order[first : first + self.batch_size][self.rank :: self.world_size]
                yield read_pairs(self.cache, rows, self._views(rows, epoch))
            epoch, position = epoch + 1, 0

    def _views(self, rows: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        views = self.cache.num_views
        first = keyed.generator("views", self.seed).integers(views, size=len(self.cache))
        return (first[rows] + epoch) % views


class HeldOut(Dataset[PairBatch]):
    """Batches that show every item once, in its order and first view.

    Args:
        cache: The features.
        batch_size: Items of a batch; the last one may have fewer.
    """

    def __init__(self, cache: FeatureCache, batch_size: int) -> None:
        self.cache, self.batch_size = cache, batch_size

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.cache) // self.batch_size)

    def __getitem__(self, number: int) -> PairBatch:
        first = number * self.batch_size
        rows = np.arange(first, min(first + self.batch_size, len(self.cache)))
        return read_pairs(self.cache, rows, 0)


def read_pairs(
    cache: FeatureCache, rows: NDArray[np.int64], views: NDArray[np.int64] | int
) -> PairBatch:
    """Return items as a batch."""
    pairs = cache.rows(rows, views)
    batch: PairBatch = {
        "old": torch.from_numpy(pairs.old),
        "new": torch.from_numpy(pairs.new),
        "label": torch.from_numpy(pairs.labels),
        "keys": [cache.ids[row] for row in rows],
    }
    if pairs.side is not None:
        batch["side"] = torch.from_numpy(pairs.side)
    return batch
