"""One job of generation: all views of a run of images, from pixels to a shard (spec 2.3)."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from dataset_reinforcement.image_scan import opened
from dataset_reinforcement.images import ImageSource
from dataset_reinforcement.store.columns import ProbDtype, Reinforcement, pack
from dataset_reinforcement.store.recorded import RecordedImages
from dataset_reinforcement.store.shard import write_shard
from dataset_reinforcement.teacher import Teacher, build_teacher
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.top_labels import TopLabels, top_labels
from dataset_reinforcement.views import Load, draw_reinforcement, make_view
from tenfold.augment.config import AugmentConfig
from tenfold.augment.mixing import to_float
from tenfold.augment.params import MixParams, ViewParams
from tenfold.augment.pipeline import Augment
from tenfold.back_off import BackOff
from tenfold.devices import worker_device
from tenfold.measurements import one_thread

_CACHED_IMAGES = 64
_CACHED_AT_MOST = 512  # half a megabyte each in ImageNet


@dataclass(frozen=True)
class ShardTask:
    """What one shard holds: views `first_view ...` of images `first_image ... stop_image - 1`."""

    file: str
    first_image: int
    stop_image: int
    first_view: int
    num_views: int


@dataclass(frozen=True)
class ShardJob:
    """What all shards of a run share.

    Attributes:
        images: How to open the images.
        augment: The pipeline.
        teacher: The ensemble.
        seed: Seed of the data set.
        top_k: Stored classes of a view.
        prob_dtype: Type of the stored probabilities.
        renormalise: See `top_labels`.
        partner_group: Whence partners come, see `draw_reinforcement`.
        partner_pool: Likewise.
        store: Folder of the store, whose samples hold the sizes of all images.
        num_classes: Classes of the images.
        view_batch: Views that the teacher gets at once.
        view_threads: Threads that make views.
        devices: Where the workers' teachers run.
    """

    images: str
    augment: AugmentConfig
    teacher: TeacherConfig
    seed: int
    top_k: int
    prob_dtype: ProbDtype
    renormalise: bool
    partner_group: int | None
    partner_pool: int | None
    store: Path
    num_classes: int
    view_batch: int
    view_threads: int
    devices: tuple[str, ...]


class _View(NamedTuple):
    image: int
    view: int
    own: ViewParams
    mix: MixParams | None
    pixels: Tensor


def reinforce_shard(job: ShardJob, task: ShardTask, folder: Path) -> dict[str, Any]:
    """Write one shard below `folder` and return its record and its counts.

    Raises:
        ValueError: The teacher answers with NaN or infinity; names the view and what was drawn.
    """
    device = worker_device(job.devices)
    # One thread in every process: sums in another order would give other bits.
    with one_thread() if device.startswith("cpu") else nullcontext():
        columns, renormalised = _columns(job, task, device)
    record = write_shard(folder / task.file, columns)
    return {"shard": record, "renormalised": renormalised}


def _columns(job: ShardJob, task: ShardTask, device: str) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the columns of a shard, and how many of its labels were renormalised."""
    source, teacher = opened(job.images), _teacher(job.teacher, job.num_classes, device)
    recorded = _recorded(job.store)
    rows: list[list[Reinforcement]] = [[] for _ in range(task.first_image, task.stop_image)]
    renormalised = 0
    # The halved batch is the shard's own: a rerun from another shard on must give the same bytes.
    back_off = BackOff(teacher.probabilities, job.view_batch, name="the teacher")
    load = _cached_load(job, source, recorded)
    for views in _batches(job, task, recorded, load):
        labels = _predict(back_off, views, job.top_k, renormalise=job.renormalise)
        renormalised += labels.num_renormalised
        for reinforced, view in zip(_reinforcements(views, labels), views, strict=True):
            rows[view.image - task.first_image].append(reinforced)
    columns = pack(rows, prob_dtype=job.prob_dtype, shape=(task.num_views, job.top_k))
    return columns, renormalised


