"""Batches of one bucket at a time from a prepared data set, and its held-out documents.

Which bucket a step uses and which rows each rank takes is `tenfold.bucketing`'s plan, made from the
data set's counts and the run's length; the position in it is the trainer's step, so a run resumes
in mid-cycle with other numbers of ranks, micro-batches or workers.
"""

from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dataset_decomposition.heldout_batches import HeldoutBatches
from dataset_decomposition.mixture import Mixture
from dataset_decomposition.module import DocumentBatch, TrainBatch
from dataset_decomposition.plan import build_plan
from dataset_decomposition.records import BucketReader, open_dataset
from tenfold.bucketing import (
    BadRecordError,
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
            {
                key: TokenReader(
                    key,
                    reader,
                    vocab_size=self.vocab_size,
                    target_share=self._target_share(reader),
                )
                for key, reader in self._readers().items()
            },
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            accum=self.trainer.accumulate_grad_batches,
        )
        if self._restored is not None:
            position = dict(self._restored)
            stream.load_state_dict(position, described=position.pop("plan"))
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
        """Return the trainer's step, the plan's fingerprint, and what the plan was made from."""
        assert self.plan is not None
        assert self.trainer is not None
        return {
            "step": self.trainer.global_step,
            "fingerprint": self.plan.fingerprint,
            "plan": self.plan.describe(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved position when the loader is made."""
        self._restored = state_dict

    def _plan(self) -> BucketPlan:
        assert self.trainer is not None
        return build_plan(
            {key: (reader.seq_len, reader.num_rows) for key, reader in self._readers().items()},
            total_steps=self.total_steps,
            tokens_per_step=self.tokens_per_step,
            curriculum=self.curriculum,
            mixture=self.mixture,
            seed=self.seed,
            divisor=self.trainer.world_size * self.trainer.accumulate_grad_batches,
            repeat=self.repeat,
        )

    def _readers(self) -> dict[str, BucketReader]:
        return {f"D_{exponent}": reader for exponent, reader in self.dataset.buckets.items()}

    def _target_share(self, reader: BucketReader) -> float:
        """Return which part of a bucket's predicted positions are targets that count."""
        stated = self.dataset.info["buckets"][str(reader.bucket)]
        return stated.get("targets", stated["tokens"]) / max(stated["tokens"], 1)

    def _heldout_loader(self) -> DataLoader[DocumentBatch]:
        assert self.trainer is not None
        longest = max(reader.seq_len for reader in self._readers().values())
        batches = HeldoutBatches(
            *self.dataset.heldout(),
            at_least=self.trainer.world_size,
            max_targets=self.heldout_tokens or longest,
            # As much as a micro-batch of training: what fits there fits here.
            tokens_per_batch=max(
                self.tokens_per_step
                // (self.trainer.world_size * self.trainer.accumulate_grad_batches),
                longest,
            ),
        )
        mine = range(self.trainer.global_rank, len(batches), self.trainer.world_size)
        return DataLoader(batches, batch_size=None, sampler=mine, num_workers=0)


class TokenReader:
    """Rows of one bucket as a batch; what `BucketStream` reads through.

    Args:
        key: The bucket's name.
        reader: Its records.
        vocab_size: Ids that the data's tokenizer has.
        target_share: Mean share of the predicted positions that are targets; needed where the
            records number documents.
    """

    def __init__(
        self, key: str, reader: BucketReader, *, vocab_size: int, target_share: float = 1.0
    ) -> None:
        self.key = key
        self.reader = reader
        self.vocab_size = vocab_size
        self.target_share = target_share

    def __len__(self) -> int:
        return self.reader.num_rows

    def read(self, rows: NDArray[np.int64]) -> TrainBatch:
        """Return the batch of `rows`.

        Raises:
            BadRecordError: A record is damaged, or has an id that the tokenizer has not.
        """
        tokens = self.reader.read(rows)
        if tokens.max() >= self.vocab_size:
            row = int(rows[tokens.max(axis=1).argmax()])
            reason = f"{self.reader.folder} row {row}: id {tokens.max()} of {self.vocab_size}"
            raise BadRecordError(row, f"{reason}; `verify --deep` finds what else is damaged")
        batch: TrainBatch = {
            "tokens": torch.from_numpy(tokens.astype(np.int64)),
            "keys": [f"{self.key}/{row}" for row in rows.tolist()],
        }
        if self.reader.has_documents:
            documents = self.reader.read_documents(rows)
            batch["documents"] = torch.from_numpy(documents.astype(np.int32))
            batch["mean_targets"] = self.target_share * rows.size * self.reader.seq_len
        return batch


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
        position = {name: state_dict[name] for name in ("step", "fingerprint")}
        assert position == self._stream.state_dict(), (position, self._stream.state_dict())
