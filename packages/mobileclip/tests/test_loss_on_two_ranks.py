"""Loss and gradient caching under DDP against one process on the global batch.

No open_clip, timm or lightning here: each rank would load them.
"""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobileclip.gradient_cache import encode_in_micro_batches
from mobileclip.reinforced_loss import TeacherEmbeddings, reinforced_loss
from tenfold.testing import run_ranks

PAIRS, WIDTH = 6, 4
TEACHER_WIDTHS, TEACHER_SCALES = (3, 5), (8.0, 3.0)


class Way(NamedTuple):
    """Options that must not change the result."""

    local_loss: bool
    column_chunk: int
    micro_batch: int


WAYS = [Way(True, 0, 0), Way(False, 0, 0), Way(True, 4, 2), Way(False, 4, 2), Way(True, 0, 1)]


class Towers(nn.Module):
    """Linear encoders and a scale, the same on every rank; the text encoder sees both captions."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = (
            nn.Linear(WIDTH, 3, bias=False, dtype=torch.float64) for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(5.0), dtype=torch.float64))
        with torch.no_grad():
            self.image.weight.copy_(unit_rows(30, 3))
            self.text.weight.copy_(unit_rows(31, 3))

    def forward(self, *rows: Tensor, size: int) -> tuple[Tensor, ...]:
        encoders = (self.image, self.text, self.text)
        embeddings = [
            encode_in_micro_batches(
                lambda part, encoder=encoder: (F.normalize(encoder(part), dim=-1),),
                inputs,
                size=size,
                network=self,
            )[0]
            for encoder, inputs in zip(encoders, rows, strict=True)
        ]
        return (*embeddings, self.log_scale.exp())


def unit_rows(seed: int, rows: int = PAIRS, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def learn(model: nn.Module, own: slice, way: Way) -> tuple[list[float], list[list[float]]]:
    """Return terms and gradients of one step on some of the pairs."""
    rows = [unit_rows(seed)[own] for seed in range(3)]
    *embeddings, scale = model(*rows, size=way.micro_batch)
    teachers = [
        TeacherEmbeddings(*(unit_rows(10 * k + width, width=width)[own] for k in (1, 2, 3)))
        for width in TEACHER_WIDTHS
    ]
    terms = reinforced_loss(
        *embeddings,
        teachers,
        logit_scale=scale,
        teacher_scales=TEACHER_SCALES,
        distill_weight=0.75,
        local_loss=way.local_loss,
        column_chunk=way.column_chunk,
    )
    terms.total.backward()
    return [term.item() for term in terms], [p.grad.flatten().tolist() for p in model.parameters()]


def learn_on_a_rank(rank: int, world_size: int) -> list[tuple[list[float], list[list[float]]]]:
    own = slice(rank * PAIRS // world_size, (rank + 1) * PAIRS // world_size)
    return [learn(DistributedDataParallel(Towers()), own, way) for way in WAYS]


def test_two_ranks_equal_one_process_on_the_global_batch() -> None:
    terms, gradients = learn(Towers(), slice(None), WAYS[0])
    assert all(max(map(abs, gradient)) > 1e-3 for gradient in gradients)
    one, other = run_ranks(learn_on_a_rank, 2)
    for way, answer, second in zip(WAYS, one, other, strict=True):
        assert (answer[0] == second[0]) == (not way.local_loss)
        means = [sum(pair) / 2 for pair in zip(answer[0], second[0], strict=True)]
        assert means == pytest.approx(terms, rel=1e-12)
        for own_gradients in (answer[1], second[1]):
            for gradient, expected in zip(own_gradients, gradients, strict=True):
                assert gradient == pytest.approx(expected, rel=1e-9, abs=1e-12)
