"""The NaN guard and the progress callbacks, in small real fits."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.connectors.logger_connector import result
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader, IterableDataset

from tenfold.callbacks import (
    NanGuard,
    NonFiniteError,
    ProgressBar,
    ProgressLines,
    Throughput,
    progress,
)
from tenfold.callbacks.nan_guard import MOST_BACK_OFFS, _shard_group, gradient_norm
from tenfold.testing import run_ranks

Batch = dict[str, Any]


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Batches(IterableDataset[Batch]):
    """`number` batches of four; those in `bad` hold a NaN; each takes `wait` of the clock."""

    def __init__(
        self, number: int, bad: tuple[int, ...] = (), clock: Clock | None = None, wait: float = 0.0
    ) -> None:
        self.number, self.bad, self.clock, self.wait = number, bad, clock or Clock(), wait

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.number):
            self.clock.now += self.wait
            x = torch.randn(4, 2, generator=torch.Generator().manual_seed(number))
            x[0, 0] = torch.nan if number in self.bad else x[0, 0]
            yield {"x": x, "keys": [f"{number}/{row}" for row in range(4)]}

    def __len__(self) -> int:
        return self.number


class Line(lightning.LightningModule):
    """A linear map; a training batch takes 2 of the clock, a validation batch 100."""

    unit = "samples"

    def __init__(self, clock: Clock | None = None, *, on_bar: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(2, 1)
        self.clock = clock or Clock()
        self.on_bar = on_bar

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.clock.now += 2.0
        loss = self.net(batch["x"]).square().mean()
        self.log("train/loss", loss, prog_bar=self.on_bar, batch_size=4)
        self.log(f"train/loss_{batch_idx % 2}", loss, batch_size=4)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.clock.now += 100.0

    def count_units(self, batch: Batch) -> int:
        return len(batch["x"])


class Saves(Checkpoint):
    """Save at every second step, which takes 1000 of the clock."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path, self.clock = path, clock or Clock()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % 2 == 0:
            trainer.save_checkpoint(self.path)
            self.clock.now += 1000.0


class Logged(Callback):
    """Keep what was logged at each optimiser step."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.rows: dict[int, float] = {}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith(self.prefix):
                self.rows[trainer.global_step] = float(value)


class Deferred(NanGuard):
    """The guard as it works on an accelerator."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.checks_each_step = False


