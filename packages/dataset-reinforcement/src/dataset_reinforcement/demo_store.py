"""The verb `demo-store`: teachers and reinforcements of the demo characters, from nothing.

The teachers see eleven faces, the student's images are of two: as in the paper, what the teachers
have learnt from more data reaches the student through the stored labels alone.
"""

from dataclasses import dataclass
from pathlib import Path

import lightning
from safetensors.torch import save_file

from dataset_reinforcement.config import LossConfig, ModelConfig
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.generate import generate
from dataset_reinforcement.images import open_images
from dataset_reinforcement.module import ReinforcementModule
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from tenfold.augment.config import AugmentConfig
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs
from tenfold.optim import OptimConfig

# Characters must not be mirrored, nor cropped so far that they turn into others.
GLYPH_AUGMENT = AugmentConfig(
    size=32,
    scale=(0.7, 1.0),
    ratio=(0.85, 1.2),
    flip=0.0,
    erase=0.25,
    erase_scale=(0.02, 0.15),
)
BATCH = 32
MEAN, STD = (0.1, 0.1, 0.1), (0.25, 0.25, 0.25)


@dataclass(frozen=True, kw_only=True)
class DemoTeachers:
    """An ensemble of the demo's teachers.

    Attributes:
        characters: Classes.
        members: Networks.
        width: Channels of a network's first stage.
        epochs: Passes of each network over its images.
        seed: Key of their weights and of their order of images.
    """

    characters: int
    members: int
    width: int
    epochs: int
    seed: int

    @property
    def images(self) -> str:
        """Name the images that teachers train on."""
        return f"demo:glyphs/teacher/{self.characters}"

    def file(self, member: int) -> str:
        """Name the file of a member's weights."""
        return f"{self.characters}-{self.width}-{self.epochs}-{self.seed}-{member}.safetensors"

    def config(self, folder: Path) -> TeacherConfig:
        """Return the ensemble whose members lie in `folder`."""
        return TeacherConfig(
            members=tuple(
                MemberConfig(
                    model=f"conv{self.width}",
                    checkpoint=folder / self.file(member),
                    size=32,
                    mean=MEAN,
                    std=STD,
                )
                for member in range(self.members)
            )
        )

    def train(self, folder: Path, *, workers: int = 1) -> TeacherConfig:
        """Train the members that are missing in `folder`, one thread each.

        They have no label smoothing: it would blur the labels that they give.

        Returns:
            The ensemble.
        """
        run_jobs(
            _train_member,
            {self.file(member): (self, member) for member in range(self.members)},
            out=folder,
            settings={},
            workers=workers,
            title="teachers",
        )
        return self.config(folder)


def demo_store(
    out: Path,
    *,
    characters: int = 100,
    members: int = 3,
    width: int = 16,
    epochs: int = 20,
    views: int = 40,
    top_k: int = 10,
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Train teachers on the demo characters and store their predictions for the student's images.

    What is there already is not made again.

    Args:
        out: Folder of the store; the teachers' weights lie in `<out>-teachers`.
        characters: Classes, 2 to 300 or so.
        members: Teachers of the ensemble.
        width: Channels of a teacher's first stage.
        epochs: Passes of each teacher over its images.
        views: Views of each image.
        top_k: Probabilities stored for a view.
        seed: Key of everything.
        workers: Teachers that are trained at a time.
    """
    teachers = DemoTeachers(
        characters=characters, members=members, width=width, epochs=epochs, seed=seed
    )
    generate(
        student_images(characters),
        out,
        teachers.train(teachers_folder(out), workers=workers),
        augment=GLYPH_AUGMENT,
        views=views,
        top_k=min(top_k, characters),
        seed=seed,
    )


def teachers_folder(store: Path) -> Path:
    """Return the folder of the weights of a store's teachers."""
    return store.with_name(f"{store.name}-teachers")


def student_images(characters: int) -> str:
    """Name the images that the student trains on."""
    return f"demo:glyphs/student/{characters}"


def test_images(characters: int) -> str:
    """Name the images to measure on: the same characters in faces that nobody has seen."""
    return f"demo:glyphs/test/{characters}"


def _train_member(task: tuple[DemoTeachers, int], folder: Path) -> None:
    teachers, member = task
    silence_adverts()
    steps = teachers.epochs * len(open_images(teachers.images)) // BATCH
    module = train_classifier(
        f"conv{teachers.width}",
        LossConfig(mode="erm", label_smoothing=0.0),
        ReinforcementData(
            test_images(teachers.characters),
            images=teachers.images,
            mode="erm",
            augment=GLYPH_AUGMENT,
            batch_size=BATCH,
            total_steps=steps,
            eval_resize=0,
            seed=1000 * (teachers.seed + 1) + member,
            workers=0,
        ),
        classes=teachers.characters,
    )
    weights = {name: value.contiguous() for name, value in module.network.state_dict().items()}
    save_file(weights, folder / teachers.file(member))


def train_classifier(
    model: str,
    loss: LossConfig,
    data: ReinforcementData,
    *,
    classes: int,
    teacher: TeacherConfig | None = None,
) -> ReinforcementModule:
    """Train a small classifier on the CPU, initialised from the data's seed.

    Returns:
        The trained module.
    """
    steps = data.total_steps
    lightning.seed_everything(data.seed, verbose=False)
    module = ReinforcementModule(
        ModelConfig(name=model, classes=classes, image_size=32, mean=MEAN, std=STD),
        loss,
        OptimConfig(
            name="sgd", lr=0.1, total_steps=steps, warmup_steps=steps // 20, weight_decay=5e-4
        ),
        teacher=teacher,
    )
    bare_trainer(steps).fit(module, datamodule=data)
    return module
