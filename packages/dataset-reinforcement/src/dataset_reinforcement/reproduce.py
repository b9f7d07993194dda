"""The verb `reproduce`: stored labels give distillation's accuracy at the price of hard labels.

Students see characters in two faces and are measured in five others; teachers have seen nine
more faces, which stands for the paper's web-scale pre-training (spec 7a, 7b). Every arm of a seed
starts from the same weights and takes the same number of steps.

Not here: what is run (`scales`) and what is concluded (`claims`).
"""

import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from dataset_reinforcement.arm_table import arm_table
from dataset_reinforcement.claims import Setting, Values, judge
from dataset_reinforcement.classifier_training import Place, TrainingSetup, train_classifier
from dataset_reinforcement.corrupted_accuracy import corrupted_top1
from dataset_reinforcement.scales import SCALES, Arm, Scale
from dataset_reinforcement.step_clock import StepClock
from dataset_reinforcement.study_preparation import Prepared, prepare
from dataset_reinforcement.teacher_config import TeacherConfig
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs
from tenfold.measurements import Measurements, one_thread
from tenfold.results import save_result, show_result

MOST_WORKERS = 15


@dataclass(frozen=True, kw_only=True)
class Run:
    """One student to train.

    Attributes:
        student: Its network.
        arm: How it is trained.
        seed: Key of its weights and of its order of images.
        steps: Length of its training.
        setup: What it shares with the others.
        store: Reinforcements to replay.
        teacher: The teacher beside it.
    """

    student: str
    arm: Arm
    seed: int
    steps: int
    setup: TrainingSetup
    store: Path | None
    teacher: TeacherConfig | None

    @property
    def key(self) -> str:
        """Name of the job."""
        name = "".join(letter if letter.isalnum() else "-" for letter in self.arm.name)
        return f"{self.student}-{name}-{self.seed}"


def reproduce(
    *,
    scale: Literal["tiny", "small", "gpu"] = "tiny",
    seeds: int | None = None,
    workers: int | None = None,
    data: Path = Path("data/reproduce-reinforcement"),
    out: Path = Path("results/dataset-reinforcement"),
) -> int:
    """Compare reinforced students with ERM and with distillation on the fly.

    Args:
        scale: `tiny` has 100 characters and takes minutes; `small` has 300, wider teachers and
            longer runs, and takes an hour or more; `gpu` has 200 characters over photographs,
            ResNet teachers and all four augmentations, and needs a GPU.
        seeds: Runs of each arm and student; by default 5, and 1 at `gpu`.
        workers: Processes: students that train at a time with one thread each, by default 2; at
            `gpu`, what draws, reads and augments images, by default one less than the cores.
        data: Folder of images, teachers, stores and what has been measured: the same command at
            the same commit goes on where it was interrupted.
        out: Folder of the result files and their plots.

    Returns:
        0 when every claim holds, 1 when one does not.

    Raises:
        ValueError: There are too few seeds or workers, or no GPU for the scale `gpu`.
    """
    size = SCALES[scale]
    seeds, workers = _checked(size, seeds, workers)
    silence_adverts()
    kept = Measurements(data / "measured")
    folder = data / f"{scale}-{kept.revision}"
    if not kept.is_reusable:
        shutil.rmtree(folder, ignore_errors=True)
    on_gpu = size.device == "cuda"
    place = Place(device=size.device, loaders=workers if on_gpu else 0)
    with nullcontext() if on_gpu else one_thread():
        prepared = prepare(size, folder, kept, scale=scale, place=place, workers=workers)
    runs = _runs(size, prepared, seeds)
    measured = run_jobs(
        partial(train_student, place=place),
        {run.key: run for run in runs},
        out=folder / "students",
        settings={},
        workers=1 if on_gpu else workers,
        title="students",
    )
    values = {student: _values(size, runs, measured, student) for student in size.students}
    setting = Setting(
        scale=scale,
        notes=_notes(size, runs[0].steps, prepared),
        cost="s_per_epoch" if on_gpu else "cpu_s",
    )
    results = judge(values, setting)
    for file, result in results.items():
        save_result(result, out / f"{file}_{scale}.json")
        show_result(result)
    Console().print(arm_table(values, cost=setting.cost))
    return 0 if all(result.holds for result in results.values()) else 1


