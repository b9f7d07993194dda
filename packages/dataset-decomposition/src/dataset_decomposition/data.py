"""Batches of one bucket at a time from a prepared data set, and its held-out documents.

Which bucket a step uses and which rows each rank takes is `tenfold.bucketing`'s plan, made from the
data set's counts and the run's length; the position in it is the trainer's step, so a run resumes
in mid-cycle with other numbers of ranks, micro-batches or workers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from dataset_decomposition.mixture import Mixture, apportion, step_shares
from dataset_decomposition.module import DocumentBatch, TrainBatch
from dataset_decomposition.records import BucketReader, open_dataset
from tenfold.bucketing import (
    Bucket,
    BucketPlan,
    BucketStream,
    Curriculum,
    assert_lockstep,
)


class DecompositionData(lightning.LightningDataModule):
    """A prepared data set as a stream of batches.

    Args:
        path: Folder that `prepare` wrote.
        tokens_per_step: Trained tokens of one optimiser step over all ranks and micro-batches.
        total_steps: Length of the run; follows `trainer.max_steps`.
        curriculum: `uniform`, `natural`, `grow_linear`, `grow_p<base>`, `shrink_p<base>` or
            `sequential`; the paper recommends `grow_p2` with 8 cycles.
        cycles: Equal portions of the data that the curriculum goes through.
        odds_mode: `per_batch` takes the odds as they are (paper), `times_size` multiplies them by
            the bucket's size (official code).
        mixture: Tokens from each bucket: `natural`, `equal` (the paper's curricula), or shares by
            bucket such as `{D_8: 1, D_9: 2}`.
        repeat: What to do when the run wants more than a bucket has: an error, or further passes
            in another order.
        seed: Key of schedule and row order.
        workers: Loader processes.
        heldout_tokens: Longest part of a held-out document that is scored; 0 is the longest bucket.
        prepare: Options of `prepare` by name; the data set is made when it is not there.
    """

    def __init__(
        self,
        path: Path,
        tokens_per_step: int = 524_288,
        total_steps: int = 1,
        curriculum: str = "grow_p2",
        cycles: int = 8,
        odds_mode: Literal["per_batch", "times_size"] = "per_batch",
        mixture: Mixture = "equal",
        repeat: Literal["error", "reshuffle"] = "error",
        seed: int = 42,
        workers: int = 1,
        heldout_tokens: int = 0,
        prepare: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if tokens_per_step < 1:
            raise ValueError(f"data.tokens_per_step must be >= 1, got {tokens_per_step}")
        if workers < 0:
            raise ValueError(f"data.workers must be >= 0, got {workers}")
        self.path = path
        self.tokens_per_step = tokens_per_step
        self.total_steps = total_steps
        self.curriculum = Curriculum.named(curriculum, cycles=cycles, mode=odds_mode)
        self.mixture: Mixture = mixture
        self.repeat: Literal["error", "reshuffle"] = repeat
        self.seed = seed
        self.workers = workers
        self.heldout_tokens = heldout_tokens
        self.prepare_options = prepare
        self.plan: BucketPlan | None = None
        self._restored: dict[str, Any] | None = None

    def prepare_data(self) -> None:
        """Make the data set if it is not there and `prepare` says how; one process does it."""
        if self.prepare_options is not None:
            from dataset_decomposition.prepare import prepare

            prepare(out=self.path, **self.prepare_options)

    def setup(self, stage: str) -> None:
        """Open the data set and, to train, plan the whole run on every rank alike.

        Raises:
            FileNotFoundError: The data set is not there.
            ValueError: The buckets cannot give what is asked, or ranks differ.
        """
        self.dataset = open_dataset(self.path)
        self.vocab_size: int = self.dataset.info["vocab_size"]
        if stage == "fit" and self.plan is None:
            self.plan = self._plan()
            assert_lockstep(self.plan)

    def train_dataloader(self) -> "PlanLoader":
        """Return this rank's micro-batches from the trainer's step on."""
        assert self.plan is not None
        assert self.trainer is not None
        stream: BucketStream[TrainBatch] = BucketStream(
            self.plan,
            {key: TokenReader(key, reader) for key, reader in self._readers().items()},
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            accum=self.trainer.accumulate_grad_batches,
        )
        if self._restored is not None:
            stream.load_state_dict(self._restored)
        return PlanLoader(self, stream)

    def val_dataloader(self) -> DataLoader[DocumentBatch]:
        """Return this rank's share of the held-out documents, batches of similar length."""
        return self._heldout_loader()

    def test_dataloader(self) -> DataLoader[DocumentBatch]:
        """Return what `val_dataloader` returns."""
        return self._heldout_loader()

    def predict_dataloader(self) -> DataLoader[DocumentBatch]:
        """Return what `val_dataloader` returns."""
        return self._heldout_loader()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the plan: trainer's step and the plan's fingerprint."""
        assert self.plan is not None
        assert self.trainer is not None
        return {"step": self.trainer.global_step, "fingerprint": self.plan.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved position when the loader is made."""
        self._restored = state_dict

    def _plan(self) -> BucketPlan:
        assert self.trainer is not None
        readers = self._readers()
        buckets = [Bucket(key, r.seq_len, r.num_rows) for key, r in readers.items()]
        tokens = self.tokens_per_step
        available = {b.key: b.num_items // max(tokens // b.item_cost, 1) for b in buckets}
        steps = apportion(step_shares(self.mixture, available), self.total_steps)
        return BucketPlan.build(
            buckets,
            cost_per_step=self.tokens_per_step,
            curriculum=self.curriculum,
            seed=self.seed,
            divisor=self.trainer.world_size * self.trainer.accumulate_grad_batches,
            wanted={key: count * self.tokens_per_step for key, count in steps.items()},
            repeat=self.repeat,
        )

    def _readers(self) -> dict[str, BucketReader]:
        return {f"D_{exponent}": reader for exponent, reader in self.dataset.buckets.items()}

    def _heldout_loader(self) -> DataLoader[DocumentBatch]:
        assert self.trainer is not None
        longest = max(reader.seq_len for reader in self._readers().values())
        batches = HeldoutBatches(
            *self.dataset.heldout(),
            max_targets=self.heldout_tokens or longest,
            tokens_per_batch=max(self.tokens_per_step, longest),
        )
        mine = range(self.trainer.global_rank, len(batches), self.trainer.world_size)
        return DataLoader(batches, batch_size=None, sampler=mine, num_workers=0)


class TokenReader:
    """Rows of one bucket as a batch; what `BucketStream` reads through.

    Args:
        key: The bucket's name.
        reader: Its records.
    """

    def __init__(self, key: str, reader: BucketReader) -> None:
        self.key = key
        self.reader = reader

    def __len__(self) -> int:
        return self.reader.num_rows

    def read(self, rows: NDArray[np.int64]) -> TrainBatch:
        """Return the batch of `rows`.

        Raises:
            BadRecordError: A record is damaged.
        """
        tokens = self.reader.read(rows)
        return {
            "tokens": torch.from_numpy(tokens.astype(np.int64)),
            "keys": [f"{self.key}/{row}" for row in rows.tolist()],
        }


class PlanLoader(DataLoader[TrainBatch]):
    """Loader whose position is its data module's, restored before it is made.

    Lightning takes a loader with these two methods for resumable.
    """

    def __init__(self, data: DecompositionData, stream: BucketStream[TrainBatch]) -> None:
        super().__init__(
            stream,
            batch_size=None,
            num_workers=data.workers,
            pin_memory=torch.cuda.is_available(),
        )
        self._data = data
        self._stream = stream

    def state_dict(self) -> dict[str, Any]:
        """Return the data module's state."""
        return self._data.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the stream stands where the checkpoint says."""
        assert state_dict == self._stream.state_dict(), (state_dict, self._stream.state_dict())


class HeldoutBatches(Dataset[DocumentBatch]):
    """Documents sorted by length, padded within a batch; causal attention never sees the padding.

    Args:
        tokens: All documents, one after the other.
        offsets: int64 `[N + 1]`; document n is `tokens[offsets[n]:offsets[n + 1]]`.
        max_targets: Longest scored part of a document.
        tokens_per_batch: Padded targets of a batch, at most (one document at least).
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        offsets: NDArray[np.int64],
        *,
        max_targets: int,
        tokens_per_batch: int,
    ) -> None:
        self.tokens = tokens
        self.offsets = offsets
        self.targets = np.minimum(np.diff(offsets) - 1, max_targets)
        scored = np.flatnonzero(self.targets > 0)
        by_length = scored[np.argsort(self.targets[scored], kind="stable")]
        self.batches = list(_packed(by_length, self.targets, tokens_per_batch))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> DocumentBatch:
        documents = self.batches[index]
        lengths = self.targets[documents]
        tokens = np.zeros((documents.size, lengths.max() + 1), dtype=np.int64)
        for row, (document, length) in enumerate(zip(documents, lengths, strict=True)):
            start = self.offsets[document]
            tokens[row, : length + 1] = self.tokens[start : start + length + 1]
        return {
            "tokens": torch.from_numpy(tokens),
            "lengths": torch.from_numpy(lengths),
            "documents": torch.from_numpy(documents),
        }


def _packed(
    by_length: NDArray[np.int64], targets: NDArray[np.int64], tokens_per_batch: int
) -> Iterator[NDArray[np.int64]]:
    """Cut the sorted documents into batches of at most `tokens_per_batch` padded targets."""
    start = 0
    for end in range(1, by_length.size):
        if (end + 1 - start) * targets[by_length[end]] > tokens_per_batch:
            yield by_length[start:end]
            start = end
    if by_length.size:
        yield by_length[start:]
