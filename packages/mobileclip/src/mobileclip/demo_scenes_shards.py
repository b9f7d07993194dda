"""Composed scenes in tar shards, drawn by worker processes and restartable. Free of torch.

A drawing and its captions depend on seed, part and number alone, so that the bytes are the same for
any number of workers and the first images of a larger set are those of a smaller one.
"""

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileclip.demo_scenes import Part, draw_scene, real_caption, synthetic_captions
from mobileclip.demo_scenes_drawing import draw
from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.jobs import run_jobs
from tenfold.shards import ShardEntry, write_index, write_shard

NUM_IMAGES = 100_000
SHARD = 2500
SMALLEST = 32
"""Pixels: below that a star is a circle, and objects need not fit."""
JPEG_QUALITY = 95
CAPTIONER = "told with errors by the generator of the scenes"


def scene_augment(size: int) -> AugmentConfig:
    """Return views that leave a caption true: no flip, no other colours, no object cut off."""
    return AugmentConfig(size=size, scale=(0.85, 1.0), ratio=(0.95, 1.05), flip=0.0)


@dataclass(frozen=True, kw_only=True)
class SceneShard:
    """Drawings `first ... stop - 1` of a part: a job.

    Attributes:
        part: See `demo_scenes.Part`.
        first: Number of its first drawing.
        stop: One more than the number of its last one.
        size: Side of the images, pixels.
        seed: Key of everything.
    """

    part: Part
    first: int
    stop: int
    size: int
    seed: int


def draw_scenes(
    folder: Path,
    part: Part,
    *,
    images: int = NUM_IMAGES,
    size: int = 128,
    seed: int = 0,
    shard: int = SHARD,
    workers: int = 1,
) -> None:
    """Draw a part into shards with an index; a rerun draws what is missing.

    The training parts have synthetic captions (`syn.json`) beside the real ones.

    Args:
        folder: Where the shards go.
        part: See `demo_scenes.Part`.
        images: Number of drawings.
        size: Their side, pixels.
        seed: Key of everything.
        shard: Drawings of a shard.
        workers: Processes that draw.

    Raises:
        ValueError: A number is too small, or the folder was made with other options.
    """
    for name, value, least in (
        ("images", images, 1),
        ("size", size, SMALLEST),
        ("seed", seed, 0),
        ("shard", shard, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}")
    tasks = {
        f"shard-{first:07d}": SceneShard(
            part=part, first=first, stop=min(first + shard, images), size=size, seed=seed
        )
        for first in range(0, images, shard)
    }
    written = run_jobs(
        write_scenes,
        tasks,
        out=folder,
        settings={"size": size, "seed": seed},
        workers=min(workers, len(tasks)),
        title="scenes",
    )
    entries = [ShardEntry(**entry) for entry in written.values()]
    write_index(folder, entries, captioner=CAPTIONER)


def write_scenes(task: SceneShard, folder: Path) -> dict[str, Any]:
    """Write one shard and return its entry; a job of `tenfold.jobs`."""
    name = f"shard-{task.first:07d}.tar"
    return asdict(write_shard(folder / name, scene_samples(task)))


def scene_samples(task: SceneShard) -> Iterator[dict[str, Any]]:
    """Yield webdataset samples of a shard; `json` has the composition's name."""
    for index in range(task.first, task.stop):
        scene = draw_scene(task.part, index, seed=task.seed)
        rng = keyed.generator("scene pixels", task.seed, task.part, index)
        key = f"{task.part}-{index:07d}"
        sample: dict[str, Any] = {
            "__key__": key,
            "jpg": _jpeg(draw(scene, rng, task.size)),
            "txt": real_caption(task.part, index, scene, seed=task.seed),
            "json": {"uid": key, "name": scene.name},
        }
        if task.part in ("web", "teaching"):
            told = synthetic_captions(task.part, index, scene, seed=task.seed)
            sample["syn.json"] = {"syn_text": told}
        yield sample


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    # Without chroma subsampling: at this size it would blur the texture of a coloured shape.
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