def train_student(run: Run, folder: Path, *, place: Place) -> dict[str, float]:
    """Train and measure one student; a job, which leaves no file in its folder."""
    silence_adverts()
    setup, images = run.setup, run.setup.images
    batches = setup.data(
        images.student,
        mode=run.arm.loss.mode,
        steps=run.steps,
        seed=run.seed,
        workers=place.loaders,
        store=run.store,
    )
    clock = StepClock(place.device)
    started = time.process_time()
    module = train_classifier(
        setup,
        run.student,
        run.arm.loss,
        batches,
        place=place,
        teacher=run.teacher,
        callbacks=[clock],
    )
    seconds = time.process_time() - started
    (metrics,) = place.trainer().test(module, datamodule=batches, verbose=False)
    return {
        "top1": metrics["test/top1"],
        "ece": metrics["test/ece"],
        "corrupted_top1": corrupted_top1(module, images.test, device=place.device),
        "cpu_s": seconds,
        "s_per_epoch": clock.step_seconds * images.num_student / setup.batch_size,
        "busy_share": clock.busy_share,
    }


def _checked(size: Scale, seeds: int | None, workers: int | None) -> tuple[int, int]:
    """Return seeds and workers, completed.

    Raises:
        ValueError: There are too few of them, or there is no GPU.
    """
    if size.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "scale gpu needs an NVIDIA GPU and torch sees none: run it on a machine with one, or "
            "take scale tiny"
        )
    cores = min(MOST_WORKERS, max(1, (os.cpu_count() or 2) - 1))
    seeds = size.seeds if seeds is None else seeds
    workers = (cores if size.device == "cuda" else 2) if workers is None else workers
    if seeds < (least := min(2, size.seeds)):
        raise ValueError(f"seeds must be >= {least}, an interval needs two, got {seeds}")
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    return seeds, workers


def _runs(size: Scale, prepared: Prepared, seeds: int) -> list[Run]:
    setup = size.setup(prepared.images)
    return [
        Run(
            student=student,
            arm=arm,
            seed=seed,
            steps=size.steps(prepared.images),
            setup=setup,
            store=None if arm.store is None else prepared.stores / arm.store,
            teacher=prepared.teacher if arm.loss.mode == "kd" else None,
        )
        for seed in range(seeds)
        for student in size.students
        for arm in size.arms
    ]


def _notes(size: Scale, steps: int, prepared: Prepared) -> str:
    where = "one GPU" if size.device == "cuda" else "one thread"
    unit = "s" if size.device == "cuda" else "CPU s"
    return (
        f"{steps} steps of {size.batch_size} images, {where}; {size.images.characters} classes, "
        f"{size.views} stored views. Paid once: teachers {prepared.teacher_seconds:.0f} {unit}, "
        f"stores {prepared.store_seconds:.0f} {unit}; teacher's top-1 {prepared.teacher_top1:.3f}."
    )


def _values(size: Scale, runs: list[Run], measured: dict[str, Any], student: str) -> Values:
    """Return the values of a student by metric and arm, in the order of the seeds."""
    metrics = measured[runs[0].key]
    return {
        metric: {arm.name: _of(runs, measured, student, arm, metric) for arm in size.arms}
        for metric in metrics
    }


def _of(
    runs: list[Run], measured: dict[str, Any], student: str, arm: Arm, metric: str
) -> list[float]:
    chosen = (run for run in runs if run.student == student and run.arm == arm)
    return [measured[run.key][metric] for run in chosen]
