"""The verb `import-apple`: an official folder of pickles to a store."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_reinforcement.apple.layout import AppleConfig, count_images, image_file, read_config
from dataset_reinforcement.apple.unpickle import load_plain
from dataset_reinforcement.images import ImageSource, open_images
from dataset_reinforcement.store.columns import ProbDtype, Reinforcement, pack
from dataset_reinforcement.store.entropy import densified_entropy
from dataset_reinforcement.store.info import ShardInfo, StoreInfo, plan_part
from dataset_reinforcement.store.samples import Sample, fingerprint
from dataset_reinforcement.store.shard import write_shard
from dataset_reinforcement.store.writing import convert
from tenfold.augment.positional import decode

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportTask:
    """One shard to write.

    Attributes:
        source: The official folder.
        config: What its configuration says.
        num_images: Images; partners lie below it.
        prob_dtype: Type of the stored probabilities.
        shard: What to write.
    """

    source: Path
    config: AppleConfig
    num_images: int
    prob_dtype: ProbDtype
    shard: ShardInfo


def import_apple(
    source: Path,
    out: Path,
    *,
    images: str,
    prob_dtype: ProbDtype = "float16",
    shard_size: int = 4096,
    workers: int = 1,
) -> None:
    """Turn an official folder of reinforcements into a store.

    The files are pickles; nothing that they ask for is run. Official crops were made with Pillow
    and the rest on tensors, so views made again here come close to what the teacher saw, not bit
    for bit; the store says so (`compat: apple`). A killed run continues when the same command is
    given again.

    Args:
        source: Unpacked folder with `0.pth.tar`, `1.pth.tar` ... and `config.pth.tar`.
        out: Folder of the store.
        images: The images in the official order, as for generate.
        prob_dtype: float16 or float32, of the stored probabilities.
        shard_size: Images a file.
        workers: Number of worker processes.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: A file is refused or malformed, the images do not fit, or `out` holds something
            else.
    """
    source, out = Path(source).resolve(), Path(out)
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    config = read_config(source)
    num_images = count_images(source)
    opened = open_images(images)
    _check_fits(opened, config, num_images)
    samples = [
        Sample(opened.key(i), opened.num_bytes(i), 0, 0, opened.label(i)) for i in range(num_images)
    ]
    part = plan_part(first=0, count=config.num_views, num_images=num_images, shard_size=shard_size)
    convert(
        out,
        _describe(opened, config, samples, prob_dtype),
        samples,
        part,
        job=import_shard,
        task=lambda shard: ImportTask(source, config, num_images, prob_dtype, shard),
        workers=workers,
        title="import-apple",
    )
    _log.warning(
        "%s replays with tensor kernels what the official code made with Pillow: pixels are close, "
        "not equal; the verb verify measures the difference",
        out,
    )


def import_shard(task: ImportTask, folder: Path) -> dict[str, Any]:
    """Write one shard below `folder`; a job of `import_apple`."""
    rows = [read_image(task, index) for index in range(*task.shard.images)]
    return write_shard(folder / task.shard.file, pack(rows, prob_dtype=task.prob_dtype))


def read_image(task: ImportTask, index: int) -> list[Reinforcement]:
    """Return the views of one official file.

    Raises:
        ValueError: The file is refused or malformed; names it and the view.
    """
    path = image_file(task.source, index)
    content = load_plain(path)
    if not isinstance(content, tuple | list) or len(content) != 2 or content[0] != index:
        raise ValueError(f"{path} does not hold (index, views) of image {index}")
    views = content[1]
    if not isinstance(views, list) or len(views) != task.config.num_views:
        found = len(views) if isinstance(views, list) else "no list of"
        raise ValueError(f"{path} has {found} views, config.pth.tar says {task.config.num_views}")
    read: list[Reinforcement] = []
    for number, view in enumerate(views):
        try:
            read.append(_reinforcement(view, task))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}, view {number}: {error!r}") from error
    return read


def _reinforcement(view: Any, task: ImportTask) -> Reinforcement:
    config = task.config
    params = view["params"]
    if not isinstance(params, list):
        raise ValueError("params is no list; only compressed parameters are read")
    own, mix = decode(params, config.augment, mixing=config.augment.mixes)
    if mix is not None and not 0 <= mix.partner < task.num_images:
        raise ValueError(f"partner {mix.partner} is not within {task.num_images} images")
    probabilities, classes = (np.asarray(values) for values in view["prob"])
    if probabilities.shape != (config.top_k,) or classes.shape != (config.top_k,):
        raise ValueError(
            f"prob has {probabilities.shape} values for {classes.shape} classes, expected "
            f"({config.top_k},) for both"
        )
    if not 0 <= classes.min() <= classes.max() < config.num_classes:
        raise ValueError(f"classes reach {classes.max()}, expected below {config.num_classes}")
    # The official order is that of argpartition: none.
    order = np.lexsort((classes, -probabilities))
    falling = probabilities[order].astype(np.float32)
    entropy = densified_entropy(falling, num_classes=config.num_classes)
    return Reinforcement(own, mix, classes[order].astype(np.uint16), falling, float(entropy))


def _check_fits(images: ImageSource, config: AppleConfig, num_images: int) -> None:
    if len(images) != num_images:
        raise ValueError(
            f"the folder reinforces {num_images} images, the data set has {len(images)}"
        )
    if len(images.classes) != config.num_classes:
        raise ValueError(
            f"the folder has {config.num_classes} classes, the data set {len(images.classes)}"
        )


def _describe(
    images: ImageSource, config: AppleConfig, samples: list[Sample], prob_dtype: ProbDtype
) -> StoreInfo:
    return StoreInfo(
        augment=config.augment,
        num_images=len(samples),
        top_k=config.top_k,
        prob_dtype=prob_dtype,
        classes=images.classes,
        fingerprint=fingerprint(samples),
        decode=images.decode,
        teacher=config.teacher,
        versions={},
        seed=None,
        compat="apple",
    )
