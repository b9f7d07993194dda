"""The verb `demo-store`: teachers and reinforcements of the demo characters, from nothing.

The teachers see eleven faces, the student's images are of four: as in the paper, what the teachers
have learnt from more data reaches the student through the stored labels alone.
"""

import logging
from pathlib import Path

import lightning
from safetensors.torch import save_file

from dataset_reinforcement.config import LossConfig, ModelConfig
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.generate import generate
from dataset_reinforcement.images import open_images
from dataset_reinforcement.module import ReinforcementModule
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from tenfold import atomic
from tenfold.augment.config import AugmentConfig
from tenfold.optim import OptimConfig

log = logging.getLogger(__name__)

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


def demo_store(
    out: Path,
    *,
    characters: int = 100,
    members: int = 3,
    width: int = 40,
    epochs: int = 14,
    views: int = 20,
    top_k: int = 10,
    seed: int = 0,
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
    """
    teacher = demo_teacher(
        out, characters=characters, members=members, width=width, epochs=epochs, seed=seed
    )
    generate(
        student_images(characters),
        out,
        teacher,
        augment=GLYPH_AUGMENT,
        views=views,
        top_k=min(top_k, characters),
        seed=seed,
    )


def student_images(characters: int) -> str:
    """Name the images that the student trains on."""
    return f"demo:glyphs/student/{characters}"


def test_images(characters: int) -> str:
    """Name the images to measure on: the same characters in faces that nobody has seen."""
    return f"demo:glyphs/test/{characters}"


def demo_teacher(
    out: Path, *, characters: int, members: int, width: int, epochs: int, seed: int
) -> TeacherConfig:
    """Train the members that are missing, without label smoothing, which would blur their labels.

    Returns:
        The ensemble, with its members' files.
    """
    folder = out.with_name(f"{out.name}-teachers")
    images = f"demo:glyphs/teacher/{characters}"
    steps = epochs * len(open_images(images)) // BATCH
    paths = []
    for member in range(members):
        settings = f"{characters}-{width}-{epochs}-{seed}-{member}"
        path = folder / f"conv{width}-{settings}.safetensors"
        paths.append(path)
        if path.is_file():
            continue
        log.info("teacher %d of %d: conv%d, %d steps", member + 1, members, width, steps)
        module = train_classifier(
            f"conv{width}",
            LossConfig(mode="erm", label_smoothing=0.0),
            ReinforcementData(
                test_images(characters),
                images=images,
                mode="erm",
                augment=GLYPH_AUGMENT,
                batch_size=BATCH,
                total_steps=steps,
                eval_resize=0,
                seed=1000 * (seed + 1) + member,
                workers=0,
            ),
            classes=characters,
        )
        with atomic.open_atomic(path) as file:
            weights = {k: v.contiguous() for k, v in module.network.state_dict().items()}
            save_file(weights, file.name)
    model = f"conv{width}"
    return TeacherConfig(
        members=tuple(
            MemberConfig(model=model, checkpoint=path, size=32, mean=MEAN, std=STD)
            for path in paths
        )
    )


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
    make_trainer(steps).fit(module, datamodule=data)
    return module


def make_trainer(steps: int = -1) -> lightning.Trainer:
    """Return a silent trainer on the CPU."""
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
