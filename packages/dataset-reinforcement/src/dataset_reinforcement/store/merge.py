"""The verb `merge`: the views of several stores of one data set as one part of a new store."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_reinforcement.store.info import Part, ShardInfo, Skipped, StoreInfo, plan_part
from dataset_reinforcement.store.joining import join_rows, join_views, take_rows
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.shard import ShardReader, write_shard
from dataset_reinforcement.store.writing import convert

_EQUAL = (
    "augment",
    "num_images",
    "top_k",
    "prob_dtype",
    "classes",
    "fingerprint",
    "decode",
    "teacher",
    "versions",
    "compat",
)


@dataclass(frozen=True)
class MergeTask:
    """One shard to write.

    Attributes:
        stores: Folders of the stores.
        parts: Parts of each store.
        shard: What to write.
    """

    stores: tuple[Path, ...]
    parts: tuple[tuple[Part, ...], ...]
    shard: ShardInfo


def merge(stores: list[Path], out: Path, *, workers: int = 1) -> None:
    """Join the views of stores that were made alike, with other seeds, into one store.

    A store of eight runs of 50 views then has one part of 400 views. The stores stay as they are. A
    killed run continues when the same command is given again.

    Args:
        stores: Two or more stores of the same images, pipeline, teacher and library versions.
        out: Folder of the new store.
        workers: Number of worker processes.

    Raises:
        ValueError: The stores differ in a field, share a seed or are partial, or `out` holds
            something else.
    """
    opened = [Store.open(store) for store in stores]
    _check(opened)
    out = Path(out)
    if out.resolve() in {store.path.resolve() for store in opened}:
        raise ValueError(f"{out} is one of the stores; choose another folder")
    paths = tuple(store.path.resolve() for store in opened)
    parts = tuple(store.info.parts for store in opened)
    convert(
        out,
        _describe(opened),
        opened[0].samples,
        _plan(opened),
        job=merge_shard,
        task=lambda shard: MergeTask(paths, parts, shard),
        workers=workers,
        title="merge",
        skipped=_join_skipped(opened),
        counts=_add_counts(opened),
    )


def merge_shard(task: MergeTask, folder: Path) -> dict[str, Any]:
    """Write one shard below `folder`; a job of `merge`."""
    first, last = task.shard.images
    pieces = [
        _rows_of(store, part, first, last)
        for store, parts in zip(task.stores, task.parts, strict=True)
        for part in parts
    ]
    return write_shard(folder / task.shard.file, join_views(pieces))


def _rows_of(store: Path, part: Part, first: int, last: int) -> dict[str, Any]:
    pieces = []
    for shard in part.shards:
        begin, end = max(first, shard.images[0]), min(last, shard.images[1])
        if begin < end:
            arrays = ShardReader(store / shard.file).arrays
            pieces.append(take_rows(arrays, begin - shard.images[0], end - shard.images[0]))
    return join_rows(pieces)


def _describe(stores: Sequence[Store]) -> StoreInfo:
    groups = {store.info.partner_group for store in stores}
    group = groups.pop() if len(groups) == 1 else None
    return dataclasses.replace(stores[0].info, seed=None, partner_group=group)


def _plan(stores: Sequence[Store]) -> Part:
    """Keep the longest shards of the first store, so that files do not multiply."""
    first = stores[0].info
    sizes = [shard.images[1] - shard.images[0] for shard in first.parts[0].shards]
    return plan_part(
        first=0,
        count=sum(store.info.num_views for store in stores),
        num_images=first.num_images,
        shard_size=max(sizes),
    )


def _check(stores: Sequence[Store]) -> None:
    if len(stores) < 2:
        raise ValueError(f"merge needs at least two stores, got {len(stores)}")
    first = stores[0]
    for store in stores[1:]:
        for name in _EQUAL:
            ours, theirs = getattr(first.info, name), getattr(store.info, name)
            if ours != theirs:
                raise ValueError(
                    f"{first.path} and {store.path} differ in {name}: {_show(ours, theirs)}; "
                    "merge stores that were made alike"
                )
    seeds: dict[int, Path] = {}
    for store in stores:
        seed = store.info.seed
        if seed in seeds:
            raise ValueError(
                f"{seeds[seed]} and {store.path} were made with the same seed {seed}, so they hold "
                "the same views; generate one with another seed"
            )
        if seed is not None:
            seeds[seed] = store.path


def _show(ours: object, theirs: object) -> str:
    """Return both values, shortened to where they differ if they have fields or many entries."""
    if dataclasses.is_dataclass(ours) and not isinstance(ours, type):
        for spec in dataclasses.fields(ours):
            mine, other = getattr(ours, spec.name), getattr(theirs, spec.name)
            if mine != other:
                return f"{spec.name} {mine!r} and {other!r}"
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        return next(f"{a!r} and {b!r}" for a, b in zip(ours, theirs, strict=True) if a != b)
    return f"{str(ours)[:80]} and {str(theirs)[:80]}"


def _join_skipped(stores: Sequence[Store]) -> tuple[Skipped, ...]:
    found = {entry.index: entry for store in reversed(stores) for entry in store.info.skipped}
    return tuple(found[index] for index in sorted(found))


def _add_counts(stores: Sequence[Store]) -> dict[str, int]:
    total: dict[str, int] = {}
    for store in stores:
        for name, count in store.info.counts.items():
            total[name] = total.get(name, 0) + count
    return total
