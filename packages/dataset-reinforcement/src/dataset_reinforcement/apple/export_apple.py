"""The verb `export-apple`: a store to an official folder of pickles."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataset_reinforcement.apple.augmentation import to_apple
from dataset_reinforcement.apple.layout import CONFIG, image_file
from dataset_reinforcement.store.columns import Reinforcement
from dataset_reinforcement.store.info import INFO
from dataset_reinforcement.store.reading import Store
from tenfold import atomic
from tenfold.augment.config import AugmentConfig
from tenfold.augment.positional import encode
from tenfold.jobs import run_jobs

_PROTOCOL = 4
_IMAGES_A_JOB = 1024


@dataclass(frozen=True)
class ExportTask:
    """Some files to write.

    Attributes:
        store: Folder of the store.
        images: First image and the one after the last.
        fingerprint: Of the store, so that another one's files are not taken for these.
        sha256: Of the store's shards, likewise.
    """

    store: Path
    images: tuple[int, int]
    fingerprint: str
    sha256: tuple[str, ...]


def export_apple(store: Path, out: Path, *, workers: int = 1) -> None:
    """Write a store as an official folder, one file an image.

    The official training reads it, with a torch that still loads such pickles. It makes crops with
    Pillow, so its views come close to what the teacher saw, not bit for bit. A killed run continues
    when the same command is given again.

    Args:
        store: A complete store.
        out: Folder of `0.pth.tar`, `1.pth.tar` ... and `config.pth.tar`.
        workers: Number of worker processes.

    Raises:
        ValueError: An image is not reinforced, which the official code cannot express, the pipeline
            is none of the official ones, the store is damaged, or `out` is the store.
    """
    opened = Store.open(store)
    out = Path(out)
    if (out / INFO).exists():
        raise ValueError(f"{out} is a store; choose another folder")
    augmentation = to_apple(opened.augment)
    if opened.info.skipped:
        skipped = opened.info.skipped[0]
        raise ValueError(
            f"image {skipped.index} ({skipped.key!r}) has no reinforcements ({skipped.reason}); "
            "the official layout needs all: mend the image and generate again"
        )
    opened.require_whole()
    shards = tuple(str(shard.sha256) for part in opened.info.parts for shard in part.shards)
    path = opened.path.resolve()
    tasks = {
        f"{first:010d}": ExportTask(path, (first, stop), opened.info.fingerprint, shards)
        for first, stop in _ranges(opened.num_images)
    }
    run_jobs(export_images, tasks, out=out, settings={}, workers=workers, title="export-apple")
    _save(out / CONFIG, _config(opened, augmentation))


def export_images(task: ExportTask, folder: Path) -> None:
    """Write some files below `folder`; a job of `export_apple`."""
    store = Store.open(task.store)
    for image in range(*task.images):
        views = [_view(store.read(image, view), store.augment) for view in range(store.num_views)]
        _save(image_file(folder, image), (image, views))


def _view(found: Reinforcement, config: AugmentConfig) -> dict[str, Any]:
    return {
        "params": encode(found.own, found.mix, config),
        "prob": (found.probabilities.tolist(), found.classes.tolist()),
    }


def _config(store: Store, augmentation: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "num_classes": len(store.classes),
        "teacher": store.info.teacher,
        "seed": store.info.seed,
        "reinforce": {
            "num_samples": store.num_views,
            "topk": store.top_k,
            "compress": True,
            "joblib": False,
            "image_augmentation": augmentation,
        },
    }


def _save(path: Path, value: object) -> None:
    with atomic.open_atomic(path) as file:
        torch.save(value, file, pickle_protocol=_PROTOCOL)


def _ranges(num_images: int) -> Iterator[tuple[int, int]]:
    for first in range(0, num_images, _IMAGES_A_JOB):
        yield first, min(first + _IMAGES_A_JOB, num_images)
