"""scikit-learn's 1,797 handwritten digits, 8x8 pixels, split by sample.

Batch n is a function of the seed and n alone and the position is the trainer's step, so that a run
resumes exactly and does not depend on the number of ranks.
"""

from collections.abc import Iterator
from functools import lru_cache

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mobileclip.module import DigitBatch
from tenfold.loader import StepLoader

SPLITS = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}
SPLIT_SEED = 0  # not `data.seed`: every run must be measured on the same images


class MobileclipData(lightning.LightningDataModule):
    """Digits as an endless stream of batches.

    Args:
        batch_size: Images of a micro-batch over all ranks.
        seed: Key of the order.
    """

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= batch_size <= len(split_rows("train")):
            raise ValueError(
                f"data.batch_size must lie in 1..{len(split_rows('train'))}, got {batch_size}"
            )
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> StepLoader[DigitBatch]:
        """Return this rank's micro-batches from the trainer's step on."""
        assert self.trainer is not None
        if self.batch_size % self.trainer.world_size:
            raise ValueError(
                f"data.batch_size must be a multiple of the {self.trainer.world_size} ranks, "
                f"got {self.batch_size}"
            )
        stream = DigitStream(
            self.batch_size,
            self.seed,
            start=self.trainer.global_step * self.trainer.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return StepLoader(stream, batch_size=None)

    def val_dataloader(self) -> DataLoader[DigitBatch]:
        """Return this rank's share of the validation images."""
        return self._whole_split("val")

    def test_dataloader(self) -> DataLoader[DigitBatch]:
        """Return this rank's share of the test images."""
        return self._whole_split("test")

    def predict_dataloader(self) -> DataLoader[DigitBatch]:
        """Return what `test_dataloader` returns."""
        return self._whole_split("test")

    def _whole_split(self, split: str) -> DataLoader[DigitBatch]:
        assert self.trainer is not None
        mine = split_rows(split)[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(WholeSplit(read_digits(mine)), batch_size=None)


class DigitStream(IterableDataset[DigitBatch]):
    """Training micro-batches `start, start + 1, ...` of one rank, without end.

    Args:
        batch_size: Images of a micro-batch over all ranks.
        seed: Key of the order.
        start: Number of the first micro-batch.
        rank: This rank, from 0.
        world_size: Number of ranks.
    """

    def __init__(
        self, batch_size: int, seed: int, *, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[DigitBatch]:
        number = self.start
        while True:
            rows = batch_rows(number, self.batch_size, self.seed)
            yield read_digits(rows[self.rank :: self.world_size])
            number += 1


class WholeSplit(Dataset[DigitBatch]):
    """One batch that holds everything.

    Args:
        batch: The batch.
    """

    def __init__(self, batch: DigitBatch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> DigitBatch:
        return self.batch


def batch_rows(number: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of micro-batch `number`; each epoch has an order of its own."""
    train = split_rows("train")
    epoch, position = divmod(number, len(train) // batch_size)
    order = _permutation(len(train), seed, epoch)
    return train[order[position * batch_size : (position + 1) * batch_size]]


def split_rows(split: str) -> NDArray[np.int64]:
    """Return the rows of a split, a fixed random share of all."""
    size = len(_digits()[1])
    first, last = (round(share * size) for share in SPLITS[split])
    return np.sort(_permutation(size, SPLIT_SEED, 0)[first:last])


def read_digits(rows: NDArray[np.int64]) -> DigitBatch:
    """Return images and labels of `rows`."""
    images, labels = _digits()
    return {
        "image": torch.from_numpy(images[rows]),
        "digit": torch.from_numpy(labels[rows]),
        "keys": [f"digit-{row}" for row in rows.tolist()],
    }


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, dtype=np.float32).reshape(-1, 8, 8) / np.float32(16)
    return images, np.asarray(labels, dtype=np.int64)


def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(size)
