"""The verb `generate`: images and a teacher to a store (spec 2.3).

The order of work: decode all images (`image_scan`), plan the shards, then one job a shard
(`shard_job`). Killed at any moment, the same command goes on where it stopped.
"""

import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from dataset_reinforcement.generation_options import (
    check_checkpoints,
    check_numbers,
    check_storage,
    choose_augment,
)
from dataset_reinforcement.generation_plan import (
    Plan,
    begun_store,
    identity,
    plan_views,
    shard_tasks,
    written_part,
)
from dataset_reinforcement.image_scan import Scan, opened, scan_images
from dataset_reinforcement.images import ImageSource
from dataset_reinforcement.shard_job import ShardJob, forget, reinforce_shard
from dataset_reinforcement.shard_repair import ASIDE, restore_shards
from dataset_reinforcement.store.columns import ProbDtype
from dataset_reinforcement.store.info import MAX_SHARD_IMAGES, Part, Skipped, StoreInfo
from dataset_reinforcement.store.samples import (
    check_images,
    fingerprint,
    read_samples,
    write_samples,
)
from dataset_reinforcement.store.versions import library_versions
from dataset_reinforcement.store.writing import StoreWriter
from dataset_reinforcement.teacher import build_teacher
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.views import check_partners
from tenfold import atomic
from tenfold.augment import backend
from tenfold.augment.config import AugmentConfig
from tenfold.devices import check_devices
from tenfold.jobs import run_jobs
from tenfold.jobs.work import STATE

TITLE = "generate"
MANY_FILES = 400

logger = logging.getLogger(__name__)


def generate(
    images: str,
    out: Path,
    teacher: TeacherConfig,
    *,
    variant: str = "randaug",
    size: int = 224,
    augment: AugmentConfig | None = None,
    compat: Literal["apple"] | None = None,
    views: int = 50,
    first_view: int = 0,
    top_k: int = 10,
    prob_dtype: ProbDtype = "float16",
    seed: int = 0,
    partner_group: int | None = None,
    partner_pool: int | None = None,
    shard_size: int = MAX_SHARD_IMAGES,
    view_batch: int = 64,
    view_threads: int = 1,
    workers: int = 1,
    devices: list[str] | None = None,
    ray_address: str | None = None,
    append: bool = False,
) -> None:
    """Draw views of every image, ask the teacher about them and store both.

    A killed run continues when the same command is given again, and shards that a store has lost
    are made again. The result has the same bytes for any number of workers on one kind of device.
    Images that cannot be decoded are listed in `store.json` and have no views.

    Args:
        images: A folder of class folders, webdataset tars (folder, glob or file), an `.npz` of
            `images`, `labels` and `classes`, or `demo:glyphs/student`.
        out: Folder of the store; new, empty, or begun with the same options.
        teacher: Its members, each with a checkpoint or timm's weights, and its precision.
        variant: Augmentation by name: `rrc`, `randaug` (recommended), `mixing`, `randaug_mixing`,
            `cifar100`, `food101`, `flowers102`.
        size: Side of the views in pixels, for a named variant.
        augment: An augmentation of your own instead of a named one.
        compat: `apple` draws the views of a named variant, and stores their labels, as the official
            code does: MixUp gives the partner the larger weight, translations are in pixels of 224
            at every size, and labels that sum to more than 1 are not divided by their sum (train
            on them with `loss.compat`). Its Pillow crops and its mini-batches are not imitated.
        views: Views of each image in this run.
        first_view: Number of the store's first view, for stores of one seed that are made apart
            and merged.
        top_k: Probabilities stored for a view.
        prob_dtype: `float16` or `float32`, of the stored probabilities.
        seed: Keys every draw; view j of image i is drawn from (seed, i, j) alone.
        partner_group: Images are mixed with images of the same group of so many consecutive ones;
            by default with any image.
        partner_pool: Instead, so many consecutive images share as many partners from the whole
            data set: each image is decoded about twice, whatever their order.
        shard_size: Images a shard, at most 4096.
        view_batch: Views that the teacher gets at once; halved when its memory runs out.
        view_threads: Threads of each worker that make views, for a GPU to be fed.
        workers: Number of processes.
        devices: Where teachers run, such as `cuda:0 cuda:1`; workers share them. Default `cpu`.
        ray_address: Run on Ray instead: `local` or a cluster's address.
        append: Add the views to a complete store.

    Raises:
        FileNotFoundError: Images or a checkpoint are missing.
        ValueError: An option is impossible, does not fit the images, or is another than the store
            in `out` was begun with, or the store to append to is damaged.
    """
    out, devices = Path(out), devices or ["cpu"]
    config = choose_augment(variant, augment, size=size, compat=compat)
    check_partners(config, partner_group=partner_group, partner_pool=partner_pool)
    check_numbers(
        views=views,
        top_k=top_k,
        view_batch=view_batch,
        view_threads=view_threads,
        first_view=first_view,
    )
    check_storage(prob_dtype, shard_size)
    check_devices(devices, workers=workers)
    check_checkpoints(teacher)
    forget()
    try:
        begun = begun_store(out)
        source = opened(images)
        top_k = _clamp(top_k, len(source.classes))
        # First, so that a wrong head or file is an error before hours of decoding.
        described = build_teacher(
            teacher, num_classes=len(source.classes), classes=source.classes
        ).describe()
        scan = _scan(images, source, out, begun, workers=workers, ray_address=ray_address)
        info = StoreInfo(
            augment=config,
            num_images=len(source),
            top_k=top_k,
            prob_dtype=prob_dtype,
            classes=source.classes,
            fingerprint=fingerprint(scan.samples),
            decode=source.decode,
            teacher=described,
            versions={**library_versions(), "resize": backend.describe()["resize"]},
            seed=seed,
            partner_group=partner_group,
            partner_pool=partner_pool,
            first_view=first_view,
        )
        plan = plan_views(out, info, begun, views=views, shard_size=shard_size, append=append)
        job = ShardJob(
            images=images,
            augment=config,
            teacher=teacher,
            seed=seed,
            top_k=top_k,
            prob_dtype=prob_dtype,
            renormalise=compat is None,
            partner_group=partner_group,
            partner_pool=partner_pool,
            store=out.resolve(),
            num_classes=len(source.classes),
            view_batch=view_batch,
            view_threads=view_threads,
            devices=tuple(devices),
        )
        if plan.lost:
            restore_shards(
                job,
                plan.lost,
                first_view=first_view,
                settings=identity(info),
                workers=workers,
                ray_address=ray_address,
            )
        elif plan.part is not None:
            if begun is None:
                write_samples(out, scan.samples)
            elif begun.status == "complete":
                shutil.rmtree(out / STATE, ignore_errors=True)  # of a run killed after its work
            written = _add_part(
                job, info, plan, plan.part, scan.skipped, workers=workers, ray_address=ray_address
            )
            _report(out, written)
            shutil.rmtree(out / STATE)
        else:
            shutil.rmtree(out / ASIDE, ignore_errors=True)  # both of runs killed after their work
            shutil.rmtree(out / STATE, ignore_errors=True)
            logger.info("%s is complete: nothing is left to do", out)
    finally:
        forget()


