"""The verb `reproduce`: reinforced pairs teach a small CLIP more than the same pairs alone.

Students see handwritten digits with noisy web captions and are measured on other digits. All arms
of a seed start from the same weights and take the same number of steps (spec 7a).

Not here: what is concluded (`claims`), and the scale `gpu` (`reproduce_gpu`).
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mobileclip.claims import (
    BOTH,
    DR,
    DR_75,
    DR_REAL,
    DR_SYNTHETIC,
    MISMATCHED,
    REAL,
    SINGLE,
    judge,
)
from mobileclip.config import Captions, LossConfig, Mode
from mobileclip.demo_data import REINFORCED, SOURCES, TEST, demo_data, store_embeddings
from mobileclip.demo_mismatch import shuffle_views
from mobileclip.demo_scores import demo_scores
from mobileclip.demo_training import Place, TrainingSetup, train_clip
from mobileclip.reproduce_gpu import SceneScale, compare_on_scenes
from mobileclip.stored_online import largest_difference
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs
from tenfold.loader_workers import processors
from tenfold.measurements import Measurements, one_thread
from tenfold.results import Result, save_result, show_result

SINGLE_TEACHER, SHUFFLED = "reinforced-one-teacher", "reinforced-shuffled"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way of training.

    Attributes:
        name: Its name in tables.
        mode: See `LossConfig`.
        captions: See `LossConfig`.
        distill_weight: lambda.
        store: Folder of its pairs, below the demo's.
    """

    name: str
    mode: Mode
    captions: Captions
    distill_weight: float = 1.0
    store: str = REINFORCED


