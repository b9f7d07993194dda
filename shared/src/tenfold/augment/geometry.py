"""Where pixels come from: resizing, cropping and erasing by stored boxes.

Nothing here consumes randomness. A crop box belongs to the source image (after `config.resize`,
where that is set) and so fits any output size; boxes in the output are scaled with it.
"""

from torch import Tensor

from tenfold.augment.backend import InterpolationMode, functional
from tenfold.augment.config import AugmentConfig
from tenfold.augment.params import Box


def crop(image: Tensor, box: Box | None, config: AugmentConfig, *, size: int) -> Tensor:
    """Cut the view out of an image and bring it to `size`.

    Args:
        image: uint8 `[3, H, W]`.
        box: What was drawn; None where the pipeline draws no crop.
        config: The pipeline.
        size: Side of the result, pixels.

    Returns:
        uint8 `[3, size, size]`; may share memory with `image`.

    Raises:
        ValueError: The box does not fit into the image, or a box is missing or not expected.
    """
    mode, antialias = InterpolationMode(config.interpolation), config.antialias
    drawn = config.crop in ("random_resized", "random")
    if drawn != (box is not None):
        raise ValueError(
            f"a {config.crop} crop has {'a' if drawn else 'no'} crop box, got {box}: the "
            "parameters are another pipeline's"
        )
    if config.resize is not None:
        image = functional.resize(image, [config.resize], mode, antialias=antialias)
    if box is None:
        box = _fixed(image, config)
    else:
        _check_crop(box, image, padding=config.padding if config.crop == "random" else 0)
    return functional.resized_crop(
        image, box.top, box.left, box.height, box.width, [size, size], mode, antialias
    )


def erase(view: Tensor, box: Box, *, drawn_size: int) -> Tensor:
    """Return a copy of a square view in which a box, drawn for `drawn_size`, is 0.

    Raises:
        ValueError: The box reaches out of the view.
    """
    box = scale_box(box, drawn_size, view.shape[-1])
    zero = view.new_zeros((1, 1, 1))
    return functional.erase(view, box.top, box.left, box.height, box.width, zero)


def scale_box(box: Box, drawn_size: int, size: int) -> Box:
    """Return the box, drawn for an output of `drawn_size`, in an output of `size`.

    Raises:
        ValueError: It reaches out of the output that it was drawn for.
    """
    top, left, bottom, right = box.top, box.left, box.top + box.height, box.left + box.width
    if not (0 <= top <= bottom <= drawn_size and 0 <= left <= right <= drawn_size):
        raise ValueError(
            f"box {tuple(box)} (top, left, height, width) reaches out of the output of "
            f"{drawn_size} x {drawn_size} pixels that it was drawn for; check augment.size"
        )
    if size == drawn_size:
        return box
    top, left, bottom, right = (
        round(edge * size / drawn_size) for edge in (top, left, bottom, right)
    )
    return Box(top, left, bottom - top, right - left)


def _fixed(image: Tensor, config: AugmentConfig) -> Box:
    height, width = image.shape[-2:]
    if config.crop == "none":
        return Box(0, 0, height, width)
    side = config.size
    if min(height, width) < side:
        raise ValueError(
            f"image of {height} x {width} pixels is smaller than the center crop of {side}; set "
            "augment.resize"
        )
    return Box(round((height - side) / 2), round((width - side) / 2), side, side)


def _check_crop(box: Box, image: Tensor, *, padding: int) -> None:
    height, width = image.shape[-2:]
    inside = (
        -padding <= box.top
        and -padding <= box.left
        and box.top + box.height <= height + padding
        and box.left + box.width <= width + padding
    )
    if not inside or box.height < 1 or box.width < 1:
        raise ValueError(
            f"crop box {tuple(box)} (top, left, height, width) does not fit into the image of "
            f"{height} x {width} pixels (height x width): it was drawn for another image, or this "
            "one was resized or decoded differently since"
        )
