"""A step that does not fit: which bucket and micro-batch, and advice that keeps steps divisible."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.module import DecompositionModule
from dataset_decomposition.out_of_memory import StepSize
from tenfold.bare_trainer import bare_trainer
from tenfold.bucketing import Bucket


class Full(nn.Module):
    """A decoder for which the device has no room, going forward or backward."""

    def __init__(self, *, forward: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.fails_forward = forward

    def forward(self, inputs: Tensor, mask: object) -> Tensor:
        logits = self.weight.expand(*inputs.shape, 257)
        if self.fails_forward:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return _FailBackward.apply(logits)


class _FailBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("forward", [True, False])
def test_out_of_memory_names_bucket_micro_batch_and_remedy(forward: bool) -> None:
    module = DecompositionModule(ModelConfig(vocab_size=257, dim=8, layers=1, heads=1))
    plan = SimpleNamespace(buckets=[Bucket("D_3", 8, 10), Bucket("D_6", 64, 10)])
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        accumulate_grad_batches=2, datamodule=SimpleNamespace(plan=plan)
    )
    module.log = lambda *_, **__: None  # type: ignore[assignment]
    module.decoder = Full(forward=forward)  # type: ignore[assignment]
    batch = {"tokens": torch.zeros(48, 9, dtype=torch.long), "keys": []}
    message = (
        r"out of memory in bucket D_3, micro-batch of 48 rows of 8 tokens, "
        r"trainer\.accumulate_grad_batches 2: set trainer\.accumulate_grad_batches to 4, or "
        r"set loss\.chunk_tokens"
    )

    # 48 rows of 8 are 6 rows of the longest bucket, 64: halves are 3 rows, still whole.
    with pytest.raises(ValueError, match=message) as caught:
        module.backward(module.training_step(batch, 0))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_the_optimisers_step_is_named_when_it_finds_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FullSGD(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            closure()
            raise torch.OutOfMemoryError("CUDA out of memory")

    module = DecompositionModule(ModelConfig(vocab_size=257, dim=8, layers=1, heads=1))
    monkeypatch.setattr(
        module, "configure_optimizers", lambda: FullSGD(module.parameters(), lr=0.1)
    )
    batch = {"tokens": torch.zeros(2, 9, dtype=torch.long), "keys": []}
    monkeypatch.setattr(module, "setup", lambda stage: None)
    trainer = bare_trainer(1, log_every_n_steps=1)
    batches = DataLoader([batch], batch_size=None)
    message = (
        r"out of memory in the optimiser's step after bucket D_3, micro-batch of 2 rows of 8 "
        r"tokens, .* 1: shard optimiser and model over devices \(FSDP\), or set trainer\.acc"
    )
    with pytest.raises(ValueError, match=message) as caught:
        trainer.fit(module, batches, batches)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        ({"rows": 9, "length": 64}, "set trainer.accumulate_grad_batches to 12"),
        ({"rows": 1, "length": 64}, "spread the model over more devices or lower --max_bucket"),
        ({"rows": 40, "length": 8}, "set trainer.accumulate_grad_batches to 20"),
    ],
)
def test_advice_keeps_every_step_divisible(size: dict[str, int], advice: str) -> None:
    found = StepSize(**size, longest=64, accumulation=4, chunk_tokens=4096).advice()
    assert found.startswith(advice)
    assert ("is one row of 64 already" in found) == (size["rows"] == 1)
