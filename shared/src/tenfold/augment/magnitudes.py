"""RandAugment's operations and how strong each is at each level, pinned here.

The table is torchvision's (`RandAugment._AUGMENTATION_SPACE`). It stands here because a stored
level must mean the same when the library's table changes, and because `torch.linspace` differs in
the last bit between processors. Free of torch.
"""

import math

import numpy as np

from tenfold.augment.params import Op

OPS: tuple[str, ...] = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""The names in the official order; `Op.kind` is a place in it."""

_LARGEST = {
    "ShearX": 0.3,
    "ShearY": 0.3,
    "Rotate": 30.0,
    "Brightness": 0.9,
    "Color": 0.9,
    "Contrast": 0.9,
    "Sharpness": 0.9,
}
_TRANSLATE = 150.0 / 331.0
SIGNED = frozenset({*_LARGEST, "TranslateX", "TranslateY"})
"""Operations whose magnitude is drawn with either sign."""
PLAIN = frozenset({"Identity", "AutoContrast", "Equalize"})
"""Operations without a magnitude."""


def magnitude(
    op: int, level: int, *, height: int, width: int, bins: int, translate_pixels: int | None = None
) -> float:
    """Return the magnitude of an operation at a signed level.

    Args:
        op: Place in `OPS`.
        level: Signed magnitude bin; its sign is the magnitude's.
        height: Of the image that is transformed, pixels.
        width: Likewise.
        bins: Number of levels.
        translate_pixels: Side from which translations are computed instead of `height` and `width`.

    Returns:
        A float32 value: tangent of a shear, pixels of a translation, degrees of a rotation, change
        of a colour factor of 1, bits of `Posterize`, threshold of `Solarize` as share of 255.

    Raises:
        ValueError: No such operation or level, or a negative level of an unsigned operation.
    """
    name = _name(op)
    if abs(level) >= bins or (level < 0 and name not in SIGNED) or (level and name in PLAIN):
        raise ValueError(f"{name} has no level {level} in a table of {bins} bins")
    if name in PLAIN:
        return 0.0
    if name == "Posterize":
        return float(8 - round(level / ((bins - 1) / 4)))
    if name == "Solarize":
        return _linspace(1.0, 0.0, level, bins)
    if name in ("TranslateX", "TranslateY"):
        side = translate_pixels or (width if name == "TranslateX" else height)
        largest = _TRANSLATE * side
    else:
        largest = _LARGEST[name]
    return math.copysign(_linspace(0.0, largest, abs(level), bins), level)


def level_of(
    op: int, value: float, *, size: int, bins: int, preferred: int, translate_pixels: int | None
) -> Op:
    """Return the operation whose magnitude at some level is `value`; inverse of `magnitude`.

    Args:
        op: Place in `OPS`.
        value: Its magnitude, with sign.
        size: Side of the square image that was transformed.
        bins: Number of levels.
        preferred: Level that is taken where several have this magnitude, as of `Posterize`.
        translate_pixels: See `magnitude`.

    Raises:
        ValueError: No such operation, or no level has this magnitude.
    """
    name = _name(op)
    sign = -1 if value < 0 and name in SIGNED else 1
    levels = (0,) if name in PLAIN else (preferred, *range(bins))
    for level in levels:
        entry = magnitude(
            op, level, height=size, width=size, bins=bins, translate_pixels=translate_pixels
        )
        # Wider than float32's rounding, far narrower than the step between levels.
        if math.isclose(entry, sign * value, rel_tol=1e-5, abs_tol=1e-6):
            return Op(op, sign * level)
    raise ValueError(
        f"RandAugment magnitude {value} of {name} is no level of the table with bins {bins} at "
        f"size {translate_pixels or size}; augment.bins, size or translate_pixels are others"
    )


def _name(op: int) -> str:
    if not 0 <= op < len(OPS):
        raise ValueError(f"RandAugment operation must lie in 0..{len(OPS) - 1}, got {op}")
    return OPS[op]


def _linspace(start: float, end: float, level: int, bins: int) -> float:
    # As torch.linspace computes an element, in float32 from the nearer end.
    first, last = np.float32(start), np.float32(end)
    step = (last - first) / np.float32(bins - 1)
    if level < bins // 2:
        return float(first + step * np.float32(level))
    return float(last - step * np.float32(bins - 1 - level))
