"""A run of `cache-features`: checks, a job for each file of pairs, then what binds them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastfill.cache_job import (
    CacheJob,
    CacheTask,
    Models,
    cache_stretch,
    loaded_models,
    loaded_source,
)
from fastfill.cache_manifest import CacheShard, Cards
from fastfill.cache_writing import check_heads, finish_cache, shard_name
from fastfill.failures import note_failures
from fastfill.feature_cache import FeatureCache
from fastfill.originals import Source
from tenfold.devices import check_devices
from tenfold.jobs import run_jobs

FAILED = "failed.jsonl"


def run_cache(
    job: CacheJob,
    out: Path,
    *,
    shard_size: int,
    workers: int,
    ray_address: str | None,
    title: str,
) -> tuple[FeatureCache, int]:
    """Make the cache; return it and the number of originals that failed.

    Raises:
        FileNotFoundError: Originals or weights are missing.
        ValueError: Models and originals do not fit each other, or no original can be used.
    """
    if ray_address is None:  # the devices of other machines are not known here
        check_devices(job.devices, workers=workers)
    first_device = job.devices[0] if workers == 1 and ray_address is None else "cpu"
    try:
        source = loaded_source(job.data)
        # First, so that missing weights are an error before any work.
        models = loaded_models(job.models, job.metric, first_device, job.batch_size)
        cards = _checked_cards(models, source, job)
        tasks = _tasks(len(source.ids()), shard_size)
        results = run_jobs(
            partial(cache_stretch, job),
            tasks,
            out=out,
            settings=_settings(job, cards, source),
            workers=min(workers, len(tasks)),
            ray_address=ray_address,
            title=title,
        )
    finally:
        loaded_models.cache_clear()
        loaded_source.cache_clear()
    return _finish(out, results, job, models, cards, source)


def _tasks(count: int, shard_size: int) -> dict[str, CacheTask]:
    return {
        f"{number:05d}": CacheTask(first, min(first + shard_size, count), shard_name(number))
        for number, first in enumerate(range(0, count, shard_size))
    }


def _finish(
    out: Path,
    results: Mapping[str, Any],
    job: CacheJob,
    models: Models,
    cards: Cards,
    source: Source,
) -> tuple[FeatureCache, int]:
    failed = {id: reason for result in results.values() for id, reason in result["failed"].items()}
    note_failures(out / FAILED, failed)
    ids, groups = source.ids(), source.groups
    if len(failed) == len(ids):
        id, reason = next(iter(failed.items()))
        raise ValueError(f"no original of {source.name} can be used; the first, {id!r}, {reason}")
    kept = [row for row, id in enumerate(ids) if id not in failed]
    made = finish_cache(
        out,
        cards=cards,
        head=models.new.head,
        old_head=models.old.head,
        shards=[CacheShard(**result["shard"]) for result in results.values()],
        ids=[ids[row] for row in kept],
        groups=None if groups is None else [groups[row] for row in kept],
        num_views=job.num_views,
        dtype=job.dtype,
        class_names=source.class_names,
        data={
            "source": source.name,
            "fingerprint": source.fingerprint(),
            "augment": job.augment,
            "seed": job.seed,
            "failed": len(failed),
        },
    )
    return made, len(failed)


def _checked_cards(models: Models, source: Source, job: CacheJob) -> Cards:
    for encoder in models.all():
        if encoder.kind != source.kind:
            raise ValueError(
                f"{encoder.card.name} embeds {encoder.kind}s, but {source.name} has {source.kind}s"
            )
    if source.kind == "text" and job.augment != "none":
        raise ValueError(f"augment {job.augment} is for images, {source.name} has texts: use none")
    side = None if models.side is None else models.side.card
    cards = Cards(models.old.card, models.new.card, side)
    check_heads(cards, head=models.new.head, old_head=models.old.head, labels=source.labels)
    return cards


def _settings(job: CacheJob, cards: Cards, source: Source) -> dict[str, Any]:
    """Return what shapes the features; where weights and originals lie does not."""
    models = {
        role: {"weights_sha256": card.weights_sha256, "normalized": card.normalized}
        for role, card in cards._asdict().items()
        if card is not None
    }
    return {
        "models": models,
        "data": source.fingerprint(),
        "views": job.num_views,
        "augment": job.augment,
        "seed": job.seed,
        "dtype": job.dtype,
    }
