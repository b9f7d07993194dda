"""The scale `gpu` of `reproduce`: MobileCLIP-S0 on composed scenes, on one GPU (spec 7b).

Scenes with noisy captions are drawn, two ViT CLIPs learn from clean ones, and their knowledge is
stored. Then CLIP, stored and live distillation train for the same number of steps, from the same
weights in each seed. All that is made is kept: an interrupted run goes on where it stopped.

Not here: what is concluded (`claims_gpu`).
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mobileclip.claims import BOTH, DR
from mobileclip.claims_gpu import NAMES, ONLINE, Storage, judge_gpu
from mobileclip.config import LossConfig, Mode
from mobileclip.demo_data import REINFORCED, TEACHING, TEST, WEB, teacher_name
from mobileclip.demo_scenes import EMPTY, WRONG, Part
from mobileclip.demo_scenes_shards import NUM_IMAGES, SHARD, draw_scenes, scene_augment
from mobileclip.demo_training import Place, TrainingSetup, train_clip
from mobileclip.generate.embeddings import generate_embeddings
from mobileclip.generate.teacher_config import TeacherConfig, TeacherEnsembleConfig
from mobileclip.gpu_clock import StepTimes
from mobileclip.gpu_scores import composition_top1, retrieval_at_1
from mobileclip.gpu_teachers import VIT_S, TeacherShape, TeacherTask, train_teacher
from mobileclip.schema import read_info
from mobileclip.stats import count, expected_bytes
from mobileclip.tar_paths import list_tars
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs
from tenfold.results import Result

ARMS: Mapping[str, Mode] = {BOTH: "clip", DR: "dr", ONLINE: "online"}
RETRIEVAL = "retrieval"
MOST_GENERATORS = 6
"""Processes that embed; each has its own teachers and its own context on the GPU."""


@dataclass(frozen=True, kw_only=True)
class SceneScale:
    """Sizes of everything; the defaults fill 18 minutes of an H100 with 16 cores, by estimate.

    Attributes:
        images: Of the student.
        teaching: Of the teachers.
        test: Drawings of held-out compositions; as many measure retrieval.
        shard: Drawings of a shard.
        student: Its model.
        image_size: Side of all images, pixels.
        batch_size: Pairs of a student's step.
        micro_batch: Of them, encoded at once.
        steps: Of a student.
        lr: Its highest learning rate.
        teacher: Shape of the teachers.
        members: Their number.
        teacher_batch: Pairs of a teacher's step.
        teacher_steps: Of a teacher.
        views: Stored views of an image.
    """

    images: int = NUM_IMAGES
    teaching: int = 50_000
    test: int = 2048
    shard: int = SHARD
    student: str = "s0"
    image_size: int = 128
    batch_size: int = 2048
    micro_batch: int = 512
    steps: int = 200
    lr: float = 1e-3
    teacher: TeacherShape = VIT_S
    members: int = 2
    teacher_batch: int = 512
    teacher_steps: int = 1500
    views: int = 5


@dataclass(frozen=True, kw_only=True)
class SceneRun:
    """One student to train.

    Attributes:
        arm: Name of its way of training.
        seed: Key of its weights and of its order of pairs.
        size: Sizes of everything.
        folder: Of all data.
    """

    arm: str
    seed: int
    size: SceneScale
    folder: Path

    @property
    def key(self) -> str:
        """Name of the job."""
        return f"{ARMS[self.arm]}-{self.seed}"


def compare_on_scenes(
    size: SceneScale, folder: Path, *, seeds: int, workers: int, place: Place
) -> dict[str, Result]:
    """Make what is missing, train every arm, and judge.

    Args:
        size: Sizes of everything.
        folder: Of all data.
        seeds: Runs of each arm.
        workers: Processes that draw scenes and views.
        place: Where networks run.

    Returns:
        Results by file name.
    """
    parts: dict[Part, int] = {
        "web": size.images,
        "teaching": size.teaching,
        "test": size.test,
        "retrieval": size.test,
    }
    for part, images in parts.items():
        draw_scenes(
            folder / part,
            part,
            images=images,
            size=size.image_size,
            shard=size.shard,
            workers=workers,
        )
    taught = train_teachers(size, folder, place=place)
    store_embeddings(size, folder, workers=workers, place=place)
    runs = [
        SceneRun(arm=arm, seed=seed, size=size, folder=folder)
        for seed in range(seeds)
        for arm in ARMS
    ]
    measured = run_jobs(
        partial(train_scene_student, place=place),
        {run.key: run for run in runs},
        out=folder / "students",
        settings={},
        title="students",
    )
    values = {
        metric: {arm: [measured[run.key][metric] for run in runs if run.arm == arm] for arm in ARMS}
        for metric in NAMES
        if metric in measured[runs[0].key]
    }
    return judge_gpu(values, stored_bytes(folder / REINFORCED), notes=_notes(size, taught))


def train_teachers(size: SceneScale, folder: Path, *, place: Place) -> dict[str, dict[str, float]]:
    """Train the teachers that are missing; return accuracy and seconds of each."""
    tasks = {
        teacher_name(seed): TeacherTask(
            shape=size.teacher,
            image_size=size.image_size,
            steps=size.teacher_steps,
            batch_size=size.teacher_batch,
            seed=seed,
            teaching=folder / TEACHING,
            test=folder / TEST,
        )
        for seed in range(size.members)
    }
    return run_jobs(
        partial(train_teacher, place=place),
        tasks,
        out=folder / "teachers",
        settings={},
        title="teachers",
    )


def teacher_ensemble(size: SceneScale, folder: Path, *, place: Place) -> TeacherEnsembleConfig:
    """Return the options of the trained teachers."""
    names = map(teacher_name, range(size.members))
    return TeacherEnsembleConfig(
        members=tuple(
            TeacherConfig(model=f"local-dir:{folder / 'teachers' / name}") for name in names
        ),
        precision="bf16" if place.device == "cuda" else "fp32",
        batch=size.teacher_batch,
    )


def store_embeddings(size: SceneScale, folder: Path, *, workers: int, place: Place) -> None:
    """Store the teachers' embeddings beside the web pairs, in `folder/reinforced`."""
    generate_embeddings(
        str(folder / WEB),
        folder / REINFORCED,
        teacher_ensemble(size, folder, place=place),
        views=size.views,
        augment=scene_augment(size.image_size),
        workers=min(workers, MOST_GENERATORS),
        devices=[place.device],
    )


