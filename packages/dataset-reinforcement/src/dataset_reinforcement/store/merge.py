"""The verb `merge`: the views of several stores of one data set as one part of a new store."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from dataset_reinforcement.store.info import (
    DrawnViews,
    Part,
    ShardInfo,
    Skipped,
    StoreInfo,
    plan_part,
)
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
_NAMED_AT_MOST = 5

_log = logging.getLogger(__name__)


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
        ValueError: The stores differ in how they were made, hold the same views, are partial or
            damaged, or `out` holds something else.
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
    sources = tuple(source for store in stores for source in store.info.drawn)
    return dataclasses.replace(
        stores[0].info, parts=(), seed=None, partner_group=group, sources=sources
    )


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
    for store in stores[1:]:
        _check_made_alike(stores[0], store)
    for one, other in combinations(stores, 2):
        _check_other_views(one, other)
    for store in stores:
        if any(source.seed is None for source in store.info.drawn):
            _log.warning(
                "%s does not tell from which seeds its views were drawn: make sure that they are "
                "not those of another store here",
                store.path,
            )
        store.require_whole()


def _check_made_alike(first: Store, store: Store) -> None:
    found = [
        text
        for name in _EQUAL
        for text in _differences(name, getattr(first.info, name), getattr(store.info, name))
    ]
    if found:
        more = f" and {len(found) - _NAMED_AT_MOST} more" if len(found) > _NAMED_AT_MOST else ""
        raise ValueError(
            f"{first.path} and {store.path} differ in {'; '.join(found[:_NAMED_AT_MOST])}{more}: "
            "merge stores that were made alike"
        )


def _check_other_views(one: Store, other: Store) -> None:
    for ours, theirs in product(one.info.drawn, other.info.drawn):
        if ours.overlaps(theirs):
            raise ValueError(
                f"{one.path} and {other.path} were made with the same seed {ours.seed}, so they "
                f"hold the same views ({_span(ours)} and {_span(theirs)} of that seed): leave one "
                "out, or generate it with another seed"
            )
    # Views of unknown seeds are the same where all their files are.
    if same := _contents(one) & _contents(other):
        raise ValueError(
            f"{one.path} and {other.path} hold the same {len(same)} parts of views: leave one out"
        )


def _contents(store: Store) -> set[tuple[str | None, ...]]:
    return {tuple(shard.sha256 for shard in part.shards) for part in store.info.parts}


def _span(views: DrawnViews) -> str:
    return f"views {views.first} to {views.first + views.count - 1}"


def _differences(name: str, ours: object, theirs: object) -> Iterator[str]:
    """Yield the values that differ, each with its dotted name."""
    if ours == theirs:
        return
    mine, other = _by_name(ours), _by_name(theirs)
    if mine is None or other is None or mine.keys() != other.keys():
        yield f"{name}: {ours!r:.80} and {theirs!r:.80}"
        return
    for key in mine:
        yield from _differences(f"{name}.{key}", mine[key], other[key])


def _by_name(value: object) -> dict[str, object] | None:
    """Return the parts of a value, None for a leaf."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {spec.name: getattr(value, spec.name) for spec in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return {str(number): item for number, item in enumerate(value)}
    return None


def _join_skipped(stores: Sequence[Store]) -> tuple[Skipped, ...]:
    found = {entry.index: entry for store in reversed(stores) for entry in store.info.skipped}
    return tuple(found[index] for index in sorted(found))


def _add_counts(stores: Sequence[Store]) -> dict[str, int]:
    total: dict[str, int] = {}
    for store in stores:
        for name, count in store.info.counts.items():
            total[name] = total.get(name, 0) + count
    return total
