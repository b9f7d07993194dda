"""Writing cached features: one file of pairs at a time, then what binds them. Free of torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastfill.cache_manifest import (
    HEAD,
    IDS,
    MANIFEST,
    OLD_HEAD,
    CacheManifest,
    CacheShard,
    Cards,
)
from fastfill.card import ModelCard
from fastfill.feature_cache import FeatureCache, read_cache
from fastfill.originals import UNLABELLED
from tenfold import atomic

Dtype = Literal["float16", "float32"]


def write_pairs(
    path: Path,
    *,
    old: NDArray[np.floating],
    new: NDArray[np.floating],
    side: NDArray[np.floating] | None,
    labels: NDArray[np.int64],
    dtype: Dtype,
) -> CacheShard:
    """Write one file of pairs and return its entry in the manifest.

    Args:
        path: The file, `pairs-00000.npz`.
        old: `[n, V, d_o]`.
        new: `[n, V, d_n]`.
        side: `[n, V, d_s]`.
        labels: `[n]`, -1 where none is known.
        dtype: How embeddings are stored.

    Raises:
        ValueError: An embedding is beyond what half precision can hold, or NaN or infinite.
    """
    columns = {"old": old, "new": new} | ({} if side is None else {"side": side})
    arrays: dict[str, Any] = {
        name: _stored(column, dtype, name) for name, column in columns.items()
    }
    with atomic.open_atomic(path) as file:
        np.savez(file, allow_pickle=False, label=np.asarray(labels, dtype=np.int64), **arrays)
    return CacheShard(path.name, len(labels), path.stat().st_size, atomic.sha256_file(path))


def finish_cache(
    folder: Path,
    *,
    cards: Cards,
    head: NDArray[np.floating] | None,
    old_head: NDArray[np.floating] | None,
    shards: Sequence[CacheShard],
    ids: Sequence[str],
    groups: Sequence[str] | None,
    num_views: int,
    dtype: Dtype,
    class_names: Sequence[str],
    data: Mapping[str, Any],
) -> FeatureCache:
    """Write ids, heads and, last, the manifest; return the cache.

    Args:
        folder: Holds the files of pairs.
        cards: The models; their numbers of classes are those of the heads.
        head: The new model's classifier `[K, d_n]`.
        old_head: The old model's classifier `[K_o, d_o]`.
        shards: The files of pairs, in order.
        ids: Of all items, in order.
        groups: Of all items.
        num_views: Cached views of each item.
        dtype: How embeddings are stored.
        class_names: Names of the labels.
        data: Where the originals came from, for people.
    """
    atomic.write_text(folder / IDS, "".join(_id_lines(ids, groups)))
    for name, weight in ((HEAD, head), (OLD_HEAD, old_head)):
        if weight is None:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic.open_atomic(folder / name) as file:
            np.save(file, np.ascontiguousarray(weight, dtype=np.float32), allow_pickle=False)
    manifest = CacheManifest(
        cards=cards,
        num_views=num_views,
        dtype=dtype,
        shards=tuple(shards),
        class_names=tuple(class_names),
        data=data,
    )
    atomic.write_json(folder / MANIFEST, manifest.to_json())
    return read_cache(folder)


def write_cache(
    folder: Path,
    *,
    ids: Sequence[str],
    old: NDArray[np.floating],
    new: NDArray[np.floating],
    old_card: ModelCard,
    new_card: ModelCard,
    side: NDArray[np.floating] | None = None,
    side_card: ModelCard | None = None,
    labels: NDArray[np.integer] | None = None,
    head: NDArray[np.floating] | None = None,
    old_head: NDArray[np.floating] | None = None,
    groups: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
    dtype: Dtype = "float16",
    shard_size: int = 65536,
) -> FeatureCache:
    """Make a cache of embeddings that are there already, in memory or mapped.

    Args:
        folder: New or empty.
        ids: Of the n items.
        old: `[n, d_o]`, or `[n, V, d_o]` for several views.
        new: `[n, d_n]` or `[n, V, d_n]`.
        old_card: The old model; 0 classes without `old_head`.
        new_card: The new model; 0 classes without `head`.
        side: `[n, d_s]` or `[n, V, d_s]`.
        side_card: Its model.
        labels: `[n]`, -1 or None where none is known.
        head: The new model's classifier `[K, d_n]`.
        old_head: The old model's classifier.
        groups: Of the items, for reports by group.
        class_names: Names of the labels.
        dtype: How embeddings are stored.
        shard_size: Items a file.

    Raises:
        ValueError: Shapes do not fit each other, the cards or the labels, or ids repeat.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder")
    cards = Cards(old_card, new_card, side_card)
    old, new = _with_views(old), _with_views(new)
    side = None if side is None else _with_views(side)
    columns = {"old": old, "new": new, "side": side}
    known = np.full(len(ids), UNLABELLED) if labels is None else np.asarray(labels)
    _check_fit(ids, columns, cards, known, groups)
    check_heads(cards, head=head, old_head=old_head, labels=known)
    shards: list[CacheShard] = []
    for number, first in enumerate(range(0, len(ids), shard_size)):
        part = slice(first, first + shard_size)
        shard = write_pairs(
            folder / shard_name(number),
            old=old[part],
            new=new[part],
            side=None if side is None else side[part],
            labels=known[part].astype(np.int64),
            dtype=dtype,
        )
        shards.append(shard)
    return finish_cache(
        folder,
        cards=cards,
        head=head,
        old_head=old_head,
        shards=shards,
        ids=ids,
        groups=groups,
        num_views=old.shape[1],
        dtype=dtype,
        class_names=class_names,
        data={"source": "arrays"},
    )


