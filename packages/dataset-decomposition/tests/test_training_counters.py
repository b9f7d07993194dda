"""What must not depend on the bucket of a step: learning rate, step and token counters, errors."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.data import DecompositionData
from dataset_decomposition.module import DecompositionModule
from dataset_decomposition.prepare import prepare
from dataset_decomposition.records import open_dataset
from tenfold.bare_trainer import bare_trainer
from tenfold.callbacks import NanGuard, NonFiniteError
from tenfold.optim import OptimConfig

# The loader's length is that of the plan, whatever the number of workers.
pytestmark = pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")

STEPS, WARM_UP = 40, 5
MODEL = ModelConfig(vocab_size=257, dim=8, layers=1, heads=1)
OPTIM = OptimConfig(lr=0.01, min_lr=0.001, warmup_steps=WARM_UP, total_steps=STEPS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counters")
    for number in range(90):
        path = folder / "text" / f"{number:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(chr(97 + number % 26) * (5 + 3 * number))
    train, heldout = ([f"{folder}/text/{name}.txt"] for name in ("?[0-8]", "?9"))
    prepare(train, folder / "data", heldout=heldout, min_bucket=3, max_bucket=6)
    return folder / "data"


class Recorder(Callback):
    """Note the counters that each step begins with, and the shape and tokens of its batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, tuple[int, int], int]] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        (optimizer,) = trainer.optimizers
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        shape = tuple(batch["tokens"].shape)
        self.seen.append((trainer.global_step, rate, shape, pl_module.count_units(batch)))


def fit(prepared: Path, module: DecompositionModule, *callbacks: Callback) -> None:
    data = DecompositionData(
        prepared,
        tokens_per_step=128,
        total_steps=STEPS,
        cycles=4,
        mixture="natural",
        workers=0,
        repeat="reshuffle",
    )
    bare_trainer(STEPS, callbacks=list(callbacks)).fit(module, datamodule=data)


def naive_rate(step: int) -> float:
    if step < WARM_UP:
        return 0.01 * (step + 1) / WARM_UP
    progress = (step - WARM_UP) / (STEPS - WARM_UP)
    return 0.001 + 0.009 * (1 + math.cos(math.pi * progress)) / 2


def test_one_cosine_spans_all_cycles_and_every_step_counts_the_same(prepared: Path) -> None:
    recorder = Recorder()
    torch.manual_seed(0)
    fit(prepared, DecompositionModule(MODEL, optim=OPTIM), recorder)
    steps, rates, shapes, tokens = zip(*recorder.seen, strict=True)
    assert {width for _, width in shapes} == {9, 17, 33, 65}
    assert steps == tuple(range(STEPS))
    assert tokens == (128,) * STEPS
    assert {rows * (width - 1) for rows, width in shapes} == {128}
    assert rates == pytest.approx([naive_rate(step) for step in range(STEPS)])


def test_a_loss_that_is_not_finite_names_bucket_and_rows(prepared: Path, tmp_path: Path) -> None:
    module = DecompositionModule(MODEL, optim=OPTIM)
    with torch.no_grad():
        module.decoder.head.weight[0, 0] = torch.nan
    # The first step is of the longest bucket: two rows of 64.
    with pytest.raises(NonFiniteError, match=r"at step 0; train/loss=nan") as stopped:
        fit(prepared, module, NanGuard(tmp_path))
    capture = torch.load(tmp_path / "nan-step-0-rank-0.pt", weights_only=True)
    batch = capture["micro_batches"][0]["batch"]
    rows = [int(key.removeprefix("D_6/")) for key in batch["keys"]]
    assert batch["tokens"].tolist() == open_dataset(prepared).buckets[6].read(rows).tolist()
    assert f"sample keys: {', '.join(batch['keys'])}" in str(stopped.value)


RECIPE = """
model: {{vocab_size: 257, dim: 8, layers: 1, heads: 1}}
data: {{path: {data}, tokens_per_step: 128, mixture: natural, cycles: 1, workers: 0,
       repeat: reshuffle}}
checkpoint: {{every_n_steps: 5}}
trainer: {{accelerator: cpu, devices: 2, strategy: ddp, max_steps: 1000000, limit_val_batches: 0}}
"""


@pytest.mark.slow
def test_when_one_rank_dies_the_run_ends_and_says_so(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(data=prepared))
    script = Path(sys.executable).with_name("dataset-decomposition")
    command = [script, "fit", "--config=recipe.yaml", "--run_dir=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list((tmp_path / "run/checkpoints").glob("step-*.json")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (other_rank,) = [
            int(pid) for pid in children if b"fit" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(other_rank, signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert re.search("Connection (reset|closed) by peer|Child process with PID", errors)
