"""What was drawn for one view of an image: enough to make the same pixels again.

Free of torch. A crop box is in pixels of the source image (after the pipeline's resize, where it
has one), so it fits any output size; boxes in the output are in pixels of the size that they were
drawn for.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in pixels; `top` and `left` may be negative where a crop reaches into padding."""

    top: int
    left: int
    height: int
    width: int


class Op(NamedTuple):
    """One operation of RandAugment.

    Attributes:
        kind: Place in `randaugment.OPS`.
        level: Signed magnitude bin; 0 for operations without a magnitude.
    """

    kind: int
    level: int


@dataclass(frozen=True, slots=True)
class ViewParams:
    """What was drawn for a view of one image.

    Attributes:
        crop: Region of the source image; None where the pipeline has no random crop.
        flip: Whether the crop is mirrored left to right.
        ops: RandAugment's operations in order; None where the block was not applied.
        erase: Region of the output that is set to 0; None where nothing is.
    """

    crop: Box | None = None
    flip: bool = False
    ops: tuple[Op, ...] | None = None
    erase: Box | None = None


@dataclass(frozen=True, slots=True)
class MixParams:
    """How a view is mixed with a partner: MixUp first, then CutMix.

    Attributes:
        partner: Index of the partner image.
        view: What was drawn for the partner's view.
        mixup: Weight of the owner image, a float32 value; None without MixUp.
        cutmix: Region of the output that shows the partner; None without CutMix.
    """

    partner: int
    view: ViewParams
    mixup: float | None = None
    cutmix: Box | None = None
