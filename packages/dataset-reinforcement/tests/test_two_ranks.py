"""Training by two processes: what one process would have learnt, and measures of all images."""

import os
from typing import Any

import torch
from tiny_reinforcement import AUGMENT, CLASSES, SEED, SIZE, TinyData
from torch import Tensor, nn

from dataset_reinforcement.config import LossConfig, ModelConfig
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.module import ReinforcementModule
from tenfold.bare_trainer import bare_trainer
from tenfold.ema_config import EmaConfig
from tenfold.optim import OptimConfig
from tenfold.testing import run_ranks

STEPS = 3


def without_norms(module: nn.Module) -> None:
    """Leave out batch norm, which sees half a batch on each of two ranks."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        without_norms(child)


def learn(tiny: TinyData, store: Any, mode: str, **options: Any) -> dict[str, Tensor]:
    """Train some steps; return weights and measures."""
    torch.manual_seed(1)
    trained = ReinforcementModule(
        ModelConfig(name="conv4", classes=CLASSES, image_size=SIZE),
        LossConfig(mode=mode),
        OptimConfig(lr=0.05, total_steps=STEPS, name="sgd"),
        EmaConfig(momentum=0.1),
        tiny.teacher if mode == "kd" else None,
    )
    without_norms(trained)
    data = ReinforcementData(
        tiny.val,
        images=tiny.train,
        store=store if mode == "dr" else None,
        mode=mode,
        augment=AUGMENT,
        batch_size=8,
        total_steps=STEPS,
        eval_resize=0,
        eval_batch_size=1,  # 11 images: the ranks must not have 6 and 5 batches
        seed=SEED,
        workers=0,
    )
    trainer = bare_trainer(STEPS, limit_val_batches=1.0, num_sanity_val_steps=0, **options)
    trainer.fit(trained, datamodule=data)
    (measured,) = trainer.test(trained, datamodule=data, verbose=False)
    return dict(trained.state_dict()) | {n: torch.tensor(v) for n, v in measured.items()}


def learn_on_a_rank(
    rank: int, world_size: int, tiny: TinyData, store: Any
) -> dict[str, dict[str, Tensor]]:
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    options = {"strategy": "ddp", "devices": world_size}
    return {mode: learn(tiny, store, mode, **options) for mode in ("dr", "kd")}


def test_two_ranks_learn_what_one_does(tiny: TinyData) -> None:
    store = tiny.store()
    one, other = run_ranks(learn_on_a_rank, 2, tiny, store, timeout_s=250)
    for mode in ("dr", "kd"):
        alone = learn(tiny, store, mode)
        assert alone.keys() == one[mode].keys()
        for name, expected in alone.items():
            assert torch.equal(one[mode][name], other[mode][name]), name
            torch.testing.assert_close(one[mode][name], expected, rtol=1e-4, atol=1e-5)
