"""The verb `info`: what a store holds, from what and with what it was made."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dataset_reinforcement.store.info import StoreInfo, read_info
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
    yield "status", f"{info.status}, {len(sizes)} of {len(shards)} shards"
    yield "images", f"{info.num_images:,}, {len(info.skipped)} of them skipped"
    for skipped in info.skipped[:5]:
        yield "", f"{skipped.index}: {skipped.reason}"
    yield "views", f"{info.num_views} in {len(info.parts)} parts"
    yield "labels", f"{info.top_k} of {len(info.classes)} classes, {info.prob_dtype}"
    if len(sizes) == len(shards) and reinforced and info.num_views:
        each = sum(sizes) / (reinforced * info.num_views)
        yield "size", f"{sum(sizes):,} bytes, {each:.1f} a view"
    yield "augmentation", describe_augment(info.augment)
    yield "partners", _partners(info)
    yield "seed", str(info.seed)
    for member in info.teacher.get("members", ()):
        size, digest = member.get("size"), str(member.get("weights_sha256"))[:12]
        yield "teacher", f"{member.get('model')} at {size} px, weights {digest}"
    yield "precision", str(info.teacher.get("precision"))
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


def _partners(info: StoreInfo) -> str:
    if not info.augment.mixes:
        return "none, views are not mixed"
    return "any image" if info.partner_group is None else f"of groups of {info.partner_group}"
