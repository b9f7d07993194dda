"""Chunked against plain scores, masks of targets, and denominators."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dataset_decomposition.losses import (
    chunked_scores,
    document_nll,
    document_sums,
    mean_loss,
    token_loss,
    token_scores,
    valid_targets,
)


def draw(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Draw states `[3, 7, 5]`, a projection to 11 tokens, and targets `[3, 7]`."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 5, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 5, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(11, (3, 7), generator=generator)


VALID = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.6


@pytest.mark.parametrize("chunk_tokens", [1, 4, 7, 20, 21, 1000])
@pytest.mark.parametrize("valid", [None, VALID])
def test_chunked_scores_equal_plain_ones_in_value_and_gradient(
    chunk_tokens: int, valid: Tensor | None
) -> None:
    losses, gradients = [], []
    for chunked in (False, True):
        hidden, weight, targets = draw()
        if chunked:
            scores = chunked_scores(hidden, weight, targets, chunk_tokens=chunk_tokens)
        else:
            scores = token_scores(hidden @ weight.T, targets)
        nll, z = mean_loss(scores, valid)
        loss = nll + 0.3 * z
        gradients.append(torch.autograd.grad(loss, (hidden, weight)))
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-13, atol=0)
    for ours, plain in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-15)


def test_gradients_of_the_chunked_loss_are_its_slopes() -> None:
    hidden, weight, targets = draw()

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        nll, z = mean_loss(chunked_scores(hidden, weight, targets, chunk_tokens=4), VALID)
        return nll + 0.3 * z

    assert torch.autograd.gradcheck(loss, (hidden, weight))


class LargestTensor(TorchDispatchMode):
    """Note the size of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


def test_no_more_logits_than_a_chunk_exist_forward_and_backward() -> None:
    sizes = {}
    for chunk_tokens in (0, 4):
        hidden, weight, targets = draw()
        with LargestTensor() as largest:
            if chunk_tokens:
                scores = chunked_scores(hidden, weight, targets, chunk_tokens=chunk_tokens)
            else:
                scores = token_scores(hidden @ weight.T, targets)
            sum(mean_loss(scores)).backward()
        sizes[chunk_tokens] = largest.numel
    assert sizes == {0: 21 * 11, 4: 21 * 5}  # the states themselves are the largest that is left


def test_scores_are_wide_under_autocast_and_alike() -> None:
    hidden, weight, targets = draw(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain = token_scores(torch.nn.functional.linear(hidden, weight), targets)
        chunked = chunked_scores(hidden, weight, targets, chunk_tokens=4)
    assert plain.nll_BL.dtype == chunked.nll_BL.dtype == torch.float32
    torch.testing.assert_close(chunked.nll_BL, plain.nll_BL)
    chunked.nll_BL.sum().backward()


def test_only_targets_within_a_document_count() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, -1, -1, -1], [0, 1, 1, 2, -1, -1]])
    expected = [[1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert valid_targets(documents).int().tolist() == expected


def test_means_are_over_what_counts() -> None:
    hidden, weight, targets = draw()
    scores = token_scores(hidden @ weight.T, targets)
    nll, z = mean_loss(scores, VALID)
    assert nll.item() == pytest.approx(scores.nll_BL[VALID].mean().item(), rel=1e-12)
    square = scores.log_partition_BL.square()
    assert z.item() == pytest.approx(square[VALID].mean().item(), rel=1e-12)
    constant = mean_loss(scores, VALID, num_targets=10.0)
    assert constant.nll.item() == pytest.approx(scores.nll_BL[VALID].sum().item() / 10, rel=1e-12)
    assert mean_loss(scores, torch.zeros_like(VALID)).nll.item() == 0
    plain = token_loss(hidden @ weight.T, targets)
    assert plain.nll.item() == pytest.approx(scores.nll_BL.mean().item(), rel=1e-12)


def test_what_does_not_count_has_no_gradient() -> None:
    hidden, weight, targets = draw()
    nll, z = mean_loss(chunked_scores(hidden, weight, targets, chunk_tokens=4), VALID)
    (nll + z).backward()
    assert ((hidden.grad != 0).any(-1) == VALID).all()


def test_a_constant_denominator_makes_micro_batches_add_up() -> None:
    """Rows with unequal numbers of targets: the mean of means would weigh them wrongly."""
    hidden, weight, targets = draw()
    scores = token_scores(hidden @ weight.T, targets)
    whole = mean_loss(scores, VALID, num_targets=3 * 4.2)
    parts = [
        mean_loss(
            token_scores(hidden[n : n + 1] @ weight.T, targets[n : n + 1]),
            VALID[n : n + 1],
            num_targets=4.2,
        )
        for n in range(3)
    ]
    assert len({int(row.sum()) for row in VALID}) > 1
    torch.testing.assert_close(sum(part.nll for part in parts) / 3, whole.nll)
    torch.testing.assert_close(sum(part.z for part in parts) / 3, whole.z)


def test_documents_sums_equal_cross_entropy() -> None:
    hidden, weight, targets = draw()
    logits, lengths = hidden @ weight.T, torch.tensor([7, 3, 1])
    sums = document_sums(token_scores(logits, targets).nll_BL, lengths)
    for row, length in enumerate(lengths.tolist()):
        nll = torch.nn.functional.cross_entropy(
            logits[row, :length], targets[row, :length], reduction="sum"
        )
        torch.testing.assert_close(sums[row], nll)
    torch.testing.assert_close(document_nll(logits, targets, lengths), sums)