def shard_name(number: int) -> str:
    """Return the name of a file of pairs."""
    return f"pairs-{number:05d}.npz"


def check_heads(
    cards: Cards,
    *,
    head: NDArray[np.floating] | None,
    old_head: NDArray[np.floating] | None,
    labels: NDArray[np.integer],
) -> None:
    """Refuse heads that the cards do not announce, and labels that the new head has no row for.

    Raises:
        ValueError: Names the two numbers.
    """
    for name, weight, card in (("head", head, cards.new), ("old_head", old_head, cards.old)):
        expected = (card.num_classes, card.dim) if card.num_classes else None
        found = None if weight is None else weight.shape
        if expected != found:
            raise ValueError(f"{name} is {found}, but the card of {card.name} says {expected}")
    most = int(labels.max(initial=UNLABELLED))
    if head is not None and most >= len(head):
        raise ValueError(
            f"labels go up to {most}, but the classifier of {cards.new.name} has {len(head)} rows: "
            "give the data that it was trained for, or a model without classifier"
        )


def _check_fit(
    ids: Sequence[str],
    columns: Mapping[str, NDArray[np.floating] | None],
    cards: Cards,
    labels: NDArray[np.integer],
    groups: Sequence[str] | None,
) -> None:
    if not len(ids) or len(set(ids)) < len(ids):
        raise ValueError(f"ids must be distinct and not none, got {len(ids)} with repetitions")
    if len(labels) != len(ids) or len(groups if groups is not None else ids) != len(ids):
        raise ValueError(f"labels and groups must be {len(ids)}, one an id")
    old = columns["old"]
    assert old is not None
    for name, array in columns.items():
        card: ModelCard | None = getattr(cards, name)
        if (array is None) != (card is None):
            raise ValueError(f"{name} and its card must both be given, or neither")
        if array is None or card is None:
            continue
        expected = (len(ids), old.shape[1], card.dim)
        if array.shape != expected:
            raise ValueError(f"{name} is {list(array.shape)}, expected {list(expected)}")


def _with_views(array: NDArray[np.floating]) -> NDArray[np.floating]:
    if array.ndim not in (2, 3):
        raise ValueError(f"embeddings must be [n, d] or [n, V, d], got {list(array.shape)}")
    return array[:, None] if array.ndim == 2 else array


def _stored(column: NDArray[np.floating], dtype: Dtype, name: str) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(column, dtype=dtype)
    if not np.isfinite(stored).all():
        most = np.abs(column).max(initial=0)
        raise ValueError(
            f"{name} embeddings reach {most:.3g}, which {dtype} cannot hold; use dtype float32"
        )
    return stored


def _id_lines(ids: Sequence[str], groups: Sequence[str] | None) -> list[str]:
    rows: list[dict[str, str]]
    if groups is None:
        rows = [{"id": id} for id in ids]
    else:
        rows = [{"id": id, "group": group} for id, group in zip(ids, groups, strict=True)]
    return [json.dumps(row) + "\n" for row in rows]