def _add_part(
    job: ShardJob,
    info: StoreInfo,
    plan: Plan,
    part: Part,
    skipped: Sequence[Skipped],
    *,
    workers: int,
    ray_address: str | None,
) -> StoreInfo:
    """Write the shards of a part, and `store.json` before and after them."""
    out = job.store
    writer = StoreWriter(out, info)
    writer.begin([*plan.done, part], skipped=skipped, counts=plan.counts)
    results = run_jobs(
        partial(reinforce_shard, job),
        shard_tasks(part, first_view=info.first_view),
        out=out,
        settings=identity(info),
        workers=min(workers, len(part.shards)),
        ray_address=ray_address,
        title=TITLE,
    )
    atomic.remove_temporaries(out)  # of killed runs
    renormalised = sum(result["renormalised"] for result in results.values())
    counts = {"renormalised": plan.counts.get("renormalised", 0) + renormalised}
    parts = [*plan.done, written_part(part, results)]
    return writer.finish(parts, skipped, counts)


def _scan(
    images: str,
    source: ImageSource,
    out: Path,
    begun: StoreInfo | None,
    *,
    workers: int,
    ray_address: str | None,
) -> Scan:
    if begun is not None:
        samples = read_samples(out)
        check_images(samples, source)
        return Scan(samples, list(begun.skipped))
    scan = scan_images(images, source, out=out, workers=workers, ray_address=ray_address)
    for skipped in scan.skipped[:5]:
        logger.warning("skipped image %d: %s", skipped.index, skipped.reason)
    if len(scan.skipped) == len(source):
        raise ValueError(f"none of the {len(source)} images at {images!r} can be decoded")
    return scan


def _clamp(top_k: int, num_classes: int) -> int:
    if top_k > num_classes:
        logger.warning("top_k %d exceeds the %d classes: all are stored", top_k, num_classes)
    return min(top_k, num_classes)


def _report(out: Path, info: StoreInfo) -> None:
    size = sum(shard.bytes or 0 for part in info.parts for shard in part.shards)
    samples = (info.num_images - len(info.skipped)) * info.num_views
    Console(markup=False).print(
        f"{out}: {info.num_images:,} images x {info.num_views} views, {info.top_k} of "
        f"{len(info.classes)} classes, {size:,} bytes, {size / samples:.1f} a view, "
        f"{len(info.skipped)} images skipped",
        soft_wrap=True,
    )
    files = sum(len(part.shards) for part in info.parts) + 2
    if files > MANY_FILES and len(info.parts) > 1:
        logger.info("%s has %d files by now: `merge` rewrites its parts as one", out, files)