def _cached_load(job: ShardJob, source: ImageSource, recorded: RecordedImages) -> Load:
    """Return a reader that keeps the partners of two groups: threads reach into the next one."""
    near = 2 * (job.partner_group or job.partner_pool or 0) + 4 * job.view_threads
    size = min(max(_CACHED_IMAGES, near), _CACHED_AT_MOST)
    return lru_cache(maxsize=size)(partial(recorded.load, source))


def _predict(
    back_off: BackOff, views: Sequence[_View], top_k: int, *, renormalise: bool
) -> TopLabels:
    pixels = [view.pixels for view in views]
    if any(image.dtype != torch.uint8 for image in pixels):
        pixels = [to_float(image) if image.dtype == torch.uint8 else image for image in pixels]
    probabilities = back_off(torch.stack(pixels))
    bad = (~torch.isfinite(probabilities).all(-1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(_explain(views[bad[0]]))
    return top_labels(probabilities, top_k, renormalise=renormalise)


def _explain(view: _View) -> str:
    drawn = {"own": asdict(view.own), "mix": None if view.mix is None else asdict(view.mix)}
    return (
        f"the teacher's probabilities are not finite for image {view.image}, view {view.view}, "
        f"drawn {json.dumps(drawn)}: check its weights, or try precision fp32"
    )


def _reinforcements(views: Sequence[_View], labels: TopLabels) -> Iterator[Reinforcement]:
    for row, view in enumerate(views):
        yield Reinforcement(
            own=view.own,
            mix=view.mix,
            classes=labels.classes[row],
            probabilities=labels.probabilities[row],
            entropy=float(labels.entropy[row]),
        )


def _batches(
    job: ShardJob, task: ShardTask, recorded: RecordedImages, load: Load
) -> Iterator[list[_View]]:
    """Yield the views of the shard in order, `view_batch` at a time."""
    waiting: list[_View] = []
    for made in _made_in_order(job, task, recorded, load):
        waiting += made
        while len(waiting) >= job.view_batch:
            yield waiting[: job.view_batch]
            waiting = waiting[job.view_batch :]
    if waiting:
        yield waiting


def _made_in_order(
    job: ShardJob, task: ShardTask, recorded: RecordedImages, load: Load
) -> Iterator[list[_View]]:
    """Yield the views image by image; with several threads some images are made ahead."""
    indices = [i for i in range(task.first_image, task.stop_image) if recorded.sizes[i, 0]]
    make = partial(_make_views, job, task, Augment(job.augment), recorded, load)
    if job.view_threads == 1:
        yield from map(make, indices)
        return
    with ThreadPoolExecutor(job.view_threads) as pool:
        running: list[Future[list[_View]]] = []
        try:
            for index in indices:
                running.append(pool.submit(make, index))
                if len(running) > 2 * job.view_threads:
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
        finally:
            pool.shutdown(cancel_futures=True)


def _make_views(
    job: ShardJob,
    task: ShardTask,
    augment: Augment,
    recorded: RecordedImages,
    load: Load,
    index: int,
) -> list[_View]:
    image = load(index)  # held here: decoded once for all its views, whatever the cache drops

    def held(other: int) -> Tensor:
        return image if other == index else load(other)

    views: list[_View] = []
    for view in range(task.first_view, task.first_view + task.num_views):
        own, mix = draw_reinforcement(
            augment,
            job.seed,
            index,
            view,
            recorded.sizes,
            partner_group=job.partner_group,
            partner_pool=job.partner_pool,
        )
        views.append(_View(index, view, own, mix, make_view(augment, held, own, mix, index)))
    return views


@lru_cache(maxsize=1)
def _teacher(config: TeacherConfig, num_classes: int, device: str) -> Teacher:
    return build_teacher(config, num_classes=num_classes, device=device)


@lru_cache(maxsize=1)
def _recorded(store: Path) -> RecordedImages:
    return RecordedImages.read(store)


def forget() -> None:
    """Drop what this process keeps between jobs: open images, the teacher, what is recorded."""
    for kept in (opened, _teacher, _recorded):
        kept.cache_clear()
