"""Decode every image once before generation: sizes, checksums, which images cannot be used.

With that known, partners are drawn from usable images only, and the identity of the data set is
known before the first prediction.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from dataset_reinforcement.images import ImageDecodeError, ImageSource, open_images
from dataset_reinforcement.store.info import Skipped
from dataset_reinforcement.store.samples import Sample
from tenfold.jobs import run_jobs

TITLE = "scan"
_IMAGES_PER_JOB = 4096


class Scan(NamedTuple):
    """The images in order, and those that cannot be decoded, whose samples have size 0."""

    samples: list[Sample]
    skipped: list[Skipped]


@dataclass(frozen=True)
class ScanTask:
    """A range of images; `identity` changes when their keys or encoded sizes do."""

    first: int
    stop: int
    identity: str


def scan_images(
    images: str,
    source: ImageSource,
    *,
    out: Path,
    workers: int = 1,
    ray_address: str | None = None,
) -> Scan:
    """Decode all images; a killed scan goes on where it stopped.

    Args:
        images: How workers open the images, see `open_images`.
        source: The same images, open.
        out: Folder of the store.
        workers: Number of processes.
        ray_address: Run on Ray instead.
    """
    tasks: dict[str, ScanTask] = {}
    for first in range(0, len(source), _IMAGES_PER_JOB):
        stop = min(first + _IMAGES_PER_JOB, len(source))
        tasks[f"{first:010d}"] = ScanTask(first, stop, _identity(source, first, stop))
    results = run_jobs(
        partial(_scan, images),
        tasks,
        out=out,
        settings={"decode": source.decode},
        workers=min(workers, max(len(tasks), 1)),
        ray_address=ray_address,
        title=TITLE,
    )
    sizes = [size for result in results.values() for size in result["sizes"]]
    checksums = [value for result in results.values() for value in result["checksums"]]
    skipped = [Skipped(**entry) for result in results.values() for entry in result["skipped"]]
    samples = [
        Sample(source.key(i), source.num_bytes(i), height, width, source.label(i), checksum)
        for i, ((height, width), checksum) in enumerate(zip(sizes, checksums, strict=True))
    ]
    return Scan(samples, skipped)


@lru_cache(maxsize=1)
def opened(images: str) -> ImageSource:
    """Open images once a process: listing a large folder takes long."""
    return open_images(images)


def _scan(images: str, task: ScanTask, folder: Path) -> dict[str, Any]:
    source = opened(images)
    sizes: list[list[int]] = []
    checksums: list[int] = []
    skipped: list[dict[str, Any]] = []
    for index in range(task.first, task.stop):
        checksums.append(source.checksum(index))
        try:
            sizes.append(list(source.load(index).shape[1:]))
        except ImageDecodeError as error:
            sizes.append([0, 0])
            entry = {"index": index, "key": source.key(index), "reason": str(error)}
            skipped.append(entry)
    return {"sizes": sizes, "checksums": checksums, "skipped": skipped}


def _identity(source: ImageSource, first: int, stop: int) -> str:
    digest = hashlib.sha256()
    for index in range(first, stop):
        digest.update(f"{source.key(index)}\0{source.num_bytes(index)}\n".encode())
    return digest.hexdigest()
