"""A gallery after several updates: items of several old models, each by its own way (spec 2.7).

The cached features of every step are of the same items, in any order; the last step's are what is
backfilled with.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastfill.card import check_same
from fastfill.evaluation.arms import Arm
from fastfill.feature_cache import FeatureCache
from fastfill.gallery.maps import GalleryMaps


def sequence_arm(
    caches: Sequence[FeatureCache],
    paths: Sequence[Path],
    vintages: Sequence[str],
    *,
    device: str = "cpu",
) -> Arm:
    """Return the gallery of mixed vintages, every item passed through its chain of maps.

    Args:
        caches: Of each step; the old model of one is a vintage. The last leads to the new model.
        paths: Of the maps, one leaves each old model.
        vintages: Name of each item's old model, in the order of the last cache.
        device: Where the maps run.

    Raises:
        FileNotFoundError: A map is missing.
        ValueError: Maps, features and vintages do not fit each other.
    """
    last = caches[-1]
    maps = GalleryMaps(paths, device=device)
    check_same(maps.cards.new, last.cards.new, what="new model of the maps")
    by_name = {card.name: number for number, card in enumerate(maps.cards.old)}
    if len(by_name) < len(maps.cards.old):
        raise ValueError(f"two old models have the same name: {', '.join(by_name)}")
    if unknown := sorted(set(vintages) - by_name.keys()):
        raise ValueError(
            f"vintages name {', '.join(unknown)}, the maps come from {', '.join(by_name)}"
        )
    number = np.array([by_name[name] for name in vintages])
    old = np.zeros((len(last), maps.cards.old_dim), dtype=np.float32)
    side = None if last.cards.side is None else last.side()
    for place, card in enumerate(maps.cards.old):
        mine = np.flatnonzero(number == place)
        if len(mine):
            old[mine, : card.dim] = _old_of(caches, card.weights_sha256, card.name, last.ids)[mine]
    z, s = maps.transform(old, side, number)
    return Arm("sequence", z, s)


def _old_of(
    caches: Sequence[FeatureCache], digest: str, name: str, ids: Sequence[str]
) -> NDArray[np.float32]:
    """Return what a model says of the items, from the cache whose old model it is."""
    for cache in caches:
        if cache.cards.old.weights_sha256 == digest:
            rows = _rows_of(cache.ids, ids, name)
            return cache.old()[rows]
    raise ValueError(
        f"no cached features are of the old model {name}: give those of its step in earlier"
    )


def _rows_of(there: Sequence[str], ids: Sequence[str], name: str) -> NDArray[np.int64]:
    places: Mapping[str, int] = {item: row for row, item in enumerate(there)}
    missing = [item for item in ids if item not in places]
    if missing:
        raise ValueError(
            f"the features of {name} lack {len(missing)} items, the first is {missing[0]!r:.80}"
        )
    return np.array([places[item] for item in ids], dtype=np.int64)
