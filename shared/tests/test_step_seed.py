"""Random numbers of training steps: the same whatever the accumulation and the start."""

from types import SimpleNamespace
from typing import Any, cast

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tenfold.bare_trainer import bare_trainer
from tenfold.callbacks import StepSeed


class Recorder(lightning.LightningModule):
    """Notes one random number for each micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[float]] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.setdefault(self.global_step, []).append(torch.rand(()).item())
        return self.weight.square()


def draws(*, accumulate: int, seed: int = 7, batches: int = 12) -> dict[int, list[float]]:
    """Train four steps and return the numbers by optimiser step."""
    trainer = bare_trainer(4, accumulate_grad_batches=accumulate, callbacks=[StepSeed(seed)])
    module = Recorder()
    loader = DataLoader(cast(Any, torch.zeros(batches)), batch_size=1)
    trainer.fit(module, loader)
    return module.seen


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_steps_keep_their_numbers_when_accumulation_or_epochs_change() -> None:
    thirds = draws(accumulate=3)
    assert [len(numbers) for numbers in thirds.values()] == [3] * 4
    assert len({number for numbers in thirds.values() for number in numbers}) == 12
    singles = draws(accumulate=1)
    assert {step: numbers[:1] for step, numbers in thirds.items()} == singles
    assert draws(accumulate=1, batches=3) == singles  # the fourth step is in the second epoch
    assert draws(accumulate=1, seed=8)[0] != singles[0]


def drawn_by(callback: StepSeed, step: int, rank: int = 0) -> float:
    trainer = cast(Any, SimpleNamespace(global_step=step, global_rank=rank))
    callback.on_train_batch_start(trainer, cast(Any, None), None, 0)
    return torch.rand(()).item()


def test_ranks_differ_and_a_second_training_starts_again_at_the_first_micro_batch() -> None:
    callback = StepSeed(7)
    first, second = drawn_by(callback, 5), drawn_by(callback, 5)
    assert len({first, second, drawn_by(StepSeed(7), 5, rank=1)}) == 3
    callback.on_train_start(cast(Any, None), cast(Any, None))
    assert [drawn_by(callback, 5), drawn_by(callback, 5)] == [first, second]
