"""Sizes and numbers of images of a step: CVNets' sizes, constant pixels, whole batches."""

from itertools import pairwise

import numpy as np
import pytest

from dataset_reinforcement.config import ResolutionConfig
from dataset_reinforcement.resolution import (
    FixedPlan,
    VariablePlan,
    image_sizes,
    images_per_step,
)


def test_sizes_are_those_of_cvnets() -> None:
    assert image_sizes(ResolutionConfig(low=128, high=320)) == (128, 192, 224, 288, 320)
    assert image_sizes(ResolutionConfig(low=160, high=448)) == (160, 224, 320, 384, 448)
    assert image_sizes(ResolutionConfig(low=224, high=224)) == (224,)


@pytest.mark.parametrize("divisor", [1, 8])
def test_pixels_of_a_step_hardly_change(divisor: int) -> None:
    for size in image_sizes(ResolutionConfig()):
        count = images_per_step(size, base=224, batch_size=1024, divisor=divisor)
        assert count % divisor == 0
        assert 1024 * 224**2 - divisor * size**2 < count * size**2 <= 1024 * 224**2
    assert images_per_step(224, base=224, batch_size=1024, divisor=divisor) == 1024
    assert images_per_step(10_000, base=224, batch_size=16, divisor=4) == 4


def test_a_fixed_plan_has_no_end_and_no_gap() -> None:
    plan = FixedPlan(6, 32, divisor=3)
    assert plan.shape(0) == (0, 6, 32)
    assert plan.shape(10**9) == (6 * 10**9, 6, 32)


def variable(**changes: int) -> VariablePlan:
    options = {"base": 32, "batch_size": 24, "total_steps": 50, "seed": 3, "divisor": 2} | changes
    return VariablePlan(ResolutionConfig(low=16, high=48, multiple=8), **options)


def test_steps_follow_each_other_and_sizes_come_equally_often() -> None:
    plan = variable()
    shapes = [plan.shape(step) for step in range(50)]
    for shape, following in pairwise(shapes):
        assert shape.first + shape.num_images == following.first
    for shape in shapes:
        expected = images_per_step(shape.size, base=32, batch_size=24, divisor=2)
        assert shape.num_images == expected
    sizes, counts = np.unique([shape.size for shape in shapes], return_counts=True)
    assert sizes.tolist() == [16, 24, 32, 40, 48]
    assert counts.tolist() == [10] * 5


def test_the_largest_size_comes_first_and_the_seed_orders_the_rest() -> None:
    one, same, other = variable(), variable(), variable(seed=4)
    sizes = [[plan.shape(step).size for step in range(50)] for plan in (one, same, other)]
    assert sizes[0][0] == 48
    assert sizes[0] == sizes[1] != sizes[2]


def test_ranks_change_neither_order_nor_sizes_where_batches_split_alike() -> None:
    few, many = variable(divisor=1, batch_size=1152), variable(divisor=2, batch_size=1152)
    assert [few.shape(n).size for n in range(50)] == [many.shape(n).size for n in range(50)]


def test_bad_batches_and_runs() -> None:
    with pytest.raises(ValueError, match=r"multiple of ranks x micro-batches = 4, got 6"):
        FixedPlan(6, 32, divisor=4)
    with pytest.raises(ValueError, match=r"multiple of ranks x micro-batches = 2, got 25"):
        variable(batch_size=25)
    with pytest.raises(ValueError, match="5 image sizes need as many steps, the run has 4"):
        variable(total_steps=4)
    with pytest.raises(IndexError, match="step 50 is outside"):
        variable().shape(50)
