"""The verb `demo-store`: teachers and reinforcements of the demo characters, from nothing.

The teachers see eleven faces, the student's images are of two.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from dataset_reinforcement.classifier_training import StudyImages, TrainingSetup
from dataset_reinforcement.generate import MAX_SHARD_IMAGES, generate
from dataset_reinforcement.generation_plan import begun_store, plan_views
from dataset_reinforcement.images import open_images
from dataset_reinforcement.study_teachers import StudyTeachers
from tenfold.augment.config import AugmentConfig

# Characters must not be mirrored, nor cropped so far that they turn into others.
GLYPH_AUGMENT = AugmentConfig(
    size=32,
    scale=(0.7, 1.0),
    ratio=(0.85, 1.2),
    flip=0.0,
    erase=0.25,
    erase_scale=(0.02, 0.15),
)
MEAN, STD = (0.1, 0.1, 0.1), (0.25, 0.25, 0.25)


@dataclass(frozen=True, kw_only=True)
class DemoGlyphs:
    """Plain characters of 32 pixels, in two faces for students and eleven for teachers.

    Attributes:
        characters: Classes.
    """

    characters: int

    def prepare(self, folder: Path, *, workers: int) -> StudyImages:
        """Name the images, which are drawn when they are opened.

        Raises:
            ValueError: There are not so many characters.
        """
        student, teacher, test = (
            f"demo:glyphs/{part}/{self.characters}" for part in ("student", "teacher", "test")
        )
        return StudyImages(
            student=student,
            teacher=teacher,
            test=test,
            num_student=len(open_images(student)),
            num_teacher=len(open_images(teacher)),
        )


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
        characters: Classes, 2 to 727 or so.
        members: Teachers of the ensemble.
        width: Channels of a teacher's first stage.
        epochs: Passes of each teacher over its images.
        views: Views of each image.
        top_k: Probabilities stored for a view.
        seed: Key of everything.
        workers: Teachers that are trained at a time.

    Raises:
        ValueError: A number is out of range, or `out` is in use, or was made with other options.
    """
    _check_numbers(
        members=members, width=width, epochs=epochs, views=views, top_k=top_k, workers=workers
    )
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    images = DemoGlyphs(characters=characters).prepare(out, workers=workers)
    top_k = min(top_k, characters)
    _check_begun(out, images, views=views, top_k=top_k, seed=seed)
    setup = TrainingSetup(
        images=images, classes=characters, augment=GLYPH_AUGMENT, mean=MEAN, std=STD
    )
    teachers = StudyTeachers(
        setup=setup, model=f"conv{width}", members=members, epochs=epochs, seed=seed
    )
    teachers.train(teachers_folder(out), workers=workers)
    generate(
        images.student,
        out,
        teachers.config(teachers_folder(out)),
        augment=GLYPH_AUGMENT,
        views=views,
        top_k=top_k,
        seed=seed,
    )


def teachers_folder(store: Path) -> Path:
    """Return the folder of the weights of a store's teachers."""
    return store.with_name(f"{store.name}-teachers")


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def _check_begun(out: Path, images: StudyImages, *, views: int, top_k: int, seed: int) -> None:
    """Refuse now what `generate` would refuse after the teachers' minutes of training.

    The teachers themselves are compared when their training begins.
    """
    begun = begun_store(out)
    if begun is None:
        return
    classes = open_images(images.student).classes
    if begun.classes != classes:
        raise ValueError(
            f"{out} was begun with {len(begun.classes)} characters, not {len(classes)}: restore "
            "them or choose another folder"
        )
    asked = replace(begun, augment=GLYPH_AUGMENT, top_k=top_k, seed=seed)
    plan_views(out, asked, begun, views=views, shard_size=MAX_SHARD_IMAGES, append=False)
