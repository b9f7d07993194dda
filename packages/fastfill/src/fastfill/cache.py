"""The verb `cache-features`: embed the originals once with all models, so that h trains in minutes.

The official code runs three networks in every step of 80 epochs; here each view goes through them
once. Importing this module, for `read_cache` as well, needs no torch.
"""

from pathlib import Path
from typing import Literal

from rich.console import Console

from fastfill.cache_writing import Dtype, write_cache
from fastfill.config import Metric
from fastfill.feature_cache import FeatureCache, Pairs, read_cache
from tenfold.jobs.work import STATE

__all__ = ["FeatureCache", "Pairs", "cache_features", "read_cache", "write_cache"]

TITLE = "features"


def cache_features(
    out: Path,
    *,
    old: str,
    new: str,
    data: str,
    side: str | None = None,
    h: Path | None = None,
    metric: Metric | None = None,
    views: int = 1,
    augment: Literal["none", "rrc"] = "none",
    seed: int = 0,
    dtype: Dtype = "float16",
    shard_size: int = 4096,
    batch_size: int = 256,
    read_threads: int = 1,
    workers: int = 1,
    devices: list[str] | None = None,
    ray_address: str | None = None,
) -> None:
    """Embed originals with old and new model, and the side information's, for training h.

    A killed run continues when the same command is given again. Originals that cannot be read are
    left out and listed in `failed.jsonl`.

    Args:
        out: Folder of the cache; new, empty, or begun with the same options.
        old: The old model: a run folder, checkpoint or weights of `fit-backbone`, `timm:<model>`,
            `timm:<model>:<file>`, or `open_clip:<model>:<tag or file>` (`:text` for texts).
        new: The new model.
        data: Originals: a folder of images or tars, a `.txt` or `.jsonl`, or demo data such as
            `digits:train`.
        side: A model whose embeddings h gets beside the old ones, such as SimCLR's.
        h: A map that was trained on features of the same originals, made with the same options: at
            the end the old model must give what it gave then.
        metric: Of models that do not say themselves; by default `l2` for timm's and `cosine` for
            open_clip's.
        views: Cached views of each image; all models see the same.
        augment: `rrc` for random crops and flips, `none` for images as they are evaluated.
        seed: Of the views.
        dtype: How embeddings are stored, `float16` or `float32`.
        shard_size: Items a file; a file is what a killed run repeats.
        batch_size: Views that are embedded at once; halved when memory runs out.
        read_threads: Threads of each worker that read images, for a GPU to be fed.
        workers: Number of processes.
        devices: Where models run, such as `cuda:0 cuda:1`; workers share them. Default `cpu`.
        ray_address: Run on Ray instead: `local` or a cluster's address.

    Raises:
        FileNotFoundError: Originals or weights are missing.
        ValueError: An option is impossible or another than `out` was begun with, models and
            originals do not fit each other, no original can be read, or `h` is of another old
            model than `old` is now.
    """
    # Here, so that readers of a cache do not load torch.
    from fastfill.cache_job import CacheJob
    from fastfill.cache_run import run_cache

    out = Path(out)
    for name, value in (
        ("views", views),
        ("shard_size", shard_size),
        ("batch_size", batch_size),
        ("read_threads", read_threads),
        ("workers", workers),
    ):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    _check_views(views, augment)
    _check_folder(out)
    job = CacheJob(
        models=(old, new) if side is None else (old, new, side),
        metric=metric,
        data=data,
        num_views=views,
        augment=augment,
        seed=seed,
        dtype=dtype,
        batch_size=batch_size,
        devices=tuple(devices or ["cpu"]),
        threads=read_threads,
    )
    made, num_failed = run_cache(
        job, out, shard_size=shard_size, workers=workers, ray_address=ray_address, title=TITLE
    )
    if h is not None:
        _check_probe(h, made)
    Console(markup=False).print(
        f"{out}: {len(made):,} items, views of each: {made.num_views}; "
        f"{num_failed:,} originals failed",
        soft_wrap=True,
    )


def _check_probe(h: Path, made: FeatureCache) -> None:
    """Compare the first items with those that h was trained on."""
    from fastfill.card import check_probe, check_same
    from fastfill.weights import load_transformation

    _, card = load_transformation(h)
    check_same(card.old, made.cards.old, what=f"old model of {h}")
    if card.probe is None:
        raise ValueError(f"{h} has no probe of its old model; leave h out")
    found = made.rows(range(min(len(card.probe.old), len(made)))).old
    check_probe(card.probe, found, what=made.cards.old.name)


def _check_views(views: int, augment: str) -> None:
    if augment not in ("none", "rrc"):
        raise ValueError(f"augment must be none or rrc, got {augment!r}")
    if views > 1 and augment == "none":
        raise ValueError(f"{views} views without augment would all be alike: use augment rrc")


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / STATE / TITLE).is_dir():
        raise ValueError(
            f"{out} is not empty and was not begun by this verb: choose another folder"
        )
