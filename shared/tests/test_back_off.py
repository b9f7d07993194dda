"""A network that runs out of memory: fewer items at once, the same rows."""

import pytest
import torch
from torch import Tensor

from tenfold.back_off import BackOff


class Hungry:
    """Runs out of memory above some batch, as a full GPU does; rows are twice the items."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sizes: list[int] = []

    def __call__(self, items: Tensor | list[int]) -> Tensor:
        self.sizes.append(len(items))
        if len(items) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return torch.as_tensor(items) * 2


def test_a_full_memory_halves_the_batch_and_changes_no_result(caplog: pytest.LogCaptureFixture):
    hungry = Hungry(limit=3)
    back_off = BackOff(hungry, batch=16, name="the teacher")
    items = torch.arange(48).view(16, 3)
    assert torch.equal(back_off(items), items * 2)
    assert hungry.sizes == [16, 8, 4, *[2] * 8]
    assert torch.equal(back_off(items[:5]), items[:5] * 2)
    assert hungry.sizes[-3:] == [2, 2, 2]
    assert "the teacher ran out of memory; going on with 2 at once" in caplog.text


def test_lists_are_padded_with_their_first_item_too():
    hungry = Hungry(limit=4)
    back_off = BackOff(hungry, batch=4, name="the teacher")
    assert back_off([1, 2, 3, 4, 5]).tolist() == [2, 4, 6, 8, 10]
    assert hungry.sizes == [4, 4]


def test_an_item_that_does_not_fit_alone_is_an_error():
    back_off = BackOff(Hungry(limit=0), batch=4, name="the teacher")
    with pytest.raises(torch.OutOfMemoryError):
        back_off(torch.arange(4))


def test_a_batch_holds_at_least_one():
    with pytest.raises(ValueError, match="batch must be >= 1, got 0"):
        BackOff(Hungry(1), batch=0, name="the teacher")
