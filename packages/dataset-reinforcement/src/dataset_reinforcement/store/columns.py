"""From reinforcements to the columns of a shard and back.

A reinforcement is what was drawn for one view of one image and the K largest probabilities of the
teacher on it (section 2.1). Packing checks everything, since a store is read many more times than
it is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataset_reinforcement.store.opcodes import (
    common_magnitude,
    decode_ops,
    encode_levels,
    encode_ops,
)
from dataset_reinforcement.store.tables import (
    CUTMIX,
    ERASE,
    FLIP,
    MIX,
    MIXUP,
    OPS,
    ShardColumns,
    ViewColumns,
)
from tenfold.augment.params import Box, MixParams, ViewParams

__all__ = ["ProbDtype", "Reinforcement", "ShardColumns", "pack", "unpack"]

ProbDtype = Literal["float16", "float32"]

_NO_BOX = Box(0, 0, 0, 0)
_Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Reinforcement:
    """One view of an image and the teacher's prediction on it.

    Attributes:
        own: What was drawn for the view.
        mix: How it is mixed with a partner; None where it is not.
        classes: uint16 `[K]`.
        probabilities: float32 `[K]`, falling.
        entropy: Of the densified label, nats (section 2.6).
    """

    own: ViewParams
    mix: MixParams | None
    classes: NDArray[np.uint16]
    probabilities: NDArray[np.float32]
    entropy: float


def pack(
    rows: Sequence[Sequence[Reinforcement]],
    *,
    prob_dtype: ProbDtype = "float16",
    shape: tuple[int, int] | None = None,
) -> _Columns:
    """Return the columns of a shard, by the names of `tables.LAYOUT`.

    Args:
        rows: The views of each image in order; an empty row for an image that was skipped.
        prob_dtype: Type of the stored probabilities; `float16` rounds them to 11 bits.
        shape: Views and K, needed only where all rows may be empty.

    Raises:
        ValueError: Rows differ in views, K, crop or operations, or a value does not fit its column,
            is not finite or out of order.
    """
    num_views, top_k = shape or _shape_of(rows)
    for row, views in enumerate(rows):
        if views and len(views) != num_views:
            raise ValueError(f"row {row} has {len(views)} views, expected {num_views}")
    flat = [view for views in rows for view in views]
    places = np.array(
        [row * num_views + view for row, views in enumerate(rows) for view in range(len(views))],
        dtype=np.int64,
    )
    own = [view.own for view in flat]
    mixed = [view.mix for view in flat if view.mix is not None]
    partners = [mix.view for mix in mixed]
    magnitude = common_magnitude([*own, *partners])
    dense = _pack_labels(flat, top_k, prob_dtype) | _pack_views(own, magnitude)
    has_mix = np.array([view.mix is not None for view in flat], dtype=bool)
    dense["flags"] |= np.where(has_mix, MIX, 0).astype(np.uint8)
    columns = {
        name: _scatter(values, places, len(rows), num_views) for name, values in dense.items()
    }
    if magnitude:
        columns["magnitude"] = np.array([magnitude], dtype=np.int8)
    has_erase = np.array([view.erase is not None for view in own], dtype=bool)
    if has_erase.any():
        columns |= _entries("erase", places[has_erase], len(rows), num_views)
        columns["erase.box"] = _boxes("erase", [view.erase for view in own if view.erase])
    if mixed:
        columns |= _entries("mix", places[has_mix], len(rows), num_views)
        columns |= {f"mix.{name}": array for name, array in _pack_mixes(mixed, magnitude).items()}
    return columns


def unpack(columns: ShardColumns, row: int, view: int) -> Reinforcement:
    """Return the reinforcement at a row and view of a shard."""
    flags = int(columns.own.flags[row, view])
    erase = None
    if flags & ERASE and columns.erase is not None:
        erase = Box(*columns.erase.columns["box"][columns.erase.find(row, view)].tolist())
    own = _unpack_view(columns.own, (row, view), flags, erase, magnitude=columns.magnitude)
    return Reinforcement(
        own=own,
        mix=_unpack_mix(columns, row, view) if flags & MIX else None,
        classes=np.array(columns.classes[row, view]),
        probabilities=columns.probabilities[row, view].astype(np.float32),
        entropy=float(columns.entropy[row, view]),
    )


def _unpack_mix(columns: ShardColumns, row: int, view: int) -> MixParams:
    mix, partner = columns.mix, columns.partner
    if mix is None or partner is None:
        raise ValueError(f"row {row}, view {view} is mixed, but the shard has no partners")
    entry = mix.find(row, view)
    flags = int(partner.flags[entry])
    erase = Box(*mix.columns["erase"][entry].tolist()) if flags & ERASE else None
    return MixParams(
        partner=int(mix.columns["partner"][entry]),
        view=_unpack_view(partner, (entry,), flags, erase, magnitude=columns.magnitude),
        mixup=float(mix.columns["weight"][entry]) if flags & MIXUP else None,
        cutmix=Box(*mix.columns["cutmix"][entry].tolist()) if flags & CUTMIX else None,
    )


def _unpack_view(
    views: ViewColumns, at: tuple[int, ...], flags: int, erase: Box | None, *, magnitude: int
) -> ViewParams:
    ops = None
    if flags & OPS and views.ops is not None:
        levels = None if views.levels is None else views.levels[at]
        ops = decode_ops(views.ops[at], levels, magnitude=magnitude)
    return ViewParams(
        crop=None if views.crop is None else Box(*views.crop[at].tolist()),
        flip=bool(flags & FLIP),
        ops=ops,
        erase=erase,
    )


def _shape_of(rows: Sequence[Sequence[Reinforcement]]) -> tuple[int, int]:
    for views in rows:
        if views:
            return len(views), len(views[0].classes)
    raise ValueError("all rows are empty: give `shape`, the number of views and K")


def _pack_labels(flat: Sequence[Reinforcement], top_k: int, prob_dtype: ProbDtype) -> _Columns:
    for view in flat:
        if view.classes.shape != (top_k,) or view.probabilities.shape != (top_k,):
            raise ValueError(
                f"classes are {view.classes.shape} and probabilities {view.probabilities.shape}, "
                f"expected ({top_k},) for both"
            )
    classes = np.array([view.classes for view in flat], dtype=np.int64).reshape(-1, top_k)
    values = np.array([view.probabilities for view in flat], dtype=np.float32).reshape(-1, top_k)
    entropy = np.array([view.entropy for view in flat], dtype=np.float32)
    if classes.size and not 0 <= classes.min() <= classes.max() <= 65535:
        raise ValueError(f"classes lie in {classes.min()}..{classes.max()}, expected 0..65535")
    if not (np.isfinite(values).all() and np.isfinite(entropy).all()):
        raise ValueError("probabilities or entropies are not finite: the teacher is broken")
    # A mean of float32 softmaxes may exceed 1 by rounding; the losses renormalise.
    if values.size and not 0 <= values.min() <= values.max() <= 1 + 1e-3:
        raise ValueError(f"probabilities lie in {values.min()}..{values.max()}, expected 0..1")
    if (np.diff(values, axis=-1) > 0).any():
        raise ValueError("the probabilities of a view must fall; sort them with their classes")
    return {
        "classes": classes.astype(np.uint16),
        "probabilities": values.astype(prob_dtype),
        "entropy": entropy.astype(np.float16),
    }


def _pack_views(views: Sequence[ViewParams], magnitude: int | None) -> _Columns:
    flags = [
        (FLIP if view.flip else 0)
        | (OPS if view.ops is not None else 0)
        | (ERASE if view.erase is not None else 0)
        for view in views
    ]
    columns: _Columns = {"flags": np.array(flags, dtype=np.uint8)}
    crops = [view.crop for view in views if view.crop is not None]
    if crops:
        if len(crops) != len(views):
            raise ValueError(f"{len(crops)} of {len(views)} views have a crop; all or none must")
        columns["crop"] = _boxes("crop", crops)
    codes = encode_ops(views)
    if codes is not None:
        columns["ops"] = codes
        if magnitude is None:
            columns["levels"] = encode_levels(views, codes.shape[1])
    return columns


def _pack_mixes(mixes: Sequence[MixParams], magnitude: int | None) -> _Columns:
    partners = np.array([mix.partner for mix in mixes], dtype=np.int64)
    if not 0 <= partners.min() <= partners.max() < 2**32:
        raise ValueError(f"partners lie in {partners.min()}..{partners.max()}, expected 0..2^32-1")
    weights = [mix.mixup or 0.0 for mix in mixes]
    exact = np.array(weights, dtype=np.float32)
    if (exact != np.array(weights, dtype=np.float64)).any():
        raise ValueError("a MixUp weight is no float32 value; replay would not be exact")
    kinds = [
        (MIXUP if mix.mixup is not None else 0) | (CUTMIX if mix.cutmix is not None else 0)
        for mix in mixes
    ]
    columns = _pack_views([mix.view for mix in mixes], magnitude)
    columns["flags"] |= np.array(kinds, dtype=np.uint8)
    columns["partner"] = partners.astype(np.uint32)
    columns["weight"] = exact
    columns["cutmix"] = _boxes("cutmix", [mix.cutmix or _NO_BOX for mix in mixes])
    if any(mix.view.erase is not None for mix in mixes):
        columns["erase"] = _boxes("erase", [mix.view.erase or _NO_BOX for mix in mixes])
    return columns


def _boxes(name: str, boxes: Sequence[Box | None]) -> NDArray[np.int16]:
    values = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    if values.size and not -32768 <= values.min() <= values.max() <= 32767:
        worst = boxes[int(np.abs(values).max(axis=1).argmax())]
        raise ValueError(f"the {name} box {worst} exceeds 32767 pixels; scale the images down")
    return values.astype(np.int16)


def _scatter(
    values: NDArray[Any], places: NDArray[np.int64], rows: int, views: int
) -> NDArray[Any]:
    dense = np.zeros((rows * views, *values.shape[1:]), dtype=values.dtype)
    dense[places] = values
    return dense.reshape(rows, views, *values.shape[1:])


def _entries(name: str, places: NDArray[np.int64], rows: int, views: int) -> _Columns:
    starts = np.searchsorted(places, np.arange(rows + 1) * views)
    if views > 65536:
        raise ValueError(f"a part has {views} views, expected at most 65536; make several parts")
    return {
        f"{name}.start": starts.astype(np.uint32),
        f"{name}.view": (places % views).astype(np.uint16),
    }
