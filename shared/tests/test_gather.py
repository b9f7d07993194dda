import pytest
import torch
from torch import Tensor

from tenfold.gather import gather_rows, rank_and_size
from tenfold.testing import run_ranks

ROWS, WIDTH = 3, 2


def rows_of(rank: int) -> Tensor:
    return torch.arange(ROWS * WIDTH, dtype=torch.float64).reshape(ROWS, WIDTH) + 100 * rank


def message_of(call, *args, **kwargs) -> str:
    try:
        call(*args, **kwargs)
    except ValueError as error:
        return str(error)
    return "no error"


def gather_in_all_ways(rank: int, world_size: int) -> dict[str, object]:
    own = rows_of(rank).requires_grad_()
    gathered = gather_rows(own)
    # Every rank weights every row differently, so that a lost, doubled or averaged contribution,
    # or one of the wrong rank, shows in the gradient.
    weights = torch.arange(gathered.numel(), dtype=torch.float64).reshape(gathered.shape)
    ((rank + 1) * weights * gathered).sum().backward()
    constant = gather_rows(rows_of(rank).requires_grad_(), with_gradient=False)
    transposed = torch.arange(6.0).reshape(2, 3).T + rank
    return {
        "rank": rank_and_size(),
        "values": gathered.tolist(),
        "gradient": own.grad.tolist(),
        "constant": (constant.requires_grad, constant.tolist()),
        "not contiguous": gather_rows(transposed).tolist(),
        "half": gather_rows(rows_of(rank).half(), with_gradient=False).dtype,
        "unequal rows": message_of(gather_rows, torch.zeros(2 + rank, 4)),
        "unequal width": message_of(gather_rows, torch.zeros(2, 4 - rank), with_gradient=False),
        "after the errors": gather_rows(rows_of(rank)).tolist(),
    }


def test_two_ranks_gather_rows_and_sum_their_gradients():
    answers = run_ranks(gather_in_all_ways, 2)

    everything = torch.cat([rows_of(0), rows_of(1)])
    weights = torch.arange(everything.numel(), dtype=torch.float64).reshape(everything.shape)
    for rank, answer in enumerate(answers):
        assert answer["rank"] == (rank, 2)
        assert answer["values"] == everything.tolist()
        assert answer["after the errors"] == everything.tolist()
        own = slice(rank * ROWS, (rank + 1) * ROWS)
        assert answer["gradient"] == ((1 + 2) * weights[own]).tolist()
        assert answer["constant"] == (False, everything.tolist())
        expected = torch.arange(6.0).reshape(2, 3).T
        assert answer["not contiguous"] == torch.cat([expected, expected + 1]).tolist()
        assert answer["half"] == torch.float16
        assert "rank 0: [2, 4], rank 1: [3, 4]; give every rank" in answer["unequal rows"]
        assert "rank 0: [2, 4], rank 1: [2, 3]; give every rank" in answer["unequal width"]


def test_without_a_process_group_the_rows_come_back():
    rows = rows_of(0).requires_grad_()
    assert rank_and_size() == (0, 1)
    assert gather_rows(rows) is rows
    assert not gather_rows(rows, with_gradient=False).requires_grad


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), ()])
def test_other_than_rows_are_refused(shape):
    with pytest.raises(ValueError, match=r"needs rows \[N, D\], got shape"):
        gather_rows(torch.zeros(shape))
