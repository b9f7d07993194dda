"""TF-C and TS-TCC as trainings: what is trained, what is seen, what is left behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from training_stores import make_store

from biofame.baselines.config import ContrastConfig
from biofame.baselines.contrastive import ContrastiveModule
from biofame.baselines.contrastive_tasks import (
    PastContext,
    TfcTask,
    TstccTask,
    mean_over_channels,
)
from biofame.cli import APP
from biofame.config import ModelConfig
from biofame.weights import load_network
from tenfold import checkpoints
from tenfold.optim import OptimConfig
from tenfold.plain_configs import plain

CHANNELS = ("eeg", "eog")
MODEL = ModelConfig(
    channels=CHANNELS,
    rate=10.0,
    tokens=12,
    patch=5,
    dim=8,
    depth=1,
    mlp=8,
    mixer_heads=2,
    mixer_mlp=8,
    dropout=0.0,
)
SMALL = {"context_dim": 8, "context_depth": 1, "context_heads": 2, "context_mlp": 8}
TFC = ContrastConfig(method="tfc", projection=6)
TSTCC = ContrastConfig(method="tstcc", steps=4, **SMALL)  # pyright: ignore[reportArgumentType]
OPTIM = OptimConfig(lr=1e-3, total_steps=10, name="adam")


def make_batch(windows: int = 6, length: int = 60, **further: Any) -> Any:
    random = torch.Generator().manual_seed(0)
    samples = torch.randn(windows, len(CHANNELS), length, generator=random)
    return {
        "samples": samples,
        "label": torch.zeros(windows, dtype=torch.int64),
        "channels": CHANNELS,
        "rate": 10.0,
        "keys": [f"night@{n}" for n in range(windows)],
    } | further


class Logged(ContrastiveModule):
    """The steps outside of a Trainer."""

    values: dict[str, float]

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        self.__dict__.setdefault("values", {})[name] = float(value)


def make(contrast: ContrastConfig, model: ModelConfig = MODEL) -> Logged:
    torch.manual_seed(0)
    return Logged(model, contrast, OPTIM)


@pytest.mark.parametrize(
    ("contrast", "names"),
    [
        (TFC, {"time", "frequency", "consistency"}),
        (replace(TFC, consistency="code"), {"time", "frequency", "consistency"}),
        (replace(TFC, consistency="none"), {"time", "frequency"}),
        (TSTCC, {"temporal", "contextual"}),
    ],
)
def test_a_step_logs_its_terms_and_reaches_every_parameter(
    contrast: ContrastConfig, names: set[str]
) -> None:
    module = make(contrast, replace(MODEL, operator="query"))
    module.training_step(make_batch(), 0).backward()
    assert set(module.values) == {"train/loss", *(f"train/loss_{name}" for name in names)}
    without = [name for name, p in module.named_parameters() if p.grad is None]
    assert without == []  # DDP would wait for them


def waves() -> Tensor:
    """Return windows that differ in frequency, which all views keep."""
    time = torch.arange(60) / 60
    frequencies = torch.arange(1.0, 17.0)[:, None, None]
    return torch.sin(2 * torch.pi * frequencies * time).expand(-1, 2, -1)


@pytest.mark.parametrize(
    "contrast",
    [
        TFC,
        replace(TFC, consistency="code"),
        replace(TSTCC, scale=0.1, segments=2, jitter=0.01, context_dim=32),
    ],
)
def test_training_lowers_the_loss(contrast: ContrastConfig) -> None:
    model = replace(MODEL, dim=32, mlp=32, mixer_mlp=32)
    module, batch = make(contrast, model), make_batch(16, samples=waves())
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    values: list[float] = []
    for step in range(80):
        torch.manual_seed(step)
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


@pytest.mark.parametrize("contrast", [TFC, TSTCC])
def test_every_validation_draws_the_same_and_disturbs_no_other_draw(
    contrast: ContrastConfig,
) -> None:
    module = make(contrast).eval()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            module.validation_step(make_batch(), 3)
            found.append((float(module.means["loss"].compute()), float(torch.rand(()))))
        module.on_validation_epoch_start()
    assert found[0][0] == found[1][0]
    torch.manual_seed(2)
    assert found[1][1] == float(torch.rand(()))


def test_a_single_held_out_window_is_left_out() -> None:
    module = make(TFC).eval()
    with torch.no_grad():
        module.validation_step(make_batch(1), 0)
        module.validation_step(make_batch(6), 1)
    assert float(module.means["loss"].weight) == 6


@pytest.mark.parametrize(
    ("contrast", "batch", "message"),
    [
        (TFC, make_batch(1), "batch_size must be >= 2"),
        (TFC, make_batch(channels=("eog", "eeg")), "channels are eog, eeg, the model's eeg, eog"),
        (TSTCC, make_batch(length=20), "less than the 4 tokens of a window, got 4"),
        (TFC, make_batch(length=8), "at least one patch of 5 samples, got 4"),
    ],
)
def test_batches_that_do_not_fit(contrast: ContrastConfig, batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(contrast).training_step(batch, 0)


def test_steps_beyond_the_window_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"less than model\.tokens 12, got 12"):
        make(replace(TSTCC, steps=12))


def test_the_frequency_encoder_is_as_wide_and_sees_half_as_many_tokens() -> None:
    task = make(TFC).task
    assert isinstance(task, TfcTask)
    assert task.frequency_network.config == replace(MODEL, tokens=6)


def test_a_context_does_not_see_what_comes_after_its_time() -> None:
    torch.manual_seed(0)
    context = PastContext(8, TSTCC, 0.0).eval()
    tokens = torch.randn(3, 12, 8)
    later = tokens.clone()
    later[:, 6:] = 1e3
    seen = context(tokens, torch.tensor(5))
    assert torch.allclose(context(later, torch.tensor(5)), seen, atol=1e-6)
    assert torch.allclose(context(tokens[:, :6], torch.tensor(5)), seen, atol=1e-6)
    later[:, 5] = 1e3
    assert not torch.allclose(context(later, torch.tensor(5)), seen, atol=1e-2)


def test_tokens_ahead_are_those_right_after_the_time() -> None:
    torch.manual_seed(0)
    task = make(TSTCC).task
    assert isinstance(task, TstccTask)
    tokens = torch.randn(3, 12, 8)
    view = task._view(tokens, torch.tensor(7))  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(view.future, tokens[:, 8:12])
    assert view.predicted.shape == (3, 4, 8)
    assert view.context.shape == (3, 2)


def test_absent_channels_do_not_count() -> None:
    tokens = torch.randn(2, 3, 4, 5)
    present = torch.tensor([[True, False, True], [True, True, True]])
    found = mean_over_channels(tokens, present)
    assert torch.allclose(found[0], tokens[0, [0, 2]].mean(dim=0))
    assert torch.allclose(found[1], mean_over_channels(tokens, None)[1])


@pytest.mark.parametrize("contrast", [TFC, TSTCC])
def test_the_loss_does_not_depend_on_what_an_absent_channel_holds(contrast: ContrastConfig) -> None:
    module = make(contrast)
    present = torch.ones(6, 2, dtype=torch.bool)
    present[0, 1] = False
    batch = make_batch(present=present)
    found = []
    for filler in (0.0, 50.0):
        samples = batch["samples"].clone()
        samples[0, 1] = filler
        torch.manual_seed(0)
        found.append(module.training_step(batch | {"samples": samples}, 0).item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("contrast", [TFC, TSTCC])
def test_fine_tuning_goes_on_from_a_run(contrast: ContrastConfig, tmp_path: Path) -> None:
    make_store(tmp_path / "store", channels=CHANNELS, length=60, rate=10.0)
    options = [
        f"--data.path={tmp_path / 'store'}",
        "--data.batch_size=8",
        "--trainer.accelerator=cpu",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
    ]
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(plain(model=MODEL, contrast=contrast)), encoding="utf-8")
    run = tmp_path / "contrastive"
    assert (
        APP.main(["pretrain-contrastive", f"--config={config}", *options, f"--run_dir={run}"]) == 0
    )
    network = load_network(run)
    assert network.config == MODEL
    saved = checkpoints.load(checkpoints.find(run))
    assert saved["subjects"] == [f"train-{n}" for n in range(4)]
    rows = (run / "metrics.csv").read_text(encoding="utf-8")
    assert "val/loss_" in rows
    head = ["--head.outputs=3", "--optim.lr=0.001", f"--init.run={run}"]
    tuned = tmp_path / "tuned"
    assert APP.main(["finetune", *options, *head, f"--run_dir={tuned}"]) == 0
    assert load_network(tuned).config == MODEL
