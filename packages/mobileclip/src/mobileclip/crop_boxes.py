"""Do stored crop boxes lie inside the image, and what are they after it was resized? Torch-free.

A box is in pixels of the image that the view was drawn for. On an image of another size it would
cut out something that the teachers never saw; the official reader does not notice.
"""

from collections.abc import Sequence
from typing import Any

from tenfold.augment import positional
from tenfold.augment.config import AugmentConfig


def check_boxes(
    views: Sequence[Sequence[Any]], config: AugmentConfig, image: tuple[int, int]
) -> None:
    """Check the boxes of random resized crops; other pipelines are checked when they are replayed.

    Args:
        views: Parameters in the official list form.
        config: The pipeline that they were drawn from.
        image: Height and width, pixels.

    Raises:
        ValueError: A list is another pipeline's, or a box reaches out of the image.
    """
    place = _place(views, config)
    if place is None:
        return
    height, width = image
    for number, view in enumerate(views):
        box = view[place]
        try:
            top, left, rows, columns = box
            inside = 0 <= top <= top + rows <= height and 0 <= left <= left + columns <= width
            inside = inside and rows >= 1 and columns >= 1
        except (TypeError, ValueError) as error:
            raise ValueError(f"view {number} has {box}, not a box of four numbers") from error
        if not inside:
            raise ValueError(
                f"box {list(box)} (top, left, height, width) of view {number} reaches out of the "
                f"image of {height} x {width} pixels"
            )


def rescale_boxes(
    views: Sequence[Sequence[Any]],
    config: AugmentConfig,
    drawn_for: tuple[int, int],
    image: tuple[int, int],
) -> list[list[Any]]:
    """Return views whose boxes fit an image that was only resized since they were drawn.

    Args:
        views: Parameters in the official list form.
        config: The pipeline that they were drawn from.
        drawn_for: Height and width of the image then.
        image: Height and width now.

    Raises:
        ValueError: The image has another shape, by more than rounding.
    """
    place = _place(views, config)
    height_factor, width_factor = (now / then for now, then in zip(image, drawn_for, strict=True))
    # Resizing rounds each side to whole pixels.
    slack = max(1 / side for side in (*image, *drawn_for))
    if place is None or abs(height_factor / width_factor - 1) > slack:
        raise ValueError(
            f"views were drawn for {drawn_for[0]} x {drawn_for[1]} pixels, the image of {image[0]} "
            f"x {image[1]} has another shape"
        )
    return [
        [*view[:place], _scaled(view[place], height_factor, width_factor), *view[place + 1 :]]
        for view in views
    ]


def _scaled(box: Sequence[int], height_factor: float, width_factor: float) -> list[int]:
    top, left, rows, columns = box
    first, last = round(top * height_factor), round((top + rows) * height_factor)
    begin, end = round(left * width_factor), round((left + columns) * width_factor)
    return [first, begin, max(last - first, 1), max(end - begin, 1)]


def _place(views: Sequence[Sequence[Any]], config: AugmentConfig) -> int | None:
    """Return where the box stands in a list; None for pipelines without a box of their own."""
    names = positional.entries(config)
    for number, view in enumerate(views):
        if len(view) != len(names):
            raise ValueError(
                f"view {number} has {len(view)} entries, this pipeline's are {', '.join(names)}"
            )
    return names.index("crop") if config.crop == "random_resized" else None
