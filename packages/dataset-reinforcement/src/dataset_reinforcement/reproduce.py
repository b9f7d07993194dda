"""The claim at small scale: stored labels give distillation's accuracy at the price of hard labels.

Students see characters in two faces and are measured in five others; teachers have seen nine
more faces, which stands for the paper's web-scale pre-training (spec 7a). Every arm of a seed
starts from the same weights and takes the same number of steps.
"""

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dataset_reinforcement.claims import ARMS, DR, ERM, KD, UNSMOOTHED, Setting, Values, judge
from dataset_reinforcement.config import LossConfig
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.demo_store import (
    BATCH,
    GLYPH_AUGMENT,
    DemoTeachers,
    demo_store,
    student_images,
    teachers_folder,
    test_images,
    train_classifier,
)
from dataset_reinforcement.images import open_images
from dataset_reinforcement.teacher import build_teacher
from dataset_reinforcement.teacher_config import TeacherConfig
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs
from tenfold.measurements import Measurements, one_thread
from tenfold.results import save_result, show_result

STUDENTS = ("conv8", "separable16")
LOSSES = {
    ERM: LossConfig(mode="erm"),
    UNSMOOTHED: LossConfig(mode="erm", label_smoothing=0.0),
    KD: LossConfig(mode="kd"),
    DR: LossConfig(mode="dr"),
}
METRICS = ("top1", "ece", "cpu_s")


@dataclass(frozen=True)
class Scale:
    """How many classes there are, and how long everything trains."""

    characters: int
    epochs: int
    teacher_width: int
    teacher_epochs: int
    views: int = 40

    @property
    def teachers(self) -> DemoTeachers:
        """The ensemble."""
        return DemoTeachers(
            characters=self.characters,
            members=3,
            width=self.teacher_width,
            epochs=self.teacher_epochs,
            seed=0,
        )

    @property
    def steps(self) -> int:
        """Steps of a student."""
        return self.epochs * len(open_images(student_images(self.characters))) // BATCH


SCALES = {"tiny": Scale(100, 140, 16, 20), "small": Scale(300, 200, 40, 20)}


@dataclass(frozen=True)
class Run:
    """One student to train."""

    student: str
    arm: str
    seed: int
    size: Scale
    store: Path

    @property
    def key(self) -> str:
        """Name of the job."""
        return f"{self.student}-{ARMS.index(self.arm)}-{self.seed}"


def reproduce(
    *,
    scale: Literal["tiny", "small"] = "tiny",
    seeds: int = 5,
    workers: int = 2,
    data: Path = Path("data/reproduce-reinforcement"),
    out: Path = Path("results/dataset-reinforcement"),
) -> int:
    """Compare reinforced students with ERM and with distillation on the fly.

    Args:
        scale: `tiny` has 100 characters and takes minutes; `small` has 300, wider teachers and
            longer runs, and takes an hour or more.
        seeds: Runs of each arm and student.
        workers: Students that train at a time, one thread each.
        data: Folder of teachers, store and what has been measured: the same command at the same
            commit goes on where it was interrupted.
        out: Folder of the result files and their plots.

    Returns:
        0 when every claim holds, 1 when one does not.

    Raises:
        ValueError: There are fewer than two seeds.
    """
    if seeds < 2:
        raise ValueError(f"seeds must be >= 2, an interval needs them, got {seeds}")
    silence_adverts()
    size, kept = SCALES[scale], Measurements(data / "measured")
    folder = data / f"{scale}-{kept.revision}"
    if not kept.is_reusable:
        shutil.rmtree(folder, ignore_errors=True)
    store = folder / "store"
    with one_thread():
        once = kept.get(f"{scale}-store", lambda: _prepare(size, store, workers))
    runs = [
        Run(student, arm, seed, size, store)
        for seed in range(seeds)
        for student in STUDENTS
        for arm in ARMS
    ]
    measured = run_jobs(
        train_student,
        {run.key: run for run in runs},
        out=folder / "students",
        settings={},
        workers=workers,
        title="students",
    )
    notes = (
        f"{size.steps} steps of {BATCH} images, one thread; {size.characters} classes, "
        f"{size.views} stored views. Paid once: teachers {once['teacher_cpu_s']:.0f} CPU s, "
        f"store {once['store_cpu_s']:.0f} CPU s; teacher's top-1 {once['teacher_top1']:.3f}."
    )
    values = {student: _values(runs, measured, student) for student in STUDENTS}
    results = judge(values, Setting(scale=scale, notes=notes))
    for file, result in results.items():
        save_result(result, out / f"{file}_{scale}.json")
        show_result(result)
    return 0 if all(result.holds for result in results.values()) else 1


def train_student(run: Run, folder: Path) -> dict[str, float]:
    """Train and measure one student; a job, which leaves no file in its folder."""
    silence_adverts()
    loss = LOSSES[run.arm]
    characters = run.size.characters
    batches = ReinforcementData(
        test_images(characters),
        images=student_images(characters),
        store=run.store if run.arm == DR else None,
        mode=loss.mode,
        augment=GLYPH_AUGMENT,
        batch_size=BATCH,
        total_steps=run.size.steps,
        eval_resize=0,
        seed=run.seed,
        workers=0,
    )
    teacher = run.size.teachers.config(teachers_folder(run.store)) if run.arm == KD else None
    started = time.process_time()
    module = train_classifier(run.student, loss, batches, classes=characters, teacher=teacher)
    seconds = time.process_time() - started
    (metrics,) = bare_trainer().test(module, datamodule=batches, verbose=False)
    return {"top1": metrics["test/top1"], "ece": metrics["test/ece"], "cpu_s": seconds}


def _prepare(size: Scale, store: Path, workers: int) -> dict[str, float]:
    """Train the teachers and make the store; return what both cost, with the processes' imports."""
    started = _cpu_seconds()
    teacher = size.teachers.train(teachers_folder(store), workers=workers)
    trained = _cpu_seconds()
    demo_store(store, views=size.views, **asdict(size.teachers), workers=workers)
    return {
        "teacher_cpu_s": trained - started,
        "store_cpu_s": _cpu_seconds() - trained,
        "teacher_top1": _accuracy(teacher, size.characters),
    }


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    mine = os.times()
    return mine.user + mine.system + mine.children_user + mine.children_system


def _accuracy(teacher: TeacherConfig, characters: int) -> float:
    ensemble = build_teacher(teacher, num_classes=characters)
    images = open_images(test_images(characters))
    hits = sum(
        int(ensemble.probabilities(images.load(n)[None]).argmax()) == images.label(n)
        for n in range(len(images))
    )
    return hits / len(images)


def _values(runs: list[Run], measured: dict[str, Any], student: str) -> Values:
    """Return the values of a student by metric and arm, in the order of the seeds."""
    return {
        metric: {arm: _of(runs, measured, student, arm, metric) for arm in ARMS}
        for metric in METRICS
    }


def _of(
    runs: list[Run], measured: dict[str, Any], student: str, arm: str, metric: str
) -> list[float]:
    chosen = (run for run in runs if run.student == student and run.arm == arm)
    return [measured[run.key][metric] for run in chosen]
