"""Trainings of a study as jobs: fine-tune once, test once; a rerun does what is missing."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from biofame.config import HeadConfig, ModelConfig, Pooling, Task
from biofame.finetune_loop import finetune_once, scratch_network
from biofame.model import BioFame
from biofame.passes import open_source, rows_with_channels, score_classifier
from biofame.probe import count_outputs
from biofame.score_tables import nullable
from biofame.store import SignalStore, open_store
from biofame.weights import load_network
from tenfold import atomic, checkpoints
from tenfold.devices import choose_device

Arm = Literal["pre-trained", "scratch"]
JOB_VERSION = 1
"""To be raised when the same settings give other numbers, so that nothing older is kept."""


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """One training.

    Attributes:
        arm: What it starts from.
        labels: Labelled training windows, a share, their number, or 1 for all.
        seed: Of everything that is drawn.
        channels: The store's channels to use; all by default.
    """

    arm: Arm
    labels: float
    seed: int
    channels: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Trains and tests one task; it travels to worker processes.

    Attributes:
        run: Pre-trained network; the scratch rows have its settings.
        model: Settings of the scratch rows where there is no run.
        data: Store.
        task: Of the head.
        pooling: Of the head.
        mixup: Of the head.
        steps: Optimiser steps.
        lr: Learning rate.
        weight_decay: L2 penalty.
        batch_size: Windows of a step.
        device: Where to train.
    """

    run: Path | None
    model: ModelConfig
    data: Path
    task: Task
    pooling: Pooling
    mixup: float
    steps: int
    lr: float
    weight_decay: float
    batch_size: int
    device: str

    def __call__(self, task: TrainingTask, folder: Path) -> dict[str, Any]:
        """Return `step` and `val_score` of the best weights and their `test` scores."""
        store = open_store(self.data)
        device = choose_device(self.device)
        channels = None if task.channels is None else list(task.channels)
        done = finetune_once(
            self._network(task, store),
            store,
            head=self.head(store),
            labels=None if task.labels == 1 else task.labels,
            seed=task.seed,
            steps=self.steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            channels=channels,
            device=device,
        )
        source = open_source(store, channels)
        rows = rows_with_channels(source, "test")
        test = score_classifier(done.classifier.to(device), source, rows, device=device)
        return {"step": done.step, "val_score": done.val_score, "test": nullable(test)}

    def head(self, store: SignalStore) -> HeadConfig:
        """Return the head for a store's classes or targets."""
        return HeadConfig(
            task=self.task,
            outputs=count_outputs(store, self.task),
            pooling=self.pooling,
            mixup=self.mixup if self.task == "classification" else 0.0,
        )

    def settings(self) -> dict[str, Any]:
        """Return what shapes the numbers, as JSON values: files stand by their content.

        Not the device: a study may go on on another one.
        """
        values = asdict(self)
        del values["device"]
        values["run"] = self.run and atomic.sha256_file(checkpoints.find(self.run))
        values["data"] = atomic.sha256_file(self.data / "store.json")
        return {"version": JOB_VERSION, **values}

    def _network(self, task: TrainingTask, store: SignalStore) -> BioFame:
        trained = None if self.run is None else load_network(self.run)
        if task.arm == "pre-trained":
            assert trained is not None
            return trained
        model = self.model if trained is None else trained.config
        return scratch_network(model, store, seed=task.seed)
