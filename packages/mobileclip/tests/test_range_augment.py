"""RangeAugment: targets, ranges, gradients, and that strength follows the target."""

import math

import pytest
import torch
from torch import Tensor

from mobileclip.config import RangeAugmentConfig
from mobileclip.range_augment import RangeAugment, UniformRange, squared_error


def images(number: int = 16) -> Tensor:
    return torch.rand(number, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def psnr(error: float) -> float:
    return -10 * math.log10(error)


def test_the_target_falls_from_start_to_end_along_a_cosine_of_the_error() -> None:
    augment = RangeAugment(RangeAugmentConfig(start_psnr=40, end_psnr=20))
    assert psnr(augment.target_error(0)) == pytest.approx(40)
    assert psnr(augment.target_error(1)) == psnr(augment.target_error(1.5)) == pytest.approx(20)
    assert augment.target_error(0.5) == pytest.approx((1e-4 + 1e-2) / 2)
    quarter = 1e-2 - (1e-2 - 1e-4) * (1 + math.cos(math.pi / 4)) / 2
    assert augment.target_error(0.25) == pytest.approx(quarter)


def test_the_term_is_a_smooth_distance_of_errors_in_grey_levels() -> None:
    augment = RangeAugment(RangeAugmentConfig(start_psnr=40, end_psnr=20, weight=100))
    error = torch.tensor([0.03, 0.0, 1e-2 + 0.5 / 65025])
    far = [abs(value - 0.01) * 65025 - 0.5 for value in (0.03, 0.0)]
    expected = 100 / 65025 * (sum(far) + 0.5 * 0.5**2) / 3
    assert augment.likeness_loss(error, progress=1).item() == pytest.approx(expected, rel=1e-4)


def test_ranges_start_where_asked_and_stay_within_bounds() -> None:
    augment = RangeAugment(RangeAugmentConfig())
    assert [end.item() for end in augment.brightness.ends()] == pytest.approx([0.5, 1.5])
    assert [end.item() for end in augment.contrast.ends()] == pytest.approx([0.5, 1.5])
    assert augment.noise.ends()[1].item() == pytest.approx(0.1)
    with torch.no_grad():
        augment.brightness.raw_ends.copy_(torch.tensor([100.0, -100.0]))
    assert [end.item() for end in augment.brightness.ends()] == pytest.approx([0.9, 1.1])
    magnitudes = UniformRange(0.2, 2.0, low_bounds=(0.1, 0.9), high_bounds=(1.1, 10)).draw(5000)
    assert magnitudes.shape == (5000, 1, 1, 1)
    assert magnitudes.min() >= 0.2 - 1e-6
    assert magnitudes.max() <= 2.0 + 1e-6
    assert magnitudes.mean().item() == pytest.approx(1.1, abs=0.03)


def test_each_operation_changes_a_random_half() -> None:
    augment = RangeAugment(RangeAugmentConfig())
    given = 0.25 + images(64) / 2
    torch.manual_seed(0)
    changed = squared_error(augment(given), given) > 0
    assert 64 * 0.6 < changed.sum() < 64  # 1 - 1/2^3 of them on average
    single = augment(given[:1])
    assert not torch.equal(single, given[:1])
    assert augment(images()).min() >= 0
    assert augment(images()).max() <= 1


def test_operations_are_those_of_their_names() -> None:
    augment = RangeAugment(RangeAugmentConfig())
    given = images()
    ratio = augment._brighten(given) / given
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))
    contrasted = augment._contrast(given)
    torch.testing.assert_close(contrasted.mean((2, 3)), given.mean((2, 3)))
    spread = contrasted.std((2, 3)) / given.std((2, 3))
    torch.testing.assert_close(spread, spread[:, :1].expand_as(spread))
    noise = augment._add_noise(torch.zeros(200, 3, 8, 8))
    assert noise.mean().abs() < 0.003
    assert noise.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.2)


def test_the_strength_follows_its_target() -> None:
    torch.manual_seed(0)
    augment, given = RangeAugment(RangeAugmentConfig()), images()
    optimizer = torch.optim.Adam(augment.parameters(), lr=0.1)

    def mean_error() -> float:
        with torch.no_grad():
            return float(
                torch.stack([squared_error(augment(given), given) for _ in range(50)]).mean()
            )

    first = mean_error()
    for _ in range(150):
        loss = augment.likeness_loss(squared_error(augment(given), given), progress=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in augment.parameters())
    assert mean_error() < first / 2


@pytest.mark.parametrize("name", ["start_psnr", "end_psnr", "weight"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_bad_configuration_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"range_augment.{name} must be > 0, got {value}"):
        RangeAugmentConfig(**{name: value})
