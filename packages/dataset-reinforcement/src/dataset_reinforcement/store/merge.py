"""The verb `merge`: all views of one or several stores of a data set as one part of a new store.

For stores that were made apart, and for one that has grown by many parts, and so by many files.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from dataset_reinforcement.store.info import (
    MAX_SHARD_IMAGES,
    DrawnViews,
    Part,
    ShardInfo,
    Skipped,
    StoreInfo,
    plan_part,
)
from dataset_reinforcement.store.joining import join_rows, join_views, take_rows
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.samples import Sample
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


def merge(
    stores: list[Path], out: Path, *, shard_size: int | None = None, workers: int = 1
) -> None:
    """Rewrite the views of stores that were made alike as one part, in fewer and larger files.

    Of one store with parts that were appended, or of several that were made with other seeds or
    hold other views of one seed. Eight runs of 50 views of ImageNet are 2,504 shards, merged 313.
    What is stored is copied exactly, after all files have been checked; the stores stay as they
    are. A killed run continues when the same command is given again. Each worker holds a shard in
    memory: some 100 MB for 4,096 images with 400 views. Views of one seed from its first on can be
    appended to by `generate` afterwards.

    Args:
        stores: Stores of the same images, pipeline, teacher and library versions; their views
            follow each other in this order.
        out: Folder of the new store.
        shard_size: Images a shard, at most 4096; by default as many as in the longest shard.
        workers: Number of worker processes.

    Raises:
        ValueError: The stores differ in how they were made, hold the same views, are partial or
            damaged, one store has nothing to join, or `out` holds something else.
    """
    if shard_size is not None and not 1 <= shard_size <= MAX_SHARD_IMAGES:
        raise ValueError(f"shard_size must lie in 1..{MAX_SHARD_IMAGES}, got {shard_size}")
    opened = [Store.open(store) for store in stores]
    _check(opened, shard_size)
    out = Path(out)
    if out.resolve() in {store.path.resolve() for store in opened}:
        raise ValueError(f"{out} is one of the stores; choose another folder")
    paths = tuple(store.path.resolve() for store in opened)
    parts = tuple(store.info.parts for store in opened)
    convert(
        out,
        _describe(opened),
        _samples(opened),
        plan_merge([store.info for store in opened], shard_size=shard_size),
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


def plan_merge(stores: Sequence[StoreInfo], *, shard_size: int | None = None) -> Part:
    """Return the one part of a merged store, its shards unwritten.

    Args:
        stores: What is joined.
        shard_size: Images a shard; by default as many as in the longest, so that files do not
            multiply.
    """
    shards = [shard for store in stores for part in store.parts for shard in part.shards]
    longest = max((shard.images[1] - shard.images[0] for shard in shards), default=1)
    plan = plan_part(
        first=0,
        count=sum(store.num_views for store in stores),
        num_images=stores[0].num_images,
        shard_size=shard_size or longest,
    )
    return dataclasses.replace(plan, joined=True)


def _describe(stores: Sequence[Store]) -> StoreInfo:
    infos = [store.info for store in stores]
    sources = tuple(source for info in infos for source in info.drawn)
    whole = dataclasses.replace(infos[0], parts=())
    partners_alike = len({(info.partner_group, info.partner_pool) for info in infos}) == 1
    if partners_alike and _follow_each_other(sources):
        seed, first = sources[0].seed, sources[0].first
        return dataclasses.replace(whole, seed=seed, first_view=first, sources=())
    if not partners_alike:
        whole = dataclasses.replace(whole, partner_group=None, partner_pool=None)
    return dataclasses.replace(whole, seed=None, first_view=0, sources=sources)


def _follow_each_other(drawn: Sequence[DrawnViews]) -> bool:
    """Return whether these are consecutive views of one seed."""
    expected = drawn[0].first
    for views in drawn:
        if views.seed is None or views.seed != drawn[0].seed or views.first != expected:
            return False
        expected += views.count
    return True


def _samples(stores: Sequence[Store]) -> list[Sample]:
    """Take the samples that tell most: imported stores know no sizes and no checksums."""
    for store in stores:
        if (store.recorded.checksums >= 0).all():
            return store.samples
    return stores[0].samples


def _check(stores: Sequence[Store], shard_size: int | None) -> None:
    if not stores:
        raise ValueError("merge needs at least one store, got none")
    if len(stores) == 1 and len(stores[0].info.parts) == 1 and shard_size is None:
        raise ValueError(
            f"{stores[0].path} has one part of views already: give further stores to join, or "
            "another shard_size"
        )
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
    ours, theirs = first.recorded.checksums, store.recorded.checksums
    if (changed := np.flatnonzero((ours != theirs) & (ours >= 0) & (theirs >= 0))).size:
        raise ValueError(
            f"{first.path} and {store.path} were made from different images: {changed.size} have "
            f"other bytes, first image {changed[0]} (key {first.samples[changed[0]].key!r})"
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
