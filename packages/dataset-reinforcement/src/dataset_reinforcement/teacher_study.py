"""The verb `teacher-study`: which teacher makes the best students (paper section 3).

The most accurate teacher need not be the best one. Every candidate distils every student for a
short budget, beside it and without a store; teachers are ranked by the students' accuracy. Each run
is a job of its own: a study that was interrupted goes on, and one that gets another teacher or
student runs only what is new.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import lightning
import torch
from rich.console import Console

from dataset_reinforcement.config import IMAGENET_MEAN, IMAGENET_STD, LossConfig, ModelConfig
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.evaluation_images import evaluation_augment
from dataset_reinforcement.images import open_images
from dataset_reinforcement.module import ReinforcementModule
from dataset_reinforcement.robustness import Part
from dataset_reinforcement.scoring import score_part
from dataset_reinforcement.study_report import StudyResult, plot_study, report
from dataset_reinforcement.teacher import build_teacher
from dataset_reinforcement.teacher_config import RGB, TeacherConfig
from dataset_reinforcement.weights import weights_file
from tenfold import atomic
from tenfold.augment.config import AugmentConfig
from tenfold.augment.params import ViewParams
from tenfold.bare_trainer import bare_trainer
from tenfold.callbacks import StepSeed
from tenfold.cli.quiet import silence_adverts
from tenfold.devices import choose_device
from tenfold.jobs import run_jobs
from tenfold.optim_config import OptimConfig

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class StudentRecipe:
    """A student and its budget.

    Attributes:
        model: A timm model, or `conv<width>`, `separable<width>`.
        optim: Optimiser; `total_steps` is the budget.
    """

    model: str
    optim: OptimConfig


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """What all runs of a study share.

    Attributes:
        images: Images to train on.
        val: Images to measure on.
        augment: Augmentation; its size is the students'.
        batch_size: Images of a step.
        eval_resize: Side to which the shorter edge is scaled to measure; 0 for the whole image.
        mean: Mean of each channel, for the students.
        std: Standard deviation of each channel.
    """

    images: str
    val: str
    augment: AugmentConfig
    batch_size: int
    eval_resize: int
    mean: RGB
    std: RGB


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A teacher's own measure, or a student that it distils.

    Attributes:
        data: Images and sizes.
        teacher: The candidate.
        weights: SHA-256 of its files, so that other weights at the same place are another run.
        student: The student; None measures the teacher.
        seed: Key of initial weights, order and views.
    """

    data: StudyData
    teacher: TeacherConfig
    weights: tuple[str, ...]
    student: StudentRecipe | None
    seed: int


def teacher_study(
    images: str,
    val: str,
    out: Path,
    *,
    teachers: dict[str, TeacherConfig],
    students: dict[str, StudentRecipe],
    augment: AugmentConfig = AugmentConfig(rand_augment=1.0, erase=0.25),
    batch_size: int = 256,
    seeds: list[int] | None = None,
    eval_resize: int = 256,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
    workers: int = 4,
    device: str = "auto",
) -> None:
    """Rank candidate teachers by the accuracy of the students that they distil.

    Args:
        images: Images to train on, in any form that `open_images` takes.
        val: Images to measure on.
        out: Folder of `teacher_study.json`, its heat map and the finished runs.
        teachers: Name to members of each candidate.
        students: Name to model and optimiser of each student.
        augment: Augmentation of the images that teacher and student look at.
        batch_size: Images of a step.
        seeds: Runs of each pair; one with seed 0 by default.
        eval_resize: Side to which the shorter edge of images to measure on is scaled before the
            centre is cut out; 0 scales the image as a whole.
        mean: Mean of each channel over 0..1, for the students.
        std: Standard deviation of each channel, for the students.
        workers: Processes that read images.
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`.

    Raises:
        FileNotFoundError: Images are missing.
        ValueError: There is no teacher, student or seed, or the two image sets differ in classes.
        JobError: A run failed; the others are kept.
    """
    seeds = [0] if seeds is None else seeds
    for name, given in (("teachers", teachers), ("students", students), ("seeds", seeds)):
        if not given:
            raise ValueError(f"{name} is empty: give at least one")
    data = StudyData(
        images=images,
        val=val,
        augment=augment,
        batch_size=batch_size,
        eval_resize=eval_resize,
        mean=mean,
        std=std,
    )
    silence_adverts()
    runs = study_runs(data, teachers, students, seeds)
    run = partial(measure, workers=workers, device=choose_device(device))
    found = run_jobs(run, runs, out=out, settings={"schema": SCHEMA}, title="teacher_study")
    result = collect(found, list(teachers), list(students), seeds)
    atomic.write_json(out / "teacher_study.json", {"schema": SCHEMA, **result.to_json()})
    plot_study(result, out / "teacher_study.png")
    Console().print(report(result))


