"""Pre-training through the command line: exact resume, fixed validation masks, mistakes."""

import json
from pathlib import Path

import pytest
import torch
from training_stores import make_store

from biofame.cli import APP
from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.data import SignalData
from biofame.pretrain import PretrainModule, fixed_partition
from biofame.weights import load_network
from tenfold import checkpoints
from tenfold.bare_trainer import bare_trainer
from tenfold.callbacks.metrics import read_metrics
from tenfold.optim import OptimConfig
from tenfold.testing import resume_equals_straight

RECIPE = """
model:
  {channels: [eeg, emg], tokens: 8, patch: 5, dim: 8, depth: 1, mlp: 8, filters: 2, mixer_heads: 2,
   mixer_mlp: 8, dropout: 0.2}
decoder: {heads: 2, mlp: 8}
optim: {name: adam, lr: 0.01, min_lr: 0.01, weight_decay: 1.0e-4, decay_all: true}
data: {path: store, batch_size: 8}
checkpoint: {every_n_steps: 4, keep: 9, monitor: val/masked_error, mode: min}
trainer: {accelerator: cpu, max_steps: 8, val_check_interval: 4, log_every_n_steps: 1}
"""

MODEL = ModelConfig(
    channels=("eeg", "emg"), tokens=8, patch=5, dim=8, depth=1, mlp=8, filters=2, mixer_heads=2,
    mixer_mlp=8,
)  # fmt: skip
DECODER = DecoderConfig(heads=2, mlp=8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and a store."""
    monkeypatch.chdir(tmp_path)
    Path("pretrain.yaml").write_text(RECIPE)
    make_store(Path("store"))
    return tmp_path


def module_of(**changes: object) -> PretrainModule:
    torch.manual_seed(0)
    configs = {"model": MODEL, "decoder": DECODER, "optim": OptimConfig(lr=1e-2, total_steps=1)}
    return PretrainModule(**{**configs, **changes})  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("here")
def test_resume_equals_straight() -> None:
    """Masks and dropout come from torch's generator, so equal weights are equal masks."""
    resume_equals_straight(APP, ["pretrain", "--config=pretrain.yaml"], Path(), stop=4)
    names = {name for row in read_metrics(Path("straight/metrics.csv")) for name in row}
    assert {"val/loss", "val/masked_error", "val/masked_error_eeg", "val/masked_error_emg"} < names
    assert {"train/loss", "time/windows_per_s"} < names


@pytest.mark.usefixtures("here")
def test_a_run_is_evaluated_and_loaded_and_says_whom_it_saw() -> None:
    assert APP.main(["fit", "--config=pretrain.yaml", "--run_dir=run"]) == 0
    saved = checkpoints.load(checkpoints.newest(Path("run/checkpoints")))
    assert saved["subjects"] == [f"train-{number}" for number in range(4)]
    assert load_network(Path("run")).config.channels == ("eeg", "emg")
    chosen = ["--training=pretrain", "--ckpt_path=run"]
    assert APP.main(["validate", *chosen, "--out=val.json"]) == 0
    last = [row for row in read_metrics(Path("run/metrics.csv")) if "val/loss" in row][-1]
    validated = json.loads(Path("val.json").read_text())
    assert validated == pytest.approx({n: v for n, v in last.items() if n.startswith("val/")})
    assert APP.main(["predict", *chosen, "--out=predicted.safetensors"]) == 0
    predicted = checkpoints.load_weights(Path("predicted.safetensors"))
    assert predicted["embedding"].shape == (9, 8)
    assert len(json.loads(Path("predicted.json").read_text())["keys"]) == 9


def test_masks_of_held_out_windows_depend_on_their_keys_alone() -> None:
    keys = [f"night@{number}" for number in range(5)]
    cpu = torch.device("cpu")
    state = torch.get_rng_state()
    whole = fixed_partition(keys, 3, 10, ratio=0.5, device=cpu)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    part = fixed_partition(keys[2:4], 3, 10, ratio=0.5, device=cpu)
    for one, other in zip(whole, part, strict=True):
        assert torch.equal(one[2:4], other)
    together = torch.cat([whole.visible, whole.masked], dim=2).sort(dim=2).values
    assert torch.equal(together, torch.arange(10).expand(5, 3, 10))
    assert len({tuple(row.tolist()) for row in whole.masked.flatten(0, 1)}) == 15
    with pytest.raises(ValueError, match=r"loss.mask_ratio 0.5 masks 0 of 1 tokens"):
        fixed_partition(keys, 3, 1, ratio=0.5, device=cpu)


def test_validation_does_not_depend_on_batches(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    found = []
    for size in (1, 2, 7):
        torch.rand(size)
        data = SignalData(tmp_path / "store", batch_size=size)
        trainer = bare_trainer(limit_val_batches=None)
        (scores,) = trainer.validate(module_of(), datamodule=data, verbose=False)
        found.append(scores)
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def test_absent_channels_do_not_count(tmp_path: Path) -> None:
    """A channel that no window has is in no score."""
    found = []
    for name, absent in (("whole", []), ("half", [(row, 1) for row in range(40)])):
        make_store(tmp_path / name, absent=absent)
        trainer = bare_trainer(limit_val_batches=None)
        data = SignalData(tmp_path / name)
        found.append(trainer.validate(module_of(), datamodule=data, verbose=False)[0])
    assert found[0].keys() - found[1].keys() == {"val/masked_error_emg"}
    assert found[1]["val/masked_error"] == found[1]["val/masked_error_eeg"]
    # The other channel is still seen, and its error is about what it was.
    assert found[1]["val/masked_error"] == pytest.approx(found[0]["val/masked_error_eeg"], rel=0.2)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    make_store(tmp_path / "store", channels=("eeg", "emg"))
    model = ModelConfig(**{**vars(MODEL), "dropout": 0.0, "mixer_positional": "time"})
    decoder = DecoderConfig(heads=2, mlp=8, dropout=0.0, embedding_std=0.02)
    losses = []

    class Noted(PretrainModule):
        def training_step(self, batch, batch_idx):
            losses.append(super().training_step(batch, batch_idx))
            return losses[-1]

    torch.manual_seed(0)
    module = Noted(model, decoder, LossConfig(), OptimConfig(lr=1e-2, total_steps=80))
    bare_trainer(80).fit(module, datamodule=SignalData(tmp_path / "store", batch_size=24))
    values = torch.stack(losses).detach()
    assert float(values[-10:].mean()) < 0.9 * float(values[:10].mean())


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.path=absent"], "absent"),
        (["--data.channels=[eeg]"], "the data's channels are eeg, the model's eeg, emg"),
        (["--data.channels=[emg,eeg]"], "the data's channels are emg, eeg"),
        (["--model.rate=50"], "100 samples per second, model.rate is 50"),
        (["--model.tokens=7"], "up to 8 patches, model.tokens is 7: set model.tokens to 8"),
        (
            ["--model.patch=50"],
            "windows of 40 samples, shorter than model.patch 50: prepare longer windows",
        ),
        (["--model.patch=40"], "loss.mask_ratio 0.5 masks 0 of 1 tokens"),
        (["--data.context=2"], "data.context is of staging"),
        (["--data.batch_size=0"], "data.batch_size must be >= 1"),
        (["--loss.target=raw", "--model.revin=false"], "loss.target raw undoes model.revin"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert APP.main(["pretrain", "--config=pretrain.yaml", *words, "--run_dir=run"]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert message in line
    assert not Path("run").exists()
