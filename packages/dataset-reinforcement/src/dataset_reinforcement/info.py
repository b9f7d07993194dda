"""The verb `info`: what a store holds, from what and with what it was made."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dataset_reinforcement.store.info import DrawnViews, StoreInfo, read_info
from dataset_reinforcement.store.integrity import shard_problem, written_shards
from tenfold.augment.config import AugmentConfig


def info(store: Path) -> None:
    """Print what a store holds; reads `store.json` and the sizes of its files alone.

    Args:
        store: Its folder.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: `store.json` is damaged.
    """
    store = Path(store)
    table = Table(show_header=False, title=str(store), title_justify="left")
    for name, value in describe_store(store, read_info(store)):
        table.add_row(name, value)
    Console(markup=False).print(table)


def describe_store(store: Path, info: StoreInfo) -> Iterator[tuple[str, str]]:
    """Yield names and values."""
    shards = [shard for part in info.parts for shard in part.shards]
    sizes = [(store / s.file).stat().st_size for s in shards if (store / s.file).is_file()]
    reinforced = info.num_images - len(info.skipped)
    problems = list(_problems(store, info))
    status = "damaged" if problems else info.status
    yield "status", f"{status}, {len(sizes)} of {len(shards)} shards"
    for problem in problems[:5]:
        yield "", problem
    yield "images", f"{info.num_images:,}, {len(info.skipped)} of them skipped"
    for skipped in info.skipped[:5]:
        yield "", f"{skipped.index}: {skipped.reason}"
    yield "views", f"{info.num_views} in {len(info.parts)} parts"
    if info.first_view:
        yield "first view", f"{info.first_view} of the seed"
    yield "labels", f"{info.top_k} of {len(info.classes)} classes, {info.prob_dtype}"
    if len(sizes) == len(shards) and not problems and reinforced and info.num_views:
        each = sum(sizes) / (reinforced * info.num_views)
        yield "size", f"{sum(sizes):,} bytes, {each:.1f} a view"
    yield "augmentation", describe_augment(info.augment)
    yield "partners", _partners(info)
    yield "seed", str(info.seed) if info.seed is not None else _seeds(info.drawn)
    yield from _teacher(info.teacher)
    yield "made with", ", ".join(f"{name} {value}" for name, value in info.versions.items())
    yield "decoding", ", ".join(f"{name} {value}" for name, value in info.decode.items())
    yield "images' hash", info.fingerprint
    for name, count in info.counts.items():
        yield name, f"{count:,} rows"


def describe_augment(config: AugmentConfig) -> str:
    """Return a pipeline's steps in one line."""
    steps = [
        f"resize {config.resize}" if config.resize else "",
        f"{config.crop} crop to {config.size}",
        f"flip {config.flip:g}" if config.flip else "",
        f"RandAugment {config.rand_augment:g}" if config.rand_augment else "",
        f"erase {config.erase:g}" if config.erase else "",
        f"MixUp {config.mixup:g}" if config.mixup else "",
        f"CutMix {config.cutmix:g}" if config.cutmix else "",
    ]
    return ", ".join(step for step in steps if step)


def _problems(store: Path, info: StoreInfo) -> Iterator[str]:
    for shard in written_shards(info.parts):
        if problem := shard_problem(store, shard, hashed=False):
            yield f"{shard.file} {problem}"


def _seeds(drawn: Iterable[DrawnViews]) -> str:
    return ", ".join(
        f"{'unknown' if views.seed is None else views.seed} ({views.count} views)"
        for views in drawn
    )


def _teacher(teacher: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a row for each member; imported stores tell little of them, or name no members."""
    members = teacher.get("members")
    if not isinstance(members, list) or not all(isinstance(one, Mapping) for one in members):
        yield "teacher", str(dict(teacher))
        return
    for member in members:
        size, digest = member.get("size"), member.get("weights_sha256")
        text = str(member.get("model"))
        text += f" at {size} px" if size is not None else ""
        yield "teacher", text + (f", weights {str(digest)[:12]}" if digest is not None else "")
    if "precision" in teacher:
        yield "precision", str(teacher["precision"])


def _partners(info: StoreInfo) -> str:
    if not info.augment.mixes:
        return "none, views are not mixed"
    if info.partner_pool is not None:
        return f"of pools of {info.partner_pool} for {info.partner_pool} images"
    return "any image" if info.partner_group is None else f"of groups of {info.partner_group}"
