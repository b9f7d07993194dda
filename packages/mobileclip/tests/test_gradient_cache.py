"""Gradient caching against a plain backward pass of the whole batch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileclip.gradient_cache import encode_in_micro_batches
from mobileclip.reinforced_loss import reinforced_loss

PAIRS, SIZE = 8, 3


class Towers(nn.Module):
    """A convolutional and a linear encoder, optionally with batch norm and dropout."""

    def __init__(self, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(
            nn.Conv2d(3, 5, 3),
            nn.BatchNorm2d(5) if norm else nn.Identity(),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(5 * 16, 4),
        )
        self.text = nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(18, 4))
        self.double()

    def encode_image(self, image: Tensor) -> tuple[Tensor, ...]:
        return (F.normalize(self.image(image), dim=-1),)

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return (F.normalize(self.text(tokens), dim=-1),)

    def forward(self, image: Tensor, tokens: Tensor, size: int) -> Tensor:
        options = {"size": size, "network": self}
        (image_ND,) = encode_in_micro_batches(self.encode_image, image, **options)
        (text_ND,) = encode_in_micro_batches(self.encode_text, tokens, **options)
        return loss_of(image_ND, text_ND)


def loss_of(image_ND: Tensor, text_ND: Tensor) -> Tensor:
    return reinforced_loss(image_ND, text_ND, None, logit_scale=9.0, distill_weight=0.0).total


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(PAIRS, 3, 6, 6, generator=generator, dtype=torch.float64)
    return image, torch.randint(11, (PAIRS, 3), generator=generator)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert max(gradient.abs().max() for gradient in other.values()) > 1e-2
    for name, expected in other.items():
        torch.testing.assert_close(one[name], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, SIZE, 7])
def test_gradient_is_that_of_the_whole_batch(size: int) -> None:
    model = Towers()
    plain, cached = model(*batch(), 0), model(*batch(), size)
    assert cached.item() == pytest.approx(plain.item(), abs=1e-12)
    assert_close(gradients(model, cached), gradients(model, plain))
    accumulated = torch.stack(
        [model(i, t, 0) for i, t in zip(*(x.split(SIZE) for x in batch()), strict=True)]
    )
    assert accumulated.mean().item() != pytest.approx(plain.item(), abs=1e-2)


def test_batch_norm_normalises_micro_batches_and_counts_each_once() -> None:
    model, expected = Towers(norm=True), Towers(norm=True)
    image, tokens = batch()
    image_ND = torch.cat([expected.encode_image(part)[0] for part in image.split(SIZE)])
    plain = loss_of(image_ND, expected.encode_text(tokens)[0])
    assert_close(gradients(model, model(image, tokens, SIZE)), gradients(expected, plain))
    assert model.image[1].num_batches_tracked == 3
    for name, buffer in expected.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
    assert model.image[1].track_running_stats
    assert not torch.allclose(model.image[1].running_mean, torch.zeros(5).double())


def test_batch_norm_in_evaluation_keeps_its_statistics() -> None:
    model = Towers(norm=True)
    model(*batch(), 0)
    model.eval()
    plain, cached = model(*batch(), 0), model(*batch(), SIZE)
    assert_close(gradients(model, cached), gradients(model, plain))


def test_random_numbers_are_those_of_the_forward_pass() -> None:
    """Dropout falls anew if the backward pass draws again: its gradient would not fit."""
    model, expected = Towers(dropout=0.5), Towers(dropout=0.5)
    image, tokens = batch()
    torch.manual_seed(3)
    parts = [expected.encode_image(part)[0] for part in image.split(SIZE)]
    plain = loss_of(torch.cat(parts), expected.encode_text(tokens)[0])
    torch.manual_seed(3)
    cached = model(image, tokens, SIZE)
    after = torch.get_rng_state()
    assert_close(gradients(model, cached), gradients(expected, plain))
    assert torch.equal(torch.get_rng_state(), after)


def saved_shapes(run: Callable[[], Tensor]) -> set[torch.Size]:
    """Return the shapes of what autograd keeps between forward and backward."""
    kept: set[torch.Size] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return kept


def test_activations_are_not_kept() -> None:
    model = Towers(norm=True)
    plain, cached = (saved_shapes(lambda n=n: model(*batch(), n)) for n in (0, SIZE))
    assert {(PAIRS, 5, 4, 4), (PAIRS, 4)} <= plain
    assert (PAIRS, 4) in cached  # embeddings
    assert not any(shape[1:] == (5, 4, 4) for shape in cached)
