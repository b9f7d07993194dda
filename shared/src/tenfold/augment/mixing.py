"""MixUp and CutMix of two views by stored parameters (Dataset Reinforcement, variants +M*)."""

import torch
from torch import Tensor

from tenfold.augment.drawing import draw_mix
from tenfold.augment.geometry import scale_box
from tenfold.augment.params import Box

__all__ = ["draw_mix", "mix", "to_float"]


def to_float(image: Tensor) -> Tensor:
    """Return a uint8 image as float32 in 0..1; images of another dtype are refused.

    Raises:
        ValueError: The image is not uint8.
    """
    if image.dtype != torch.uint8:
        raise ValueError(f"image must be uint8, got {image.dtype}")
    return image.to(torch.float32) / 255


def mix(
    owner: Tensor, partner: Tensor, *, mixup: float | None, cutmix: Box | None, drawn_size: int
) -> Tensor:
    """Mix two views: MixUp first, then CutMix.

    Consumes no randomness. The mean is two products and a sum, each rounded to float32, so that it
    does not depend on how many threads compute it.

    Args:
        owner: uint8 `[3, S, S]`.
        partner: uint8 `[3, S, S]`.
        mixup: Weight of the owner in the mean of both; None for the owner alone.
        cutmix: Region that then shows the partner alone; None for none.
        drawn_size: Output size in whose pixels `cutmix` is given.

    Returns:
        float32 `[3, S, S]` in 0..1.

    Raises:
        ValueError: Views of unequal shape, no uint8, a weight outside 0..1, or a box outside the
            output.
    """
    if owner.shape != partner.shape or owner.shape[-1] != owner.shape[-2]:
        raise ValueError(
            "two square views of one size are mixed, got shapes "
            f"{list(owner.shape)} and {list(partner.shape)}"
        )
    mixed, other = to_float(owner), to_float(partner)
    if mixup is not None:
        if not 0 <= mixup <= 1:
            raise ValueError(f"weight of the owner image must lie in 0..1, got {mixup}")
        mixed = mixed * mixup + other * (1 - mixup)
    if cutmix is not None:
        box = scale_box(cutmix, drawn_size, owner.shape[-1])
        rows = slice(box.top, box.top + box.height)
        columns = slice(box.left, box.left + box.width)
        mixed[..., rows, columns] = other[..., rows, columns]
    return mixed
