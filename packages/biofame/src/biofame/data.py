"""Windows of a store for training, validation and test.

Training batch n is a function of the seed and n alone and the position is the trainer's step, so
that a run resumes exactly and does not depend on the number of ranks. Not here: how batches are
made (`batches.py`, `sequences.py`).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from biofame.batches import WholeSplit, WindowBatch, WindowSource, WindowStream, share_of_rank
from biofame.few_labels import choose_any, choose_by_class
from biofame.sequences import consecutive, groups_of
from biofame.splits import check_leakage
from biofame.store import SignalStore, open_store
from tenfold.loader import StepLoader

__all__ = ["SignalData", "WindowBatch", "WindowSource", "columns_of"]

logger = logging.getLogger(__name__)


class SignalData(lightning.LightningDataModule):
    """Windows of a store: an endless stream for training, whole passes for its other splits.

    Args:
        path: Folder of the store.
        batch_size: Windows, or sequences of them, of a micro-batch over all ranks. Where there are
            fewer of a length, a batch has all of them.
        seed: Key of order and choice of labels.
        channels: Channels to use, in this order; all by default.
        labels: Labelled windows of training, a share in (0, 1) or their number, chosen class by
            class; all by default. Other splits keep theirs.
        context: Windows of a sequence; follows `head.context` in `finetune`.
        prepare: Options of the verb `demo-data`, which makes the store where it is not there.
    """

    source: WindowSource

    def __init__(
        self,
        path: Path,
        batch_size: int = 128,
        seed: int = 0,
        channels: list[str] | None = None,
        labels: float | None = None,
        context: int = 1,
        prepare: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("context", context)):
            if value < 1:
                raise ValueError(f"data.{name} must be >= 1, got {value}")
        self.path, self.batch_size, self.seed, self.context = path, batch_size, seed, context
        self.wanted_channels, self.wanted_labels = channels, labels
        self.prepare_options = prepare
        self.training_rows: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def prepare_data(self) -> None:
        """Make the demo's store if `prepare` says how, or check that it is that one."""
        if self.prepare_options is not None:
            from biofame.demo_data import demo_data

            demo_data(**self.prepare_options)

    def setup(self, stage: str) -> None:
        """Open the store and choose its channels and labels.

        Raises:
            FileNotFoundError: There is no store.
            ValueError: It is damaged, lacks a channel, a subject is in two splits, or labels cannot
                be chosen.
        """
        store = open_store(self.path)
        check_leakage(store)
        columns = columns_of(store.info.channels, self.wanted_channels, path=self.path)
        self.source = WindowSource(store, columns, store.labels, self.context > 1)
        if stage == "fit":
            self.training_rows = self._rows("train")
            self._check_sequences()
            if self.wanted_labels is not None:
                self._keep_few_labels(self.wanted_labels)

    @property
    def store(self) -> SignalStore:
        """The open store."""
        return self.source.store

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that batches have."""
        return tuple(self.store.info.channels[column] for column in self.source.columns)

    @property
    def training_labels(self) -> NDArray[np.int64]:
        """Labels that training sees, -1 where unknown; none before `setup("fit")`."""
        return self.source.labels[self.training_rows]

    @property
    def training_subjects(self) -> NDArray[np.str_]:
        """Subjects of the training windows; none before `setup("fit")`."""
        return self.store.subjects[self.training_rows]

    def train_dataloader(self) -> StepLoader[WindowBatch]:
        """Return this rank's micro-batches from the trainer's step on.

        Raises:
            ValueError: The batch does not divide among the ranks, or there are too few windows.
        """
        assert self.trainer is not None
        stream = WindowStream(
            self.source,
            groups_of(self.store, self.training_rows, context=self.context, every_start=True),
            self.batch_size,
            self.seed,
            start=self.trainer.global_step * self.trainer.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return StepLoader(stream, batch_size=None)

    def val_dataloader(self) -> DataLoader[WindowBatch]:
        """Return this rank's share of the validation windows."""
        return self._whole_split("val")

    def test_dataloader(self) -> DataLoader[WindowBatch]:
        """Return this rank's share of the test windows."""
        return self._whole_split("test")

    def predict_dataloader(self) -> DataLoader[WindowBatch]:
        """Return what `test_dataloader` returns."""
        return self._whole_split("test")

    def check_patch(self, patch: int) -> None:
        """Refuse windows that are shorter than a patch.

        Raises:
            ValueError: There are such windows.
        """
        shortest = int(self.store.lengths.min())
        if shortest < patch:
            raise ValueError(
                f"{self.path} has windows of {shortest} samples, shorter than model.patch {patch}: "
                "prepare longer windows, or train with a smaller model.patch"
            )

    def _whole_split(self, split: str) -> DataLoader[WindowBatch]:
        assert self.trainer is not None
        groups = groups_of(self.store, self._rows(split), context=self.context)
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        if sum(map(len, groups)) < ranks:
            raise ValueError(f"the split {split} of {self.path} has too little for {ranks} ranks")
        mine = share_of_rank(groups, rank=rank, world_size=ranks)
        return DataLoader(WholeSplit(self.source, mine, self.batch_size), batch_size=None)

    def _rows(self, split: str) -> NDArray[np.int64]:
        """Return the windows of a split that have any of the channels."""
        rows = self.store.rows(split)
        there = self.store.present[np.ix_(rows, self.source.columns)].any(axis=1)
        if not there.all():
            count = len(rows) - int(there.sum())
            logger.warning("%s: %d windows have none of the channels: left out", split, count)
        if not there.any():
            found = ", ".join(sorted(set(self.store.splits.tolist()) - {""})) or "none"
            raise ValueError(
                f"{self.path} has no windows of split {split} (it has: {found}): prepare it with "
                "splits"
            )
        return rows[there]

    def _check_sequences(self) -> None:
        runs = consecutive(self.store, self.training_rows) if self.context > 1 else []
        if runs and max(map(len, runs)) == 1:
            raise ValueError(
                f"data.context is {self.context}, and no two training windows of {self.path} "
                "follow each other: prepare it from recordings, or with their names and onsets"
            )

    def _keep_few_labels(self, amount: float) -> None:
        rows, store = self.training_rows, self.store
        if store.targets is not None and not (store.labels[rows] >= 0).any():
            chosen = choose_any(len(rows), amount, seed=self.seed)
        else:
            classes = len(store.info.classes) or int(store.labels.max()) + 1
            chosen = choose_by_class(store.labels[rows], amount, seed=self.seed, classes=classes)
        labels = store.labels.copy()
        labels[np.delete(rows, chosen)] = -1
        self.source = self.source._replace(labels=labels)
        if self.context == 1:  # sequences keep their other windows, unlabelled
            self.training_rows = rows[chosen]
        logger.info("%d of %d training windows keep their labels", len(chosen), len(rows))


def columns_of(
    known: Sequence[str], wanted: Sequence[str] | None, *, path: Path
) -> NDArray[np.int64]:
    """Return the places of the wanted channels among the known ones, all by default.

    Raises:
        ValueError: One is not there, or named twice.
    """
    if wanted is None:
        return np.arange(len(known))
    absent = [name for name in wanted if name not in known]
    if absent or not wanted or len(set(wanted)) != len(wanted):
        raise ValueError(
            f"data.channels must name channels of {path} once each ({', '.join(known)}), got "
            f"{', '.join(wanted) or 'none'}"
        )
    return np.array([list(known).index(name) for name in wanted])


def windows_of(trainer: lightning.Trainer) -> SignalData | None:
    """Return the data that a trainer runs on, if they are windows of a store."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, SignalData) else None


def subjects_seen(trainer: lightning.Trainer) -> list[str]:
    """Return the names of those whose windows a run trains on."""
    data = windows_of(trainer)
    return [] if data is None else sorted(set(data.training_subjects.tolist()) - {""})
