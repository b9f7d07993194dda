"""Cached features: what old and new model (and side information) say of the same views.

A folder of `pairs-00000.npz` and so on, with `old` `[n, V, d_o]`, `new` `[n, V, d_n]`, `side`
`[n, V, d_s]` where there is any, and `label` `[n]` int64; `ids.jsonl` with an id (and group) a
line; `head.npy` `[K, d_n]` and `old_head.npy` `[K_o, d_o]` where the models have classifiers; and
`cache.json`, written last. This module reads them, in the memory of what is asked for; it is free
of torch. Not here: writing (`cache_writing.py`) and the verb (`cache.py`).
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfill.cache_manifest import (
    HEAD,
    IDS,
    MANIFEST,
    OLD_HEAD,
    CacheManifest,
    CacheShard,
)
from fastfill.card import ModelCard
from fastfill.npz_columns import map_npz
from tenfold.atomic import sha256_file

Column = Literal["old", "new", "side"]


class Pairs(NamedTuple):
    """Rows of a cache: float32 `[n, d_o]`, `[n, d_n]`, `[n, d_s]` or None, labels int64 `[n]`."""

    old: NDArray[np.float32]
    new: NDArray[np.float32]
    side: NDArray[np.float32] | None
    labels: NDArray[np.int64]


class FeatureCache:
    """Read access to cached features.

    Embeddings come as float32, of the view that is asked for, whatever they are stored as.

    Attributes:
        folder: Where the files are.
        cards: The models.
        num_views: Cached views of each item.
        class_names: Names of the labels, empty where they have none.
        manifest: All that `cache.json` says.
    """

    def __init__(self, folder: Path, manifest: CacheManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.cards = manifest.cards
        self.num_views = manifest.num_views
        self.class_names = manifest.class_names
        counts = [shard.num_items for shard in manifest.shards]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._arrays = [self._checked(shard) for shard in manifest.shards]

    def __len__(self) -> int:
        """Return the number of items."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __reduce__(self) -> tuple[object, ...]:
        return read_cache, (self.folder,)

    def old(self, view: int = 0) -> NDArray[np.float32]:
        """Return the old embeddings `[n, d_o]` of a view."""
        return self._column("old", view)

    def new(self, view: int = 0) -> NDArray[np.float32]:
        """Return the new embeddings `[n, d_n]` of a view."""
        return self._column("new", view)

    def side(self, view: int = 0) -> NDArray[np.float32] | None:
        """Return the side information `[n, d_s]` of a view, None where there is none."""
        return None if self.cards.side is None else self._column("side", view)

    def rows(
        self, rows: NDArray[np.integer] | Sequence[int], views: NDArray[np.integer] | int = 0
    ) -> Pairs:
        """Return some items, in any order, each in a view of its own or all in one.

        Only these rows are read.

        Args:
            rows: Which items `[m]`.
            views: View of each `[m]`, or of all.

        Raises:
            IndexError: A row or a view is out of range.
        """
        rows = np.asarray(rows, dtype=np.int64)
        picked = np.broadcast_to(np.asarray(views, dtype=np.int64), rows.shape)
        for name, values, limit in (("row", rows, len(self)), ("view", picked, self.num_views)):
            if values.size and not 0 <= values.min() <= values.max() < limit:
                raise IndexError(
                    f"a {name} of {values.min()}..{values.max()} is not in 0..{limit - 1}"
                )
        old, new = self._gather("old", rows, picked), self._gather("new", rows, picked)
        side = None if self.cards.side is None else self._gather("side", rows, picked)
        return Pairs(old, new, side, self.labels[rows])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class of each item, -1 where none is known."""
        empty = [np.zeros(0, np.int64)]
        return np.concatenate([*empty, *(arrays["label"] for arrays in self._arrays)])

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Id of each item."""
        return tuple(row["id"] for row in self._id_rows)

    @cached_property
    def groups(self) -> tuple[str, ...] | None:
        """Group of each item for reports by group, None where there are none."""
        if not all("group" in row for row in self._id_rows):
            return None
        return tuple(row["group"] for row in self._id_rows)

    @cached_property
    def head(self) -> NDArray[np.float32] | None:
        """The new model's classifier `[K, d_n]`, None where it has none."""
        return self._head(HEAD, self.cards.new)

    @cached_property
    def old_head(self) -> NDArray[np.float32] | None:
        """The old model's classifier `[K_o, d_o]`, None where it has none."""
        return self._head(OLD_HEAD, self.cards.old)

    def verify(self) -> None:
        """Compare every file of pairs with its SHA-256.

        Raises:
            ValueError: One differs; names it.
        """
        for shard in self.manifest.shards:
            if sha256_file(self.folder / shard.name) != shard.sha256:
                raise ValueError(
                    f"{self.folder / shard.name} is not what {MANIFEST} says; cache it again"
                )

    def _column(self, name: Column, view: int) -> NDArray[np.float32]:
        if not 0 <= view < self.num_views:
            raise IndexError(f"view {view} is not in 0..{self.num_views - 1}")
        column = np.empty((len(self), self._dim(name)), dtype=np.float32)
        for arrays, end in zip(self._arrays, self._ends, strict=True):
            column[end - len(arrays[name]) : end] = arrays[name][:, view]
        return column

    def _gather(
        self, name: Column, rows: NDArray[np.int64], views: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        gathered = np.empty((len(rows), self._dim(name)), dtype=np.float32)
        shard_of = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(shard_of):
            here = shard_of == number
            array = self._arrays[number][name]
            first = self._ends[number] - len(array)
            gathered[here] = array[rows[here] - first, views[here]]
        return gathered

    def _dim(self, name: Column) -> int:
        card = getattr(self.cards, name)
        return card.dim

    def _checked(self, shard: CacheShard) -> dict[str, NDArray[Any]]:
        path = self.folder / shard.name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but {MANIFEST} lists it; cache it again")
        arrays = map_npz(path)
        shapes: dict[str, tuple[int, ...]] = {"label": (shard.num_items,)}
        for name, card in self.cards._asdict().items():
            if card is not None:
                shapes[name] = (shard.num_items, self.num_views, card.dim)
        found = {name: array.shape for name, array in arrays.items()}
        if found != shapes:
            raise ValueError(f"{path} holds {found}, but {MANIFEST} says {shapes}; cache it again")
        return arrays

    @cached_property
    def _id_rows(self) -> list[dict[str, str]]:
        path = self.folder / IDS
        try:
            # Not splitlines: an id may hold other line separators.
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            rows = [{key: str(value) for key, value in json.loads(line).items()} for line in lines]
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read: {error}; cache it again") from error
        if len(rows) != len(self) or not all("id" in row for row in rows):
            raise ValueError(f"{path} has {len(rows)} ids for {len(self)} items; cache it again")
        return rows

    def _head(self, name: str, card: ModelCard) -> NDArray[np.float32] | None:
        if not card.num_classes:
            return None
        path = self.folder / name
        try:
            head = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}; cache it again") from error
        if head.shape != (card.num_classes, card.dim):
            raise ValueError(
                f"{path} is {list(head.shape)}, but {card.name} has {card.num_classes} classes and "
                f"{card.dim} dimensions; cache it again"
            )
        return head.astype(np.float32, copy=False)


def read_cache(folder: Path | str) -> FeatureCache:
    """Open cached features.

    Raises:
        FileNotFoundError: The folder or one of its files is missing, or caching has not finished.
        ValueError: Something in it is damaged or malformed.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: expected a folder that cache-features has finished"
        )
    try:
        manifest = CacheManifest.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return FeatureCache(folder, manifest)
