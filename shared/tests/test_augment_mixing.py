"""MixUp and CutMix by stored parameters, against the arithmetic written out."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.mixing import draw_mix, mix, to_float
from tenfold.augment.params import Box

SIDE = 12


def view(key: int, side: int = SIDE) -> Tensor:
    rng = keyed.generator("view", key, side)
    return torch.from_numpy(rng.integers(0, 256, (3, side, side), dtype="uint8"))


def test_to_float_divides_each_value():
    levels = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert torch.equal(to_float(levels), torch.from_numpy(expected))
    assert to_float(levels)[255] == 1


def naive_mix(owner: Tensor, partner: Tensor, mixup: float | None, box: Box | None) -> Tensor:
    mixed = torch.empty(owner.shape)
    for c, y, x in np.ndindex(*owner.shape):
        a, b = np.float32(owner[c, y, x] / 255), np.float32(partner[c, y, x] / 255)
        value = a if mixup is None else np.float32(mixup) * a + np.float32(1 - mixup) * b
        if box is not None:
            inside = 0 <= y - box.top < box.height and 0 <= x - box.left < box.width
            value = b if inside else value
        mixed[c, y, x] = float(value)
    return mixed


@pytest.mark.parametrize("mixup", [None, 0.0, 0.25, float(np.float32(0.7)), 1.0])
@pytest.mark.parametrize("box", [None, Box(0, 0, 12, 12), Box(3, 5, 4, 7), Box(2, 2, 0, 3)])
def test_mixing_is_the_written_out_arithmetic(mixup: float | None, box: Box | None):
    owner, partner = view(0), view(1)
    before = owner.clone(), partner.clone()
    found = mix(owner, partner, mixup=mixup, cutmix=box, drawn_size=SIDE)
    assert found.dtype == torch.float32
    assert torch.equal(found, naive_mix(owner, partner, mixup, box))
    assert torch.equal(owner, before[0])
    assert torch.equal(partner, before[1])


def test_mixing_stays_in_its_range_and_repeats_to_the_bit():
    config = AugmentConfig(size=224, mixup=0.7, cutmix=0.7)
    threads = torch.get_num_threads()
    for key in range(15):
        mixup, box = draw_mix(keyed.generator("mix", key), config)
        pair = view(2 * key, 224), view(2 * key + 1, 224)
        first = mix(*pair, mixup=mixup, cutmix=box, drawn_size=224)
        torch.set_num_threads(3)
        again = mix(*pair, mixup=mixup, cutmix=box, drawn_size=224)
        torch.set_num_threads(threads)
        assert torch.equal(first, again)
        assert 0 <= first.min() <= first.max() <= 1


def test_an_image_mixed_with_itself_by_cutmix_is_itself():
    found = mix(view(0), view(0), mixup=None, cutmix=Box(1, 2, 3, 4), drawn_size=SIDE)
    assert torch.equal(found, to_float(view(0)))


@pytest.mark.parametrize(("drawn", "box"), [(24, Box(6, 10, 8, 14)), (6, Box(1, 2, 2, 3))])
def test_a_box_is_scaled_to_the_output(drawn: int, box: Box):
    scaled = Box(*(edge * SIDE // drawn for edge in box))
    found = mix(view(0), view(1), mixup=None, cutmix=box, drawn_size=drawn)
    assert torch.equal(found, naive_mix(view(0), view(1), None, scaled))


@pytest.mark.parametrize(
    ("owner", "partner", "options", "message"),
    [
        (view(0), view(1, 8), {}, r"shapes \[3, 12, 12\] and \[3, 8, 8\]"),
        (view(0)[:, :6], view(1)[:, :6], {}, r"two square views of one size .* \[3, 6, 12\]"),
        (view(0), view(1), {"mixup": 1.5}, r"weight of the owner image must lie in 0\.\.1, got"),
        (view(0), view(1), {"mixup": float("nan")}, "got nan"),
        (view(0), view(1), {"cutmix": Box(5, 0, 8, 2)}, r"box \(5, 0, 8, 2\) .* 12 x 12"),
        (view(0) / 255, view(1), {}, "must be uint8, got torch.float32"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    owner: Tensor, partner: Tensor, options: dict[str, object], message: str
):
    arguments = {"mixup": None, "cutmix": None, "drawn_size": SIDE, **options}
    with pytest.raises(ValueError, match=message):
        mix(owner, partner, **arguments)
