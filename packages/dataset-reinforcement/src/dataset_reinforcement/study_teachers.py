"""Teachers of a study, trained on more images than its students get.

As in the paper, what they have learnt from the larger set reaches the student through their labels
alone.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors.torch import save_file

from dataset_reinforcement.classifier_training import Place, TrainingSetup, train_classifier
from dataset_reinforcement.config import LossConfig
from dataset_reinforcement.teacher_config import MemberConfig, Precision, TeacherConfig
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs


@dataclass(frozen=True, kw_only=True)
class StudyTeachers:
    """An ensemble of networks that differ in their seed alone.

    Attributes:
        setup: What they share with the students.
        model: Their architecture.
        members: Their number.
        epochs: Passes of each over the teachers' images.
        seed: Key of their weights and of their order of images.
        precision: In which they answer.
        batch: Views that they get at once, at most.
    """

    setup: TrainingSetup
    model: str
    members: int
    epochs: int
    seed: int = 0
    precision: Precision = "fp32"
    batch: int = 256

    def file(self, member: int) -> str:
        """Name the file of a member's weights."""
        return f"{self.model}-{member}.safetensors"

    def config(self, folder: Path) -> TeacherConfig:
        """Return the ensemble whose members lie in `folder`."""
        return TeacherConfig(
            members=tuple(
                MemberConfig(
                    model=self.model,
                    checkpoint=folder / self.file(member),
                    size=self.setup.augment.size,
                    mean=self.setup.mean,
                    std=self.setup.std,
                )
                for member in range(self.members)
            ),
            precision=self.precision,
            batch=self.batch,
        )

    def train(self, folder: Path, *, place: Place = Place(), workers: int = 1) -> float:
        """Train the members that are missing in `folder`.

        They have no label smoothing: it would blur the labels that they give.

        Args:
            folder: Where the weights go.
            place: Where each trains.
            workers: Members that train at a time, one thread each.

        Returns:
            What the training of all took: seconds of CPU time, or on a GPU seconds.

        Raises:
            ValueError: `folder` holds teachers that were trained otherwise.
        """
        seconds = run_jobs(
            partial(_train_member, place=place),
            {self.file(member): (self, member) for member in range(self.members)},
            out=folder,
            settings={
                "classes": self.setup.classes,
                "model": self.model,
                "members": self.members,
                "epochs": self.epochs,
                "seed": self.seed,
            },
            workers=workers,
            title="teachers",
        )
        return sum(seconds.values())


def _train_member(task: tuple[StudyTeachers, int], folder: Path, *, place: Place) -> float:
    teachers, member = task
    silence_adverts()
    setup = teachers.setup
    clock = time.perf_counter if place.device == "cuda" else time.process_time
    started = clock()
    data = setup.data(
        setup.images.teacher,
        mode="erm",
        steps=teachers.epochs * setup.images.num_teacher // setup.batch_size,
        seed=1000 * (teachers.seed + 1) + member,
        workers=place.loaders,
        store=None,
    )
    loss = LossConfig(mode="erm", label_smoothing=0.0)
    module = train_classifier(setup, teachers.model, loss, data, place=place)
    seconds = clock() - started
    weights = {name: value.contiguous() for name, value in module.network.state_dict().items()}
    save_file(weights, folder / teachers.file(member))
    return seconds
