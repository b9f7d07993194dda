"""PatchTST as a baseline: its size, its loss, what starts from what, and what it cannot take."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_stores import make_store

from biofame.baselines.config import PatchTstConfig
from biofame.baselines.patchtst import PatchTstFinetuneModule, PatchTstPretrainModule
from biofame.baselines.patchtst_networks import (
    build_classifier,
    build_pretraining,
    check_same,
    embed,
    load_backbone,
)
from biofame.cli import APP
from biofame.config import HeadConfig, InitConfig, ModelConfig
from biofame.model import BioFame
from tenfold import checkpoints
from tenfold.plain_configs import plain

CHANNELS = ("eeg", "emg")
MODEL = PatchTstConfig(
    channels=CHANNELS, length=40, patch=8, dim=8, depth=1, heads=2, mlp=8, dropout=0.0
)
WINDOWS = torch.randn(6, 2, 40, generator=torch.Generator().manual_seed(0))


def make_batch(**changed: Any) -> Any:
    batch = {
        "samples": WINDOWS,
        "label": torch.arange(6) % 3,
        "channels": CHANNELS,
        "rate": 100.0,
        "keys": [f"night@{n}" for n in range(6)],
    }
    return batch | changed


def saved_pretraining(path: Path) -> Path:
    torch.manual_seed(3)
    network = build_pretraining(MODEL)
    state = {f"patchtst.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoints.save(path, {"state_dict": state, "hyper_parameters": plain(model=MODEL)})
    return path


def test_with_three_layers_it_is_as_large_as_ours() -> None:
    network = build_pretraining(PatchTstConfig())
    backbone = network.model.parameters()
    found = sum(p.numel() for p in backbone if p.requires_grad)
    ours = sum(p.numel() for p in BioFame(ModelConfig()).parameters())
    assert found == pytest.approx(ours, rel=0.05)


def test_the_loss_is_the_mean_square_of_masked_patches_alone() -> None:
    network = build_pretraining(MODEL).train()
    torch.manual_seed(1)
    made = network(past_values=WINDOWS.transpose(1, 2))
    torch.manual_seed(1)
    inner = network.model(past_values=WINDOWS.transpose(1, 2))
    mean, std = WINDOWS.mean(-1, keepdim=True), WINDOWS.std(-1, correction=0, keepdim=True)
    truth = ((WINDOWS - mean) / (std**2 + 1e-5).sqrt()).unflatten(-1, (5, 8))
    assert inner.mask.sum(dim=-1).unique().tolist() == [3]  # of 5: half, rounded up
    error = (made.prediction_output - truth).square().mean(dim=-1)[inner.mask].mean()
    assert made.loss.item() == pytest.approx(error.item(), rel=1e-4)


def test_the_embedding_is_of_windows_without_masks() -> None:
    network = build_pretraining(MODEL).eval()
    classifier = build_classifier(MODEL, outputs=3).eval()
    classifier.model.load_state_dict(network.model.state_dict())
    with torch.no_grad():
        expected = classifier.model(past_values=WINDOWS.transpose(1, 2)).last_hidden_state
        assert torch.equal(embed(network, WINDOWS), expected)


def test_a_step_reaches_every_parameter_that_is_learnt() -> None:
    module = PatchTstPretrainModule(MODEL)
    module.log = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    module.training_step(make_batch(), 0).backward()
    without = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_every_validation_masks_the_same_and_disturbs_no_other_draw() -> None:
    module, found = PatchTstPretrainModule(MODEL).eval(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module.on_validation_epoch_start()
        with torch.no_grad():
            module.validation_step(make_batch(), 0)
        found.append((module.mean_loss.compute().item(), torch.rand(()).item()))
    assert found[0][0] == found[1][0]
    torch.manual_seed(2)
    assert found[1][1] == torch.rand(()).item()


def test_a_trained_backbone_fits_other_channels_and_lengths(tmp_path: Path) -> None:
    saved = load_backbone(saved_pretraining(tmp_path / "step-1.ckpt"))
    assert saved.config == MODEL
    wanted = replace(MODEL, channels=("eog",), length=64)
    check_same(saved.config, wanted, source=tmp_path)
    network = build_classifier(wanted, outputs=4, backbone=saved)
    name = "encoder.layers.0.self_attn.k_proj.weight"
    assert torch.equal(network.model.state_dict()[name], saved.state[name])
    fresh = build_classifier(wanted, outputs=4).model.encoder.positional_encoder.position_enc
    assert torch.equal(network.model.encoder.positional_encoder.position_enc, fresh)
    assert network(past_values=torch.randn(2, 64, 1)).prediction_logits.shape == (2, 4)


def test_a_frozen_backbone_keeps_weights_and_batch_statistics() -> None:
    module = PatchTstFinetuneModule(
        InitConfig(scratch=True), HeadConfig(pooling="cat", outputs=3, freeze=True)
    )
    module._adopt(MODEL, build_classifier(MODEL, outputs=3))  # pyright: ignore[reportPrivateUsage]
    module.log = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    module.train()
    assert module.patchtst.head.training
    before = {name: t.clone() for name, t in module.patchtst.model.state_dict().items()}
    module.training_step(make_batch(), 0).backward()
    learnt = [name for name, p in module.named_parameters() if p.grad is not None]
    assert learnt == ["patchtst.head.linear.weight", "patchtst.head.linear.bias"]
    after = module.patchtst.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": ("emg", "eeg")}, "channels are emg, eeg, the model's eeg, emg"),
        ({"samples": WINDOWS[..., :32]}, r"have 32 samples, PatchTST takes 40: set model\.length"),
        ({"present": torch.ones(6, 2, dtype=torch.bool)}, "cannot leave out a channel"),
    ],
)
def test_windows_that_do_not_fit(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchTstPretrainModule(MODEL).training_step(make_batch(**changed), 0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HeadConfig(), r"head\.pooling must be cat, PatchTST's own head, got avg"),
        (HeadConfig(pooling="cat", task="regression"), "classification or multilabel"),
        (HeadConfig(pooling="cat", task="staging", context=3), "got staging"),
    ],
)
def test_heads_that_it_has_not(head: HeadConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchTstFinetuneModule(InitConfig(scratch=True), head)


def test_another_model_is_named_field_by_field(tmp_path: Path) -> None:
    wanted = replace(MODEL, patch=10, depth=2)
    with pytest.raises(ValueError, match=r"model\.patch 8, wanted 10; model\.depth 1, wanted 2"):
        check_same(MODEL, wanted, source=tmp_path)


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-1.ckpt"
    checkpoints.save(path, {"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": {}})
    with pytest.raises(ValueError, match="no checkpoint of pretrain-patchtst"):
        load_backbone(path)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"install biofame\[patchtst\]"):
        build_pretraining(MODEL)


def test_pretrain_finetune_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "one", channels=CHANNELS, length=40)
    make_store(tmp_path / "two", channels=("eog",), length=64)
    common = [
        "--data.batch_size=8",
        "--trainer.accelerator=cpu",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
    ]
    model = [
        "--model.channels=[eeg,emg]",
        "--model.length=40",
        "--model.patch=8",
        "--model.dim=8",
        "--model.depth=1",
        "--model.heads=2",
        "--model.mlp=8",
    ]
    run, tuned = tmp_path / "pretrained", tmp_path / "tuned"
    one, two = f"--data.path={tmp_path / 'one'}", f"--data.path={tmp_path / 'two'}"
    assert APP.main(["pretrain-patchtst", *common, *model, one, f"--run_dir={run}"]) == 0
    options = [f"--init.run={run}", "--head.outputs=3", two, f"--run_dir={tuned}"]
    assert APP.main(["finetune-patchtst", *common, *options]) == 0
    saved = load_backbone(tuned)
    assert (saved.config.channels, saved.config.length, saved.config.patch) == (("eog",), 64, 8)
    assert checkpoints.load(checkpoints.find(tuned))["classes"] == ["slow", "middle", "fast"]
    assert "val/macro_f1" in (tuned / "metrics.csv").read_text(encoding="utf-8")
    assert APP.main(["test", "--training=finetune-patchtst", f"--ckpt_path={tuned}"]) == 0
    assert "test/balanced_accuracy" in capsys.readouterr().out