def study_runs(
    data: StudyData,
    teachers: Mapping[str, TeacherConfig],
    students: Mapping[str, StudentRecipe],
    seeds: list[int],
) -> dict[str, StudyRun]:
    """Return every run by its key."""
    runs: dict[str, StudyRun] = {}
    for name, teacher in teachers.items():
        paths = [member.checkpoint for member in teacher.members if member.checkpoint is not None]
        weights = tuple(atomic.sha256_file(weights_file(path)) for path in paths)
        runs[_key(name)] = StudyRun(
            data=data, teacher=teacher, weights=weights, student=None, seed=0
        )
        for student, recipe in students.items():
            for seed in seeds:
                of_pair = replace(runs[_key(name)], student=recipe, seed=seed)
                runs[_key(name, student, seed)] = of_pair
    return runs


def collect(
    found: Mapping[str, float], teachers: list[str], students: list[str], seeds: list[int]
) -> StudyResult:
    """Return the matrix of accuracies from those of the runs."""
    return StudyResult(
        teachers=tuple(teachers),
        students=tuple(students),
        seeds=tuple(seeds),
        teacher_top1=tuple(found[_key(teacher)] for teacher in teachers),
        per_seed={
            teacher: {
                student: tuple(found[_key(teacher, student, seed)] for seed in seeds)
                for student in students
            }
            for teacher in teachers
        },
    )


def measure(run: StudyRun, folder: Path, *, workers: int, device: torch.device) -> float:
    """Return the top-1 accuracy of a run, 0..1; a job of `tenfold.jobs`.

    Args:
        run: What to train and measure.
        folder: For files, of which there are none.
        workers: Processes that read images.
        device: Where teacher and student run.
    """
    if run.student is None:
        return _teacher_accuracy(run, device)
    return _student_accuracy(run, run.student, workers, device)


def _teacher_accuracy(run: StudyRun, device: torch.device) -> float:
    data, held_out = run.data, open_images(run.data.val)
    classes = len(held_out.classes)
    teacher = build_teacher(
        run.teacher, num_classes=classes, classes=held_out.classes, device=device
    )
    shown = evaluation_augment(data.augment.size, resize=data.eval_resize or None)
    score = score_part(
        lambda batch: teacher.probabilities(batch).log().cpu(),
        Part(name="", images=held_out, accepted=tuple((label,) for label in range(classes))),
        lambda image: shown.apply(image, ViewParams()),
        num_classes=classes,
        batch_size=data.batch_size,
    )
    return score.top1


def _student_accuracy(
    run: StudyRun, recipe: StudentRecipe, workers: int, device: torch.device
) -> float:
    lightning.seed_everything(run.seed, verbose=False)
    data, steps = run.data, recipe.optim.total_steps
    module = ReinforcementModule(
        ModelConfig(
            name=recipe.model,
            classes=len(open_images(data.val).classes),
            image_size=data.augment.size,
            mean=data.mean,
            std=data.std,
        ),
        LossConfig(mode="kd"),
        recipe.optim,
        teacher=run.teacher,
    )
    trainer = bare_trainer(
        steps,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        callbacks=[StepSeed(run.seed)],
    )
    images = ReinforcementData(
        data.val,
        images=data.images,
        mode="kd",
        augment=data.augment,
        batch_size=data.batch_size,
        total_steps=steps,
        eval_resize=data.eval_resize,
        eval_batch_size=data.batch_size,
        seed=run.seed,
        workers=workers,
    )
    trainer.fit(module, datamodule=images)
    (measured,) = trainer.test(module, datamodule=images, verbose=False)
    return float(measured["test/top1"])


def _key(teacher: str, student: str | None = None, seed: int = 0) -> str:
    return teacher if student is None else f"{teacher}--{student}--{seed}"