def stored_bytes(reinforced: Path) -> Storage:
    """Return the bytes of a sample's embeddings, counted and by the formula."""
    found = count(list_tars(str(reinforced))[1])
    return Storage(
        measured=found.member_bytes["emb.bin"] / found.samples,
        formula=expected_bytes(read_info(reinforced), "emb.bin"),
    )


def train_scene_student(run: SceneRun, folder: Path, *, place: Place) -> dict[str, float]:
    """Train and measure one student; a job, which leaves no file in its folder."""
    silence_adverts()
    on_gpu = place.device == "cuda"
    if on_gpu:
        gc.collect()  # what the last student left would count as this one's memory
        torch.cuda.reset_peak_memory_stats()
    times, size = StepTimes(on_gpu=on_gpu), run.size
    module = train_clip(
        TrainingSetup(
            steps=size.steps,
            model=size.student,
            image_size=size.image_size,
            batch_size=size.batch_size,
            lr=size.lr,
            augment=scene_augment(size.image_size),
        ),
        student_loss(run),
        run.folder / REINFORCED,
        val=run.folder / TEST,
        seed=run.seed,
        place=place,
        teachers=(
            teacher_ensemble(size, run.folder, place=place) if ARMS[run.arm] == "online" else None
        ),
        callbacks=[times],
    )
    values: dict[str, Any] = {
        "pairs_per_s": size.batch_size / times.step_seconds,
        "busy_share": times.busy_share,
    }
    if on_gpu:
        values["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    recall = retrieval_at_1(module.network, run.folder / RETRIEVAL, device=place.device)
    return values | {
        "top1": composition_top1(module.network, run.folder / TEST, device=place.device),
        "image_to_text_r1": recall.image_to_text,
        "text_to_image_r1": recall.text_to_image,
    }


def student_loss(run: SceneRun) -> LossConfig:
    """Return the loss of an arm, on both captions in all of them."""
    mode = ARMS[run.arm]
    return LossConfig(
        mode=mode,
        captions="both",
        distill_weight=0.0 if mode == "clip" else 1.0,
        micro_batch=run.size.micro_batch,
    )


def _notes(size: SceneScale, taught: Mapping[str, Mapping[str, float]]) -> str:
    accuracies = ", ".join(f"{teacher['top1']:.3f}" for teacher in taught.values())
    seconds = sum(teacher["seconds"] for teacher in taught.values())
    return (
        f"{size.student} at {size.image_size} pixels, {size.steps} steps of {size.batch_size} "
        f"pairs in micro-batches of {size.micro_batch}; {size.images} composed scenes, "
        f"{WRONG + EMPTY:.0%} of the web captions noise, {size.views} stored views. Teachers' "
        f"top-1 {accuracies}, trained in {seconds:.0f} s together."
    )
