"""Boxes belong to the image that they were drawn for."""

from typing import Any

import pytest
from published_shards import AUGMENT, make_sample

from mobileclip.crop_boxes import check_boxes, rescale_boxes
from tenfold.augment.config import AugmentConfig


def test_drawn_boxes_fit() -> None:
    for number in range(5):
        made = make_sample(number)
        check_boxes(made.views, AUGMENT, made.size)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0, 0, 21, 30], "reaches out of the image of 20 x 30"),
        ([0, 1, 20, 30], "reaches out"),
        ([-1, 0, 5, 5], "reaches out"),
        ([5, 5, 0, 5], "reaches out"),
        ([0, 0, 5], "not a box of four numbers"),
        (None, "not a box"),
        ("abcd", "not a box|reaches out"),
    ],
)
def test_boxes_that_do_not_fit(box: Any, message: str) -> None:
    check_boxes([[[0, 0, 20, 30], None]], AUGMENT, (20, 30))
    with pytest.raises(ValueError, match=message):
        check_boxes([[[0, 0, 20, 30], None], [box, None]], AUGMENT, (20, 30))


def test_lists_of_another_pipeline() -> None:
    with pytest.raises(ValueError, match="view 0 has 1 entries, this pipeline's are crop, rand_a"):
        check_boxes([[[0, 0, 1, 1]]], AUGMENT, (20, 30))
    plain = AugmentConfig(crop="center", flip=0.0)
    check_boxes([[], []], plain, (20, 30))  # no box to check


def test_boxes_of_a_resized_image() -> None:
    views = [[[10, 20, 30, 40], [[0, 0.0]]], [[0, 0, 1, 1], None]]
    scaled = rescale_boxes(views, AUGMENT, (100, 200), (50, 100))
    assert scaled == [[[5, 10, 15, 20], [[0, 0.0]]], [[0, 0, 1, 1], None]]
    whole = rescale_boxes([[[0, 0, 333, 500], None]], AUGMENT, (333, 500), (170, 256))
    check_boxes(whole, AUGMENT, (170, 256))
    assert whole[0][0] == [0, 0, 170, 256]
    with pytest.raises(ValueError, match="another shape"):
        rescale_boxes(views, AUGMENT, (100, 200), (100, 100))
