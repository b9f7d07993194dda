"""The verb `generate-embeddings`: image-text shards to reinforced ones (paper section 3.2).

Views of each image are drawn, teachers embed them and all captions, and parameters and embeddings
are stored beside the image (spec 2.1 and 3). Killed at any moment, the same command goes on where
it stopped.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from rich.console import Console

from mobileclip.embedding_codecs import Format
from mobileclip.generate.embedding_job import (
    EmbeddingJob,
    captions_of,
    embed_shard,
    job_settings,
    loaded_teachers,
)
from mobileclip.generate.pairs import BadPairError, read_pair
from mobileclip.generate.shard_runs import (
    Finished,
    RunOptions,
    check_folders,
    check_fraction,
    library_versions,
    run_shards,
)
from mobileclip.generate.teacher_config import TeacherEnsembleConfig
from mobileclip.generate.teachers import Teachers
from mobileclip.schema import INFO, MOBILECLIP_AUGMENT, ReinforcementInfo, write_info
from mobileclip.shard_sources import open_shards
from tenfold.augment import backend
from tenfold.augment.config import AugmentConfig
from tenfold.shards import ShardIndex, TarMembers, write_index

TITLE = "embeddings"


def generate_embeddings(
    shards: str,
    out: Path,
    teachers: TeacherEnsembleConfig,
    *,
    views: int = 10,
    size: int = 224,
    augment: AugmentConfig | None = None,
    format: Format = "emb.bin",
    seed: int = 0,
    max_bad_fraction: float = 0.2,
    view_threads: int = 1,
    workers: int = 1,
    devices: list[str] | None = None,
    ray_address: str | None = None,
) -> None:
    """Store teacher embeddings of views and captions beside each image.

    A killed run continues when the same command is given again, and shards that were lost are made
    again. The result has the same bytes for any number of workers on one kind of device. All
    members of a sample stay; `paug.json`, the embeddings and `meta` in `json` are added. Samples
    whose image or captions cannot be read are left out and listed in `skipped.jsonl`.

    Args:
        shards: A folder with `index.json`, such as `generate-captions` leaves, or a pattern of
            tars such as `data/{000..999}.tar`. Synthetic captions are taken from `syn.json`, of
            which every sample has as many as the first, or none.
        out: Folder of the new shards; new, empty, or begun with the same options.
        teachers: The ensemble, each member with its weights.
        views: Views of each image, J (published: 30 for 12.8M images, 10 for 1.28B).
        size: Side of the views, pixels, for the published pipeline.
        augment: A pipeline of your own instead of the published one.
        format: `emb.bin` is read fastest; `npz` (float32) and `pth.gz` are the published members.
        seed: Keys every draw; view j of an image is drawn from (seed, uid, j) alone.
        max_bad_fraction: Share of a shard's samples that may be left out before it is an error.
        view_threads: Threads of each worker that make views, for a GPU to be fed.
        workers: Number of processes.
        devices: Where teachers run, such as `cuda:0 cuda:1`; workers share them. Default `cpu`.
        ray_address: Run on Ray instead: `local` or a cluster's address.

    Raises:
        FileNotFoundError: Shards or weights are missing.
        ValueError: An option is impossible, or another than `out` was begun with, or the shards
            are reinforced already.
    """
    out = Path(out)
    options = RunOptions(workers, tuple(devices or ["cpu"]), view_threads, ray_address)
    options.check()
    check_fraction(max_bad_fraction)
    if views < 1:
        raise ValueError(f"views must be >= 1, got {views}")
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
    pipeline = replace(MOBILECLIP_AUGMENT, size=size, translate_pixels=size)
    index = open_shards(shards)
    check_folders(index, out, TITLE)
    synthetic = _synthetic_counts(index)
    try:
        # First, so that missing weights are an error before any work.
        loaded = loaded_teachers(teachers, options.first_device)
        info = ReinforcementInfo(
            teachers=loaded.describe(),
            augment=pipeline if augment is None else augment,
            num_views=views,
            num_captions=max(synthetic.values(), default=0),
            captioner=str(index.metadata.get("captioner", "")) if synthetic else "",
            seed=seed,
            versions={**library_versions(), "resize": backend.describe()["resize"]},
        )
        job = EmbeddingJob(
            folder=index.folder.resolve(),
            teachers=teachers,
            info=info,
            synthetic=synthetic,
            format=format,
            seed=seed,
            max_bad_fraction=max_bad_fraction,
            devices=options.devices,
            threads=view_threads,
        )
        finished = _run(job, loaded, index, out, options)
    finally:
        loaded_teachers.cache_clear()
    write_info(out, info)
    write_index(out, finished.entries, reinforcement=INFO, skipped=finished.num_skipped)
    _report(out, info, finished)


def _run(
    job: EmbeddingJob, loaded: Teachers, index: ShardIndex, out: Path, options: RunOptions
) -> Finished:
    return run_shards(
        partial(embed_shard, job),
        index,
        out=out,
        settings=job_settings(job, loaded),
        title=TITLE,
        options=options,
    )


def _synthetic_counts(index: ShardIndex) -> dict[str, int]:
    """Return how many captions the first good sample has under each key of `syn.json`.

    Raises:
        ValueError: Keys have different numbers, or the first shard has no good sample.
    """
    tar = TarMembers(index.folder / index.entries[0].name)
    reason = ""
    for key in tar.keys:
        try:
            counts = {
                name: len(texts) for name, texts in captions_of(read_pair(tar, key)[0]).items()
            }
        except BadPairError as error:
            reason = reason or f"{key}: {error}"
            continue
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise ValueError(
                f"{tar.path}: {key} has synthetic captions {counts}, expected as many of each key"
            )
        return counts
    raise ValueError(f"{tar.path} has no sample that can be used; the first: {reason}")


def _report(out: Path, info: ReinforcementInfo, finished: Finished) -> None:
    size = sum(entry.num_bytes for entry in finished.entries)
    Console(markup=False).print(
        f"{out}: {finished.num_samples:,} images x {info.num_views} views, "
        f"{info.num_captions} synthetic captions, {len(info.teachers)} teachers of "
        f"{info.width} columns, {size:,} bytes, {finished.num_skipped} left out",
        soft_wrap=True,
    )
