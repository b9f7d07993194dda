"""Instance normalisation: there and back, its statistics, flat channels."""

import torch
from torch import Tensor

from biofame.revin import EPS, RevIN, Statistics, measure, standardise

ROWS = torch.tensor([0, 1, 2])


def make_windows() -> Tensor:
    """Return windows whose channels have very different units."""
    samples = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(0))
    return (
        samples * torch.tensor([1e-2, 1.0, 40.0])[:, None] + torch.tensor([1.0, 0, -300])[:, None]
    )


def trained() -> RevIN:
    revin = RevIN(3)
    with torch.no_grad():
        revin.weight.copy_(torch.tensor([0.5, 1.5, -2.0]))
        revin.bias.copy_(torch.tensor([0.1, -0.2, 3.0]))
    return revin


def test_there_and_back() -> None:
    samples = make_windows()
    statistics = measure(samples)
    for revin in (RevIN(3), trained()):
        there = revin.normalise(samples, statistics, ROWS)
        back = revin.denormalise(there, statistics, ROWS)
        torch.testing.assert_close(back, samples, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(there, samples, atol=0.1)


def test_statistics_are_of_the_population_and_over_time() -> None:
    samples = make_windows()
    mean, std = measure(samples)
    assert mean.shape == std.shape == (4, 3, 1)
    torch.testing.assert_close(mean, samples.sum(-1, keepdim=True) / 50)
    variance = (samples - mean).square().sum(-1, keepdim=True) / 50
    torch.testing.assert_close(std, (variance + 1e-5).sqrt())


def test_normalised_channels_have_mean_0_and_deviation_1() -> None:
    samples = make_windows()[:, 1:]  # the first channel's deviation is not far above sqrt(eps)
    normal = standardise(samples, measure(samples))
    torch.testing.assert_close(normal.mean(-1), torch.zeros(4, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(normal.var(-1, correction=0), torch.ones(4, 2), rtol=1e-4, atol=0)


def test_scale_and_shift_are_the_channels_own() -> None:
    samples, revin = make_windows(), trained()
    statistics = measure(samples)
    rows = torch.tensor([2, -1, 0])
    normal = revin.normalise(samples, statistics, rows)
    plain = standardise(samples, statistics)
    torch.testing.assert_close(normal[:, 0], plain[:, 0] * -2 + 3)
    torch.testing.assert_close(normal[:, 1], plain[:, 1])
    torch.testing.assert_close(normal[:, 2], plain[:, 2] * 0.5 + 0.1)
    back = revin.denormalise(normal, statistics, rows)
    torch.testing.assert_close(back, samples, rtol=1e-5, atol=1e-4)


def test_statistics_carry_no_gradient() -> None:
    samples = make_windows().requires_grad_()
    statistics = measure(samples)
    assert not statistics.mean.requires_grad
    assert not statistics.std.requires_grad
    revin = trained()
    revin.normalise(samples, statistics, ROWS).sum().backward()
    # As if mean and deviation were constants; with gradient, a sum over time would have none.
    expected = (revin.weight.detach()[:, None] / statistics.std).expand_as(samples)
    torch.testing.assert_close(samples.grad, expected)
    assert revin.bias.grad.tolist() == [200.0] * 3


def test_flat_channels_become_their_shift() -> None:
    samples = torch.full((2, 3, 50), 7.0)
    statistics = measure(samples)
    torch.testing.assert_close(statistics.std, torch.full((2, 3, 1), EPS**0.5))
    revin = trained()
    there = revin.normalise(samples, statistics, ROWS)
    assert torch.equal(there, revin.bias.detach()[:, None].expand(2, -1, 50))
    torch.testing.assert_close(revin.denormalise(there, statistics, ROWS), samples)


def test_weight_of_zero_does_not_divide() -> None:
    revin = RevIN(1)
    with torch.no_grad():
        revin.weight.zero_()
    statistics = Statistics(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    back = revin.denormalise(torch.ones(1, 1, 4), statistics, torch.tensor([0]))
    assert back.isfinite().all()


def test_statistics_of_one_window_do_not_depend_on_others() -> None:
    samples = make_windows()
    alone = measure(samples[[2]])
    together = measure(samples)
    assert torch.equal(alone.mean, together.mean[[2]])
    assert torch.equal(alone.std, together.std[[2]])
