"""Train a classifier of a study: every arm has the same images, optimiser and order of images.

Not here: trainings of users, which have checkpoints and a run folder (`fit`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning
import torch

from dataset_reinforcement.config import LossConfig, Mode, ModelConfig
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.module import ReinforcementModule
from dataset_reinforcement.teacher_config import RGB, TeacherConfig
from tenfold.augment.config import AugmentConfig
from tenfold.bare_trainer import bare_trainer
from tenfold.optim import OptimConfig

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class StudyImages:
    """Images of one size and of the same classes, as `open_images` takes them.

    Attributes:
        student: What students train on.
        teacher: What teachers train on.
        test: What all are measured on.
        num_student: Number of the student's images.
        num_teacher: Number of the teachers' images.
    """

    student: str
    teacher: str
    test: str
    num_student: int
    num_teacher: int


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What all networks of a study share.

    Attributes:
        images: The images.
        classes: Their classes.
        augment: Augmentation where no stored view is replayed; its size is the images'.
        mean: Mean of each channel over 0..1.
        std: Standard deviation of each channel.
        batch_size: Images of a step.
        lr: Highest learning rate of SGD.
    """

    images: StudyImages
    classes: int
    augment: AugmentConfig
    mean: RGB
    std: RGB
    batch_size: int = 32
    lr: float = 0.1

    def data(
        self, images: str, *, mode: Mode, steps: int, seed: int, workers: int, store: Path | None
    ) -> ReinforcementData:
        """Return the data of a training on `images`."""
        return ReinforcementData(
            self.images.test,
            images=images,
            store=store,
            mode=mode,
            augment=self.augment,
            batch_size=self.batch_size,
            total_steps=steps,
            eval_resize=0,
            seed=seed,
            workers=workers,
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where networks train; no figure but time depends on the number of loaders.

    Attributes:
        device: `cpu` in float32, `cuda` under bfloat16 autocast.
        loaders: Processes that read images; 0 reads in the training process.
    """

    device: Device = "cpu"
    loaders: int = 0

    def trainer(
        self, steps: int = -1, callbacks: Sequence[lightning.Callback] = ()
    ) -> lightning.Trainer:
        """Return a trainer that does nothing but train and measure here."""
        return bare_trainer(
            steps,
            accelerator="gpu" if self.device == "cuda" else "cpu",
            precision="bf16-mixed" if self.device == "cuda" else "32-true",
            callbacks=list(callbacks),
        )


def train_classifier(
    setup: TrainingSetup,
    model: str,
    loss: LossConfig,
    data: ReinforcementData,
    *,
    place: Place = Place(),
    teacher: TeacherConfig | None = None,
    callbacks: Sequence[lightning.Callback] = (),
) -> ReinforcementModule:
    """Train a classifier, initialised from the data's seed.

    Args:
        setup: Image statistics and learning rate.
        model: Name of the network.
        loss: Way of training.
        data: Images, with the number of steps.
        place: Where it trains.
        teacher: For `kd`.
        callbacks: Called by the trainer.

    Returns:
        The trained module, on the CPU.
    """
    steps = data.total_steps
    lightning.seed_everything(data.seed, verbose=False)
    module = ReinforcementModule(
        ModelConfig(
            name=model,
            classes=setup.classes,
            image_size=setup.augment.size,
            mean=setup.mean,
            std=setup.std,
        ),
        loss,
        OptimConfig(
            name="sgd",
            lr=setup.lr,
            total_steps=steps,
            warmup_steps=steps // 20,
            weight_decay=5e-4,
        ),
        teacher=teacher,
    )
    if place.device == "cuda":
        module.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    place.trainer(steps, callbacks).fit(module, datamodule=data)
    return module
