"""What `reproduce` runs at each scale: images, teachers, arms and students, as settings.

Every scale makes the same comparison and is judged by the same claims (`claims`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dataset_reinforcement.claims import (
    DR,
    ERM,
    KD,
    MIXED,
    MIXED_RANDOM,
    UNAUGMENTED,
    UNSMOOTHED,
)
from dataset_reinforcement.classifier_training import Device, StudyImages, TrainingSetup
from dataset_reinforcement.config import LossConfig
from dataset_reinforcement.demo_store import GLYPH_AUGMENT, MEAN, STD, DemoGlyphs
from dataset_reinforcement.rendered_images import RenderedGlyphs
from dataset_reinforcement.study_teachers import StudyTeachers
from dataset_reinforcement.teacher_config import RGB
from dataset_reinforcement.variants import variant
from tenfold.augment.config import AugmentConfig


@dataclass(frozen=True)
class Arm:
    """A way of training students.

    Attributes:
        name: In tables.
        loss: Its loss.
        store: Name of the store whose views and labels it replays.
    """

    name: str
    loss: LossConfig
    store: str | None = None


ERM_ARM = Arm(ERM, LossConfig(mode="erm"))
UNSMOOTHED_ARM = Arm(UNSMOOTHED, LossConfig(mode="erm", label_smoothing=0.0))
KD_ARM = Arm(KD, LossConfig(mode="kd"))
STORED = LossConfig(mode="dr")
DR_ARM = Arm(DR, STORED, "plain")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Everything that a scale decides.

    Attributes:
        images: The images.
        augment: Augmentation of hard labels, of teachers and of distillation on the fly.
        stores: Augmentation of each store, by name.
        arms: What is compared.
        students: Networks that every arm trains.
        epochs: Passes of a student over its images.
        views: Stored views of each image.
        top_k: Probabilities stored for a view.
        teacher: Network of the teachers.
        members: Teachers of the ensemble.
        teacher_epochs: Passes of a teacher over its images.
        mean: Mean of each channel of the images.
        std: Standard deviation of each channel.
        batch_size: Images of a step.
        lr: Highest learning rate.
        device: Where everything runs.
        seeds: Runs of each arm and student, where nothing else is asked for.
    """

    images: DemoGlyphs | RenderedGlyphs
    augment: AugmentConfig
    stores: Mapping[str, AugmentConfig]
    arms: tuple[Arm, ...]
    students: tuple[str, ...]
    epochs: int
    views: int
    top_k: int = 10
    teacher: str
    members: int
    teacher_epochs: int
    mean: RGB = MEAN
    std: RGB = STD
    batch_size: int = 32
    lr: float = 0.1
    device: Device = "cpu"
    seeds: int = 5

    def setup(self, images: StudyImages) -> TrainingSetup:
        """Return what all networks share."""
        return TrainingSetup(
            images=images,
            classes=self.images.characters,
            augment=self.augment,
            mean=self.mean,
            std=self.std,
            batch_size=self.batch_size,
            lr=self.lr,
        )

    def teachers(self, images: StudyImages) -> StudyTeachers:
        """Return the ensemble; on a GPU it answers in bfloat16."""
        return StudyTeachers(
            setup=self.setup(images),
            model=self.teacher,
            members=self.members,
            epochs=self.teacher_epochs,
            precision="bf16" if self.device == "cuda" else "fp32",
            batch=max(self.batch_size, 256),
        )

    def steps(self, images: StudyImages) -> int:
        """Return the steps of a student."""
        return self.epochs * images.num_student // self.batch_size


def _rendered(name: str) -> AugmentConfig:
    """Return a variant of the paper without what turns a character into another."""
    return replace(variant(name, size=64), scale=(0.5, 1.0), ratio=(0.85, 1.2), flip=0.0)


_TINY = Scale(
    images=DemoGlyphs(characters=100),
    augment=GLYPH_AUGMENT,
    stores={"plain": GLYPH_AUGMENT},
    arms=(ERM_ARM, KD_ARM, DR_ARM),
    students=("conv8", "separable16"),
    epochs=140,
    views=40,
    teacher="conv16",
    members=3,
    teacher_epochs=20,
)

SCALES = {
    "tiny": _TINY,
    "small": replace(
        _TINY,
        images=DemoGlyphs(characters=300),
        arms=(ERM_ARM, UNSMOOTHED_ARM, KD_ARM, DR_ARM),
        epochs=200,
        teacher="conv40",
    ),
    "gpu": Scale(
        images=RenderedGlyphs(
            characters=200, size=64, student=50_000, teacher=500_000, test=10_000
        ),
        augment=_rendered("randaug"),
        stores={name: _rendered(name) for name in ("rrc", "randaug", "mixing", "randaug_mixing")},
        arms=(
            ERM_ARM,
            Arm(UNAUGMENTED, STORED, "rrc"),
            Arm(DR, STORED, "randaug"),
            Arm(MIXED, STORED, "mixing"),
            Arm(MIXED_RANDOM, STORED, "randaug_mixing"),
            KD_ARM,
        ),
        students=("mobilenetv3_small_100", "resnet18"),
        # 17 minutes by estimate, at 16 cores: 4 for the teachers, 3 for the stores, 9 for the
        # students. Each view is seen twice; of the paper's 50 in 150 epochs, three times.
        epochs=20,
        views=10,
        teacher="resnet50",
        members=4,
        teacher_epochs=2,
        mean=(0.48, 0.43, 0.41),
        std=(0.25, 0.22, 0.23),
        batch_size=1024,
        lr=0.4,
        device="cuda",
        seeds=1,
    ),
}