class Offset(Line):
    """A bad batch makes the loss infinite and leaves the gradient alone."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        offset = torch.where(batch["x"].isnan().any(), torch.inf, 0.0)
        return super().training_step({"x": batch["x"].nan_to_num()}, batch_idx) + offset


def fit(
    module: lightning.LightningModule,
    data: Batches,
    *callbacks: Callback,
    validation: Batches | None = None,
    **options: Any,
) -> None:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "logger": False,
    }
    options = {**quiet, "max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, **options}
    trainer = lightning.Trainer(callbacks=list(callbacks), use_distributed_sampler=False, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and loggers
        validated = validation and DataLoader(validation, batch_size=None)
        trainer.fit(module, DataLoader(data, batch_size=None), validated)


def captured(path: Path) -> list[dict[str, Any]]:
    return torch.load(path, weights_only=True)["micro_batches"]


def test_the_guard_names_the_bad_micro_batch_and_spares_the_weights(tmp_path: Path) -> None:
    module, seen = Line(), Logged("train/grad_norm")
    before: dict[int, Tensor] = {}

    class Weights(Callback):
        def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
            before[trainer.global_step] = module.net.weight.detach().clone()

    callbacks = (NanGuard(tmp_path), seen, Weights())
    with pytest.raises(NonFiniteError) as error:
        fit(module, Batches(12, bad=(7,)), *callbacks, accumulate_grad_batches=3)
    message = str(error.value)
    capture = tmp_path / "nan-step-2-rank-0.pt"
    assert message == (
        "gradient is nan at step 2; train/loss=nan, train/loss_1=nan; "
        f"sample keys: 7/0, 7/1, 7/2, 7/3; saved in {capture}"
    )
    (part,) = captured(capture)
    assert part["batch"]["x"][0, 0].isnan()
    assert part["keys"] == part["batch"]["keys"]
    assert torch.equal(module.net.weight, before[2])
    assert set(seen.rows) == {1, 2}


def test_a_gradient_without_a_bad_loss_makes_suspects_of_the_step(tmp_path: Path) -> None:
    class Root(Line):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            scale = 0.0 if self.global_step == 1 else 1.0
            return (self.net(batch["x"]).square().mean() * scale).sqrt()

    with pytest.raises(NonFiniteError, match=r"gradient is nan at step 1; no loss was logged"):
        fit(Root(), Batches(8), NanGuard(tmp_path), accumulate_grad_batches=2)
    parts = captured(tmp_path / "nan-step-1-rank-0.pt")
    assert [part["keys"][0] for part in parts] == ["2/0", "3/0"]
    assert [part["batch"]["keys"][0] for part in parts] == ["2/0", "3/0"]


def test_a_bad_loss_whose_gradient_is_finite_stops_too(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="loss is not finite at step 1"):
        fit(Offset(), Batches(4, bad=(1,)), NanGuard(tmp_path))


def test_a_deferred_check_holds_no_batches_and_saves_no_spoiled_weights(tmp_path: Path) -> None:
    guard = Deferred(tmp_path, every_n_steps=5)
    with pytest.raises(NonFiniteError, match=r"at step 2; .*sample keys: 2/0") as error:
        fit(Line(), Batches(20, bad=(2,)), guard)
    assert "train/loss_0=nan" in str(error.value)
    (part,) = captured(tmp_path / "nan-step-2-rank-0.pt")
    assert part["batch"] is None
    assert part["keys"][0] == "2/0"
    saves = Saves(tmp_path / "saved.ckpt")
    with pytest.raises(NonFiniteError, match="at step 2"):
        fit(Line(), Batches(20, bad=(2,)), Deferred(tmp_path, every_n_steps=50), saves)
    held = torch.load(saves.path, weights_only=False)
    assert held["global_step"] == 2
    assert all(torch.isfinite(value).all() for value in held["state_dict"].values())
    with pytest.raises(NonFiniteError, match="at step 4"):
        fit(Line(), Batches(20, bad=(4,)), guard)
    (part,) = captured(tmp_path / "nan-step-4-rank-0.pt")
    assert part["batch"]["keys"][0] == "4/0"  # it was at hand


def test_the_guard_fetches_no_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    convert = result.convert_tensors_to_scalars
    monkeypatch.setattr(
        result, "convert_tensors_to_scalars", lambda value: fetched.append(1) or convert(value)
    )
    fit(Line(), Batches(10))
    without = len(fetched)
    fit(Line(), Batches(10), Deferred(tmp_path))
    assert len(fetched) == 2 * without > 0
    fetched.clear()
    callbacks = (Deferred(tmp_path), Throughput(every_n_steps=5), ProgressLines(every_n_steps=5))
    fit(Line(on_bar=False), Batches(10), *callbacks)
    assert not fetched


def test_a_loss_scale_may_come_down(tmp_path: Path) -> None:
    norms = Logged("train/grad_norm")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    fit(Line(), Batches(40), NanGuard(tmp_path), norms, plugins=[plugin])
    assert not torch.tensor(norms.rows[1]).isfinite()
    assert torch.tensor(norms.rows[40]).isfinite()
    assert scaler.get_scale() < 2.0**30
    with pytest.raises(NonFiniteError, match=r"at step 3; .*keys: 3/0"):
        fit(Line(), Batches(40, bad=(3,)), NanGuard(tmp_path), plugins=[plugin])


def test_a_loss_scale_that_never_fits_stops_the_run(tmp_path: Path) -> None:
    class Steep(Line):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return (super().training_step(batch, batch_idx) * 0.0).sqrt()

    plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu"))
    guard = NanGuard(tmp_path)
    with pytest.raises(NonFiniteError, match=f"gradient is nan at step {MOST_BACK_OFFS};"):
        fit(Steep(), Batches(40), guard, plugins=[plugin])


def two_ranks(rank: int, world_size: int, folder: Path) -> dict[str, Any]:
    """Fit with a bad batch on rank 1 alone, then take norms of sharded gradients."""
    os.environ["LOCAL_RANK"] = str(rank)
    bad = (6,) if rank == 1 else ()
    options = {"devices": world_size, "strategy": "ddp", "accumulate_grad_batches": 2}
    # The loss alone is bad, so that rank 0 hears of it from rank 1 only.
    with pytest.raises(NonFiniteError) as each:
        fit(Offset(), Batches(20, bad=bad), NanGuard(folder / "each"), **options)
    later = (Deferred(folder / "later"), Saves(folder / "later.ckpt"))
    with pytest.raises(NonFiniteError) as deferred:
        fit(Line(), Batches(20, bad=bad), *later, **options)
    outcome = {"each": str(each.value), "later": str(deferred.value)}
    return {**outcome, **sharded_norms(world_size)}


def sharded_norms(world_size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    x, whole = torch.randn(3, 4), nn.Linear(4, 4)
    second = nn.Linear(4, 4)
    second.load_state_dict(whole.state_dict())
    whole(x).square().sum().backward()
    fsdp2 = fully_shard(second, mesh=init_device_mesh("cpu", (world_size,)))
    fsdp2(x).square().sum().backward()
    first = nn.Linear(4, 4)
    first.load_state_dict(whole.state_dict())
    fsdp1 = FullyShardedDataParallel(
        first, device_id=torch.device("cpu"), use_orig_params=True, sync_module_states=False
    )
    fsdp1(x).square().sum().backward()
    return {
        "whole": gradient_norm(whole.parameters()).item(),
        "fsdp2": gradient_norm(fsdp2.parameters()).tolist(),
        "fsdp1": gradient_norm(fsdp1.parameters(), shards=_shard_group(fsdp1)).tolist(),
    }


def test_ranks_stop_together_and_name_the_rank(tmp_path: Path) -> None:
    outcomes = run_ranks(two_ranks, 2, tmp_path)
    for name in ("each", "later"):
        assert outcomes[0][name] == outcomes[1][name]
        assert re.search("at step 3; rank 1: .*sample keys: 6/0", outcomes[0][name])
        assert "rank 0" not in outcomes[0][name]
        assert [p.name for p in (tmp_path / name).iterdir()] == ["nan-step-3-rank-1.pt"]
    assert torch.load(tmp_path / "later.ckpt", weights_only=False)["global_step"] == 2
    for outcome in outcomes:
        assert outcome["fsdp2"] == pytest.approx(outcome["whole"], rel=1e-5)
        assert outcome["fsdp1"] == pytest.approx(outcome["whole"], rel=1e-5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_throughput_counts_the_wait_for_data(clock: Clock) -> None:
    rates = Logged("time/samples_per_s")
    fit(Line(clock), Batches(8, clock=clock, wait=3.0), Throughput(every_n_steps=4), rates)
    # The first wait belongs to the start of the run.
    assert rates.rows[4] == pytest.approx(4 * 4 / (4 * 2 + 3 * 3))
    assert rates.rows[8] == pytest.approx(4 * 4 / (4 * 2 + 4 * 3))


def test_throughput_leaves_validation_and_saving_out(clock: Clock, tmp_path: Path) -> None:
    rates = Logged("time/samples_per_s")
    callbacks = (Throughput(every_n_steps=4), rates, Saves(tmp_path / "saved.ckpt", clock))
    options = {"val_check_interval": 3, "num_sanity_val_steps": 1, "validation": Batches(2)}
    fit(Line(clock), Batches(8, clock=clock, wait=3.0), *callbacks, **options)
    # Saved after 2, 4, 6 and validated after 3, 6: these waits are left out, as is the first.
    assert rates.rows[4] == pytest.approx(4 * 4 / (4 * 2 + 1 * 3))
    assert rates.rows[8] == pytest.approx(4 * 4 / (4 * 2 + 2 * 3))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_interval_is_a_number_of_optimiser_steps(
    clock: Clock, caplog: pytest.LogCaptureFixture, accumulate: int
) -> None:
    caplog.set_level(logging.INFO)
    rates = Logged("time/samples_per_s")
    callbacks = (Throughput(every_n_steps=5), rates, ProgressLines(every_n_steps=5))
    options = {"max_epochs": -1, "max_steps": 12, "accumulate_grad_batches": accumulate}
    fit(Line(clock), Batches(2 * accumulate), *callbacks, **options)  # epochs of two steps
    assert min(rates.rows) == 5
    assert rates.rows[10] == pytest.approx(4 / 2)
    lines = [r for r in caplog.records if r.name == progress.__name__]
    assert [line.getMessage().split("  ")[0] for line in lines] == ["step 5/12", "step 10/12"]
    assert [getattr(line, "file_only", None) for line in lines] == [False, False]
    text = lines[0].getMessage()
    assert re.search(r"train/loss \d.*train/loss_0 \d.*time/samples_per_s 2 .*s left$", text)
    left = 7 * accumulate * 2  # seconds of the clock
    assert text.endswith(f"{left} s left")


def test_the_bar_shows_terms_and_is_renewed_at_the_interval(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    shown: dict[int, dict[str, Any]] = {}

    class Bar(ProgressBar):
        def get_metrics(self, trainer: lightning.Trainer, pl_module: Any) -> dict[str, Any]:
            metrics = super().get_metrics(trainer, pl_module)
            shown[trainer.global_step] = metrics
            return metrics

    callbacks = (Throughput(every_n_steps=4), ProgressLines(every_n_steps=4), Bar())
    options = {"enable_progress_bar": True, "log_every_n_steps": 4}
    fit(Line(on_bar=False), Batches(10), *callbacks, **options)
    assert shown[3] == {}
    assert set(shown[4]) == {"train/loss", "train/loss_0", "train/loss_1", "time/samples_per_s"}
    assert shown[7] is shown[4]
    assert shown[8] != shown[4]
    lines = [r for r in caplog.records if r.name == progress.__name__]
    assert [getattr(line, "file_only", None) for line in lines] == [True, True]


def test_peak_memory_is_that_of_the_modules_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**40)
    assert progress.peak_memory_gib(torch.device("cuda", 0)) == 1024
    assert progress.peak_memory_gib() == 1024
    assert 0.01 < progress.peak_memory_gib(torch.device("cpu")) < 1024
