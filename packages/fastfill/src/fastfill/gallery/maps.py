"""The maps of a gallery: for each old model the way into the new space, over models between.

With maps v1 -> v2 and v2 -> v3 items of v1 pass both, and their variances add; one map leaves each
model, so a direct map v1 -> v3 is given instead of v1 -> v2 (spec 2.7).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfill.card import ModelCard, TransformCard
from fastfill.gallery.reading import GalleryReader
from fastfill.gallery.state import GalleryCards
from fastfill.transform import Chain, EmbeddingMap, transform_all
from fastfill.weights import load_transformation
from tenfold.digests import weights_sha256

_BATCH = 65536


@dataclass(frozen=True)
class _Step:
    module: EmbeddingMap
    card: TransformCard


class GalleryMaps:
    """Maps from every old model to one new one.

    Args:
        paths: Of maps: files, checkpoints or run folders of `fit`.
        device: Where they run; the CPU if absent.

    Attributes:
        cards: The models; an old model's position is its vintage.

    Raises:
        ValueError: There are none, or they lead to several models.
    """

    def __init__(self, paths: Sequence[Path], *, device: str | None = None) -> None:
        if not paths:
            raise ValueError("h must name one map or more, got none")
        steps = [_Step(*load_transformation(path)) for path in paths]
        new = _last_model(steps)
        ways = {step.card.old.weights_sha256: _way(step, steps, new) for step in steps}
        self._device = device
        self._maps = [_joined(way) for way in ways.values()]
        first = [way[0].card for way in ways.values()]
        self.cards = GalleryCards(
            new=new,
            old=tuple(card.old for card in first),
            maps=tuple(first),
            maps_sha256=tuple(weights_sha256(module) for module in self._maps),
            side=_one_side([step.card for step in steps]),
        )

    def transform(
        self,
        old: NDArray[Any],
        side: NDArray[Any] | None,
        vintage: NDArray[np.integer[Any]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return z `[n, d_n]` and s `[n]` of items, each by its model's way.

        Args:
            old: `[n, d_o]`, of which narrower models take the first columns.
            side: `[n, d_s]`, for maps that take it.
            vintage: Position of each item's model.

        Raises:
            ValueError: Widths do not fit, or a result is NaN or infinite.
        """
        z = np.empty((len(old), self.cards.new.dim), dtype=np.float32)
        s = np.empty(len(old), dtype=np.float32)
        for number, (module, card) in enumerate(zip(self._maps, self.cards.old, strict=True)):
            rows = np.flatnonzero(vintage == number)
            if len(rows):
                mine = None if side is None or not module.side_dim else side[rows]
                z[rows], s[rows] = transform_all(
                    module, old[rows][:, : card.dim], mine, batch=_BATCH, device=self._device
                )
        return z, s

    def vectors_of(self, gallery: GalleryReader, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return z `[n, d_n]` of rows of a gallery, from the old vectors that it keeps.

        Raises:
            ValueError: As `transform`.
        """
        side = gallery.column("side")[rows] if gallery.state.side_dim else None
        return self.transform(gallery.column("old")[rows], side, gallery.vintages()[rows])[0]

    def check_those_of(self, cards: GalleryCards) -> None:
        """Refuse maps that are not those a gallery was made with.

        Raises:
            ValueError: They lead elsewhere or have other weights.
        """
        mine = [card.weights_sha256 for card in self.cards.old]
        theirs = [card.weights_sha256 for card in cards.old]
        same_models = mine == theirs and self.cards.new.weights_sha256 == cards.new.weights_sha256
        if not same_models or self.cards.maps_sha256 != cards.maps_sha256:
            raise ValueError(
                f"h is not the map that the gallery was made with ({_names(cards)}; "
                f"{', '.join(digest[:16] for digest in cards.maps_sha256) or 'no digest'}); give "
                "that one, in the same order where there are several"
            )


def _last_model(steps: Sequence[_Step]) -> ModelCard:
    """Return the model that maps lead to and none starts from."""
    starts = {step.card.old.weights_sha256 for step in steps}
    if len(starts) < len(steps):
        raise ValueError("two maps start from the same old model; give one for each")
    ends = {
        card.weights_sha256: card
        for card in (step.card.new for step in steps)
        if card.weights_sha256 not in starts
    }
    if len(ends) != 1:
        names = ", ".join(card.name for card in ends.values()) or "a circle"
        raise ValueError(f"the maps must lead to one new model, they lead to {names}")
    return ends.popitem()[1]


def _way(step: _Step, steps: Sequence[_Step], new: ModelCard) -> list[_Step]:
    """Return the maps from one model to the new one; each model has one map that leaves it."""
    by_start = {each.card.old.weights_sha256: each for each in steps}
    way = [step]
    while way[-1].card.new.weights_sha256 != new.weights_sha256:
        if len(way) > len(steps):
            raise ValueError("the maps lead in a circle; give those that lead to the new model")
        way.append(by_start[way[-1].card.new.weights_sha256])
    return way


def _joined(way: Sequence[_Step]) -> EmbeddingMap:
    if len(way) == 1:
        return way[0].module
    between = [step.card.new.normalized for step in way[:-1]]
    return Chain([step.module for step in way], normalized=between)


def _one_side(cards: Sequence[TransformCard]) -> ModelCard | None:
    sides = {card.side.weights_sha256: card.side for card in cards if card.side is not None}
    if len(sides) > 1:
        names = ", ".join(side.name for side in sides.values())
        raise ValueError(f"the maps take side information of several models: {names}")
    return next(iter(sides.values()), None)


def _names(cards: GalleryCards) -> str:
    return ", ".join(f"{old.name} to {cards.new.name}" for old in cards.old)
