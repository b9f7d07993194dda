"""Views: what is drawn depends on its key alone, and what does not fit is named."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset_reinforcement.variants import variant
from dataset_reinforcement.views import draw_reinforcement, make_view
from tenfold.augment.pipeline import Augment


def test_partners_of_the_whole_set_are_spread_and_depend_on_the_view_alone():
    augment = Augment(variant("mixing", size=8))
    sizes = np.full((1000, 2), 20)
    draws = [draw_reinforcement(augment, 0, 7, view, sizes)[1] for view in range(2000)]
    partners = np.array([mix.partner for mix in draws if mix is not None])
    assert 1420 < len(partners) < 1580  # 3 of 4 views are mixed
    assert abs(partners.mean() - 499.5) < 30
    assert len(np.unique(partners)) > 700
    assert draw_reinforcement(augment, 0, 7, 3, sizes)[1] == draws[3]


def test_a_view_names_the_image_or_partner_that_does_not_fit():
    augment = Augment(variant("mixing", size=8))
    sizes = np.full((9, 2), 30)
    own, mix = next(
        drawn
        for drawn in (draw_reinforcement(augment, 0, 1, view, sizes) for view in range(99))
        if drawn[1] is not None and drawn[1].partner != 1 and drawn[1].view.crop.height > 9
    )
    pixels = {1: torch.zeros(3, 30, 30, dtype=torch.uint8)}

    def load(index: int) -> Tensor:
        if index not in pixels:
            raise FileNotFoundError(f"no file of image {index}")
        return pixels[index]

    with pytest.raises(ValueError, match=rf"image 1 needs image {mix.partner} as its partner"):
        make_view(augment, load, own, mix, 1)
    pixels[mix.partner] = torch.zeros(3, 9, 30, dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"^image {mix.partner}: .*crop"):
        make_view(augment, load, own, mix, 1)


def test_a_view_is_that_of_its_seed_image_and_number():
    augment = Augment(variant("randaug_mixing", size=8))
    sizes = np.full((9, 2), 30)
    draws = [
        draw_reinforcement(augment, seed, index, view, sizes)
        for seed in range(2)
        for index in range(2)
        for view in range(2)
    ]
    assert len({str(drawn) for drawn in draws}) == 8
    assert draw_reinforcement(augment, 1, 0, 1, sizes) == draws[5]


def test_a_view_at_another_size_shows_the_same_region():
    augment = Augment(variant("rrc", size=8))
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[:, :20] = 255
    sizes = np.full((1, 2), 40)
    for view in range(20):
        own, mix = draw_reinforcement(augment, 0, 0, view, sizes)
        small = make_view(augment, lambda _: image, own, mix, 0)
        large = make_view(augment, lambda _: image, own, mix, 0, size=32)
        assert (small.shape, large.shape) == ((3, 8, 8), (3, 32, 32))
        assert abs(small.float().mean() - large.float().mean()) < 8


def test_an_unusable_image_has_no_views():
    sizes = np.array([[30, 30], [0, 0]])
    with pytest.raises(ValueError, match=r"image 1 cannot be decoded, so it has no views"):
        draw_reinforcement(Augment(variant("rrc", size=8)), 0, 1, 0, sizes)
