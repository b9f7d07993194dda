import pytest
import torch

from biofame.mae import channel_errors
from biofame.masked_error import MaskedError, error_sums, relative_error


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_error_does_not_depend_on_batches(size: int) -> None:
    predicted, target = noise(14, 3, 5, 4), noise(14, 3, 5, 4, seed=1) + 5
    metric = MaskedError(3)
    for first in range(0, 14, size):
        metric.update(predicted[first : first + size], target[first : first + size])
    square = (predicted - target).square().mean(dim=(0, 2, 3))
    expected = square / target.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(metric.compute(), expected)


def test_flat_and_absent_channels_have_none() -> None:
    target = noise(4, 3, 5, 4)
    target[:, 1] = 3e4
    present = torch.tensor([[True, True, False]] * 4)
    error = relative_error(error_sums(noise(4, 3, 5, 4, seed=1), target, present))
    assert error.isnan().tolist() == [False, True, True]


def test_errors_by_name() -> None:
    errors = channel_errors(("eeg", "eog"), torch.tensor([0.5, 0.25]))
    assert {name: error.item() for name, error in errors.items()} == {"eeg": 0.5, "eog": 0.25}
    with pytest.raises(ValueError, match="zip"):
        channel_errors(("eeg",), torch.tensor([0.5, 0.25]))
