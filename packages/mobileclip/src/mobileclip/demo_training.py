"""Train a network of the demos and of `reproduce`: the same way for teachers and every arm.

Not here: trainings of users, which have checkpoints and a run folder (`fit`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning
import torch

from mobileclip.config import LossConfig, ModelConfig
from mobileclip.data import ReinforcedData
from mobileclip.demo_data import DEMO_AUGMENT
from mobileclip.generate.teacher_config import TeacherEnsembleConfig
from mobileclip.models.clip import MobileCLIP
from mobileclip.module import MobileCLIPModule
from tenfold.augment.config import AugmentConfig
from tenfold.bare_trainer import bare_trainer
from tenfold.optim import OptimConfig

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What all trainings of a comparison share.

    Attributes:
        steps: Optimiser steps.
        model: Name of the network; gives the length of its texts.
        image_size: Side of its images, 0 for its own.
        batch_size: Pairs of a step.
        lr: Highest learning rate.
        warmup_steps: Of the learning rate, at most all steps but one.
        augment: Views that are not stored.
    """

    steps: int
    model: str = "tiny"
    image_size: int = 0
    batch_size: int = 128
    lr: float = 2e-3
    warmup_steps: int = 20
    augment: AugmentConfig = DEMO_AUGMENT

    @property
    def optim(self) -> OptimConfig:
        """Return the optimiser."""
        return OptimConfig(
            lr=self.lr,
            total_steps=self.steps,
            warmup_steps=min(self.warmup_steps, self.steps - 1),
            weight_decay=0.05,
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where networks train; no figure but time depends on the number of loaders.

    Attributes:
        device: `cpu` in float32, `cuda` under bfloat16 autocast.
        loaders: Processes that read pairs; 0 reads in the training process.
    """

    device: Device = "cpu"
    loaders: int = 0

    def trainer(self, steps: int, callbacks: Sequence[lightning.Callback]) -> lightning.Trainer:
        """Return a trainer that does nothing but train here."""
        return bare_trainer(
            steps,
            accelerator="gpu" if self.device == "cuda" else "cpu",
            precision="bf16-mixed" if self.device == "cuda" else "32-true",
            callbacks=list(callbacks),
        )


def train_clip(
    setup: TrainingSetup,
    loss: LossConfig,
    shards: Path,
    *,
    val: Path,
    seed: int,
    place: Place = Place(),
    teachers: TeacherEnsembleConfig | None = None,
    network: Callable[[], MobileCLIP] | None = None,
    callbacks: Sequence[lightning.Callback] = (),
) -> MobileCLIPModule:
    """Train a network from random weights and return its module.

    Args:
        setup: Network, optimiser and batches.
        loss: Way of training.
        shards: Pairs.
        val: Held-out pairs, which must be there and are not measured.
        seed: Key of the weights and of the pairs' order.
        place: Where it trains.
        teachers: For mode `online`.
        network: Builds another network than `setup.model`, with images and texts of its size.
        callbacks: Called by the trainer.
    """
    torch.manual_seed(seed)
    student = ModelConfig(
        name=setup.model if network is None else "tiny",
        image_size=setup.image_size if network is None else 0,
    )
    module = MobileCLIPModule(student, loss, setup.optim, teachers=teachers)
    if network is not None:
        module.network = network()
    pairs = ReinforcedData(
        shards,
        val=val,
        model=setup.model,
        image_size=setup.image_size,
        mode=loss.mode,
        captions=loss.captions,
        batch_size=setup.batch_size,
        total_steps=setup.steps,
        augment=setup.augment,
        seed=seed,
        workers=place.loaders,
    )
    place.trainer(setup.steps, callbacks).fit(module, datamodule=pairs)
    return module
