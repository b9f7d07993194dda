"""RandAugment by stored operations: 14 kernels, nearest neighbour, black where nothing is.

The kernels are called as torchvision's `RandAugment` calls them, but for sharpness: torchvision's
convolution takes several times as long as the sums here, whose result is the same to the bit.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tenfold.augment.backend import InterpolationMode, functional
from tenfold.augment.config import AugmentConfig
from tenfold.augment.drawing import draw_ops
from tenfold.augment.magnitudes import OPS, magnitude
from tenfold.augment.params import Op

__all__ = ["OPS", "apply_ops", "draw_ops", "magnitude"]


def apply_ops(image: Tensor, ops: Sequence[Op], config: AugmentConfig) -> Tensor:
    """Apply operations in order.

    Args:
        image: uint8 `[3, H, W]`.
        ops: What was drawn.
        config: Says what the levels mean (`bins`, `translate_pixels`).

    Returns:
        uint8 `[3, H, W]`; `image` itself where nothing changes it.

    Raises:
        ValueError: An operation or level that the table does not have.
    """
    height, width = image.shape[-2:]
    for kind, level in ops:
        strength = magnitude(
            kind,
            level,
            height=height,
            width=width,
            bins=config.bins,
            translate_pixels=config.translate_pixels,
        )
        image = _KERNELS[OPS[kind]](image, strength)
    return image


def _affine(
    image: Tensor, *, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] | None = None
) -> Tensor:
    # Shears turn about the top left corner, as in AutoAugment; the angle of a shear is its arctan.
    degrees = [math.degrees(math.atan(part)) for part in shear or (0.0, 0.0)]
    return functional.affine(
        image,
        angle=0.0,
        translate=list(translate),
        scale=1.0,
        shear=degrees,
        interpolation=InterpolationMode.NEAREST,
        center=None if shear is None else [0, 0],
    )


def _sharpness(image: Tensor, factor: float) -> Tensor:
    """Return `functional.adjust_sharpness`: blend with a blur by 1s round a 5, borders left alone.

    Sums of integers below 2^24 are exact in float32 in any order, and a multiple of 1/13 is never
    near enough to a half for the convolution's roundings to matter.
    """
    if min(image.shape[-2:]) <= 2:
        return image
    output = image.to(torch.float32)
    inner = output[..., 1:-1, 1:-1]
    rows = output[..., :-2, :] + output[..., 1:-1, :] + output[..., 2:, :]
    blurred = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = blurred.add_(inner, alpha=4).div_(13).round_()
    inner.add_(blurred.sub_(inner), alpha=1.0 - factor)
    return output.clamp_(0, 255).to(torch.uint8)


_KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, tangent: _affine(image, shear=(tangent, 0.0)),
    "ShearY": lambda image, tangent: _affine(image, shear=(0.0, tangent)),
    "TranslateX": lambda image, pixels: _affine(image, translate=(int(pixels), 0)),
    "TranslateY": lambda image, pixels: _affine(image, translate=(0, int(pixels))),
    "Rotate": lambda image, degrees: functional.rotate(image, degrees, InterpolationMode.NEAREST),
    "Brightness": lambda image, change: functional.adjust_brightness(image, 1.0 + change),
    "Color": lambda image, change: functional.adjust_saturation(image, 1.0 + change),
    "Contrast": lambda image, change: functional.adjust_contrast(image, 1.0 + change),
    "Sharpness": lambda image, change: _sharpness(image, 1.0 + change),
    "Posterize": lambda image, bits: functional.posterize(image, int(bits)),
    "Solarize": lambda image, share: functional.solarize(image, 255.0 * share),
    "AutoContrast": lambda image, _: functional.autocontrast(image),
    "Equalize": lambda image, _: functional.equalize(image),
}