GATED = (
    Arm(name=REAL, mode="clip", captions="real", distill_weight=0.0),
    Arm(name=BOTH, mode="clip", captions="both", distill_weight=0.0),
    Arm(name=DR, mode="dr", captions="both"),
)
REPORTED = (
    Arm(name=DR_75, mode="dr", captions="both", distill_weight=0.75),
    Arm(name=DR_REAL, mode="dr", captions="real"),
    Arm(name=DR_SYNTHETIC, mode="dr", captions="synthetic"),
    Arm(name=SINGLE, mode="dr", captions="both", store=SINGLE_TEACHER),
    Arm(name=MISMATCHED, mode="dr", captions="both", store=SHUFFLED),
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a scale decides.

    Attributes:
        source: Drawings of the demo.
        classes: Their classes.
        steps: Of a student.
        teacher_steps: Of a teacher.
        arms: What is compared.
    """

    source: Literal["digits", "glyphs"] = "digits"
    classes: int = 10
    steps: int
    teacher_steps: int
    arms: tuple[Arm, ...]


SCALES = {
    "tiny": Scale(steps=150, teacher_steps=200, arms=GATED),
    "small": Scale(steps=300, teacher_steps=300, arms=GATED + REPORTED),
    "glyphs": Scale(
        source="glyphs", classes=200, steps=200, teacher_steps=300, arms=GATED + REPORTED
    ),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One student to train."""

    arm: Arm
    seed: int
    size: Scale
    demo: Path

    @property
    def key(self) -> str:
        """Name of the job."""
        name = "".join(letter if letter.isalnum() else "-" for letter in self.arm.name)
        return f"{name}-{self.seed}"


def reproduce(
    *,
    scale: Literal["tiny", "small", "glyphs", "gpu"] = "tiny",
    seeds: int | None = None,
    workers: int | None = None,
    data: Path = Path("data/reproduce-mobileclip"),
    out: Path = Path("results/mobileclip"),
) -> int:
    """Compare reinforced training with CLIP on real, and on real and synthetic captions.

    Args:
        scale: `tiny` takes minutes; `small` has longer runs and all arms of the paper's ablation
            that the data allow; `glyphs` has 200 characters in place of the ten digits; `gpu`
            trains MobileCLIP-S0 on 100,000 composed scenes, also beside live teachers, and needs a
            GPU.
        seeds: Runs of each arm; by default 5, and 2 at `gpu`.
        workers: Processes: students that train at a time with one thread each, by default 2; at
            `gpu`, what draws and reads images, by default one less than the cores.
        data: Folder of pairs, teachers and what has been measured: the same command at the same
            commit goes on where it was interrupted.
        out: Folder of the result files and their plots.

    Returns:
        0 when every claim holds, 1 when one does not.

    Raises:
        ValueError: There are too few seeds or workers, or no GPU for the scale `gpu`.
    """
    seeds, workers = _checked(seeds, workers, on_gpu=scale == "gpu")
    silence_adverts()
    kept = Measurements(data / "measured")
    folder = data / f"{scale}-{kept.revision}"
    if not kept.is_reusable:
        shutil.rmtree(folder, ignore_errors=True)
    if scale == "gpu":
        place = Place(device="cuda", loaders=workers)
        results = compare_on_scenes(SceneScale(), folder, seeds=seeds, workers=workers, place=place)
    else:
        results = _compare(scale, folder, seeds=seeds, workers=workers)
    for file, result in results.items():
        save_result(result, out / f"{file}_{scale}.json")
        show_result(result)
    return 0 if all(result.holds for result in results.values()) else 1


def _checked(seeds: int | None, workers: int | None, *, on_gpu: bool) -> tuple[int, int]:
    """Return seeds and workers, completed.

    Raises:
        ValueError: There are too few of them, or there is no GPU.
    """
    if on_gpu and not torch.cuda.is_available():
        raise ValueError(
            "scale gpu needs an NVIDIA GPU and torch sees none: run it on a machine with one, or "
            "take scale tiny"
        )
    seeds = (2 if on_gpu else 5) if seeds is None else seeds
    workers = (max(1, processors() - 1) if on_gpu else 2) if workers is None else workers
    if seeds < (least := 1 if on_gpu else 2) or workers < 1:
        raise ValueError(f"seeds must be >= {least} and workers >= 1, got {seeds} and {workers}")
    return seeds, workers


def _compare(scale: str, folder: Path, *, seeds: int, workers: int) -> dict[str, Result]:
    size = SCALES[scale]
    demo = prepare(size, folder / "demo", workers=workers)
    runs = [
        Run(arm=arm, seed=seed, size=size, demo=demo) for seed in range(seeds) for arm in size.arms
    ]
    measured = run_jobs(
        train_student,
        {run.key: run for run in runs},
        out=folder / "students",
        settings={"steps": size.steps},
        workers=workers,
        title="students",
    )
    with one_thread():
        exact = folder / "exact"
        differences = [largest_difference(demo, exact, seed=seed) for seed in range(seeds)]
    return judge(_values(runs, measured), differences, scale=scale, notes=_notes(size))


def prepare(size: Scale, demo: Path, *, workers: int) -> Path:
    """Make the demo's data and what the arms need besides; return its folder."""
    demo_data(
        demo,
        source=size.source,
        classes=size.classes,
        teacher_steps=size.teacher_steps,
        workers=workers,
    )
    stores = {arm.store for arm in size.arms}
    if SINGLE_TEACHER in stores:
        store_embeddings(demo, demo / SINGLE_TEACHER, members=1, views=5, seed=0)
    if SHUFFLED in stores:
        shuffle_views(demo / REINFORCED, demo / SHUFFLED)
    return demo


def train_student(run: Run, folder: Path) -> dict[str, float]:
    """Train and measure one student; a job, which leaves no file in its folder."""
    silence_adverts()
    with one_thread():
        started = time.process_time()
        module = train_clip(
            TrainingSetup(steps=run.size.steps),
            student_loss(run.arm),
            run.demo / run.arm.store,
            val=run.demo / TEST,
            seed=run.seed,
        )
        seconds = time.process_time() - started
        scores = demo_scores(module.network, run.demo / TEST, SOURCES[run.size.source])
    return {"top1": scores.top1, "kind": scores.kind, "cpu_s": seconds}


def student_loss(arm: Arm) -> LossConfig:
    """Return the loss of an arm."""
    return LossConfig(mode=arm.mode, captions=arm.captions, distill_weight=arm.distill_weight)


def _values(runs: Sequence[Run], measured: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return metric to arm to one value a seed."""
    values: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for metric, value in measured[run.key].items():
            values.setdefault(metric, {}).setdefault(run.arm.name, []).append(value)
    return values


def _notes(size: Scale) -> str:
    setup = TrainingSetup(steps=size.steps)
    return (
        f"{size.steps} steps of {setup.batch_size} pairs, one thread; {size.classes} classes of "
        f"{size.source}, 60 % of the web captions noise, the same stored views in all arms but "
        "those of CLIP, which are drawn anew by the same rule."
    )
