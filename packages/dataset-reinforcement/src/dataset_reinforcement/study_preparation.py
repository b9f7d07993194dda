"""What `reproduce` makes once, before any student trains: images, teachers, stores."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from dataset_reinforcement.classifier_training import Device, Place, StudyImages
from dataset_reinforcement.generate import generate
from dataset_reinforcement.images import open_images
from dataset_reinforcement.scales import Scale
from dataset_reinforcement.teacher import build_teacher
from dataset_reinforcement.teacher_config import TeacherConfig
from tenfold.measurements import Measurements

GENERATORS = 8
"""Processes that share the GPU while a store is generated."""
STORE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What students need.

    Attributes:
        images: Images.
        teacher: The trained ensemble.
        stores: Folder of the stores, each below its name.
        teacher_seconds: What the teachers' training took: CPU time, or time on a GPU.
        store_seconds: What all stores took, likewise.
        teacher_top1: Accuracy of the ensemble, 0..1.
    """

    images: StudyImages
    teacher: TeacherConfig
    stores: Path
    teacher_seconds: float
    store_seconds: float
    teacher_top1: float


def prepare(
    size: Scale, folder: Path, kept: Measurements, *, scale: str, place: Place, workers: int
) -> Prepared:
    """Make images, teachers and stores; each stage goes on where it was interrupted.

    Args:
        size: What is to be made.
        folder: Where all of it goes.
        kept: Where stores' times are remembered.
        scale: Name of `size`.
        place: Where teachers train.
        workers: Processes.
    """
    images = size.images.prepare(folder / "images", workers=workers)
    teachers = size.teachers(images)
    at_a_time = 1 if place.device == "cuda" else workers
    seconds = teachers.train(folder / "teachers", place=place, workers=at_a_time)
    teacher = teachers.config(folder / "teachers")
    generated = 0.0
    for name in size.stores:
        store = partial(_store, size, images, teacher, folder / "stores", name, workers=workers)
        generated += kept.get(f"{scale}-store-{name}", store)["seconds"]
    accuracy = partial(_accuracy, teacher, images.test, size.images.characters, place.device)
    return Prepared(
        images=images,
        teacher=teacher,
        stores=folder / "stores",
        teacher_seconds=seconds,
        store_seconds=generated,
        teacher_top1=kept.get(f"{scale}-teacher", accuracy)["top1"],
    )


def _store(
    size: Scale,
    images: StudyImages,
    teacher: TeacherConfig,
    folder: Path,
    name: str,
    *,
    workers: int,
) -> dict[str, float]:
    """Generate a store and return what it took."""
    on_gpu = size.device == "cuda"
    clock: Callable[[], float] = time.perf_counter if on_gpu else _cpu_seconds
    started = clock()
    generate(
        images.student,
        folder / name,
        teacher,
        augment=size.stores[name],
        views=size.views,
        top_k=min(size.top_k, size.images.characters),
        seed=STORE_SEED,
        shard_size=1024,
        view_batch=teacher.batch,
        workers=min(GENERATORS, workers) if on_gpu else 1,
        devices=[size.device],
    )
    return {"seconds": clock() - started}


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    mine = os.times()
    return mine.user + mine.system + mine.children_user + mine.children_system


def _accuracy(teacher: TeacherConfig, test: str, classes: int, device: Device) -> dict[str, float]:
    ensemble = build_teacher(teacher, num_classes=classes, device=device)
    images = open_images(test)
    hits = 0
    for first in range(0, len(images), teacher.batch):
        rows = range(first, min(first + teacher.batch, len(images)))
        views = torch.stack([images.load(row) for row in rows])
        truth = torch.tensor([images.label(row) for row in rows])
        hits += int((ensemble.probabilities(views).argmax(1).cpu() == truth).sum())
    return {"top1": hits / len(images)}
