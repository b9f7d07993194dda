"""One operation of RandAugment in one byte: kind, sign, and whether it has a level at all."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.augment.params import Op, ViewParams

_KIND = 15
_NEGATIVE = 16
_LEVELLED = 32


def common_magnitude(views: Iterable[ViewParams]) -> int | None:
    """Return the size that all levels but 0 have (0 when there are none), or None."""
    sizes = {abs(level) for view in views for _, level in view.ops or () if level}
    if len(sizes) > 1:
        return None
    return sizes.pop() if sizes else 0


def encode_ops(views: Sequence[ViewParams]) -> NDArray[np.uint8] | None:
    """Return uint8 `[views, operations]`, 0 where the block was not applied; None if nowhere.

    Raises:
        ValueError: Views differ in the number of operations, or a kind exceeds 4 bits.
    """
    counts = {len(view.ops) for view in views if view.ops is not None}
    if not counts:
        return None
    if len(counts) > 1:
        raise ValueError(f"views have {sorted(counts)} operations, expected one number for all")
    nothing = (0,) * counts.pop()
    codes = [nothing if view.ops is None else tuple(map(_encode, view.ops)) for view in views]
    return np.array(codes, dtype=np.uint8)


def encode_levels(views: Sequence[ViewParams], num_ops: int) -> NDArray[np.int8]:
    """Return the levels, int8 `[views, operations]`.

    Raises:
        ValueError: A level is not within -128..127.
    """
    levels = [[op.level for op in view.ops or (Op(0, 0),) * num_ops] for view in views]
    values = np.array(levels, dtype=np.int64).reshape(len(views), num_ops)
    if values.size and not -128 <= values.min() <= values.max() <= 127:
        raise ValueError(f"levels lie in {values.min()}..{values.max()}, expected -128..127")
    return values.astype(np.int8)


def decode_ops(
    codes: NDArray[np.uint8], levels: NDArray[np.int8] | None, *, magnitude: int
) -> tuple[Op, ...]:
    """Return the operations of one view from its codes `[operations]`."""
    kinds = codes.tolist()
    if levels is not None:
        return tuple(
            Op(code & _KIND, level) for code, level in zip(kinds, levels.tolist(), strict=True)
        )
    return tuple(Op(code & _KIND, _level(code, magnitude)) for code in kinds)


def spell_levels(codes: NDArray[np.uint8], *, magnitude: int) -> NDArray[np.int8]:
    """Return the levels of codes of any shape, int8, where all but 0 have one size."""
    levels = np.where(codes & _NEGATIVE, -magnitude, magnitude)
    return np.where(codes & _LEVELLED, levels, 0).astype(np.int8)


def _encode(op: Op) -> int:
    kind, level = op
    if not 0 <= kind <= _KIND:
        raise ValueError(f"operation {kind} is unknown, expected 0..{_KIND}")
    return kind | (_NEGATIVE if level < 0 else 0) | (_LEVELLED if level else 0)


def _level(code: int, magnitude: int) -> int:
    if not code & _LEVELLED:
        return 0
    return -magnitude if code & _NEGATIVE else magnitude
