"""Fine-tuning through the command line: tasks, poolings, other channels and lengths, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_stores import CLASSES, make_store

from biofame.cli import APP
from biofame.config import HeadConfig, InitConfig, ModelConfig
from biofame.data import SignalData
from biofame.finetune import FinetuneModule
from biofame.model import BioFame
from biofame.pretrain import PretrainModule
from biofame.weights import load_classifier, load_network
from tenfold import checkpoints
from tenfold.bare_trainer import bare_trainer
from tenfold.callbacks.metrics import read_metrics
from tenfold.optim import OptimConfig
from tenfold.testing import resume_equals_straight

MODEL = ModelConfig(
    channels=("eeg", "emg"), tokens=8, patch=5, dim=8, depth=1, mlp=8, filters=2, mixer_heads=2,
    mixer_mlp=8, mixer_positional="both",
)  # fmt: skip

RECIPE = """
init: {run: run.ckpt}
head: {outputs: 3}
optim: {name: adam, lr: 0.01, min_lr: 0.01, weight_decay: 1.0e-4, decay_all: true}
data: {path: store, batch_size: 8}
checkpoint: {every_n_steps: 4, keep: 9, monitor: val/macro_f1, mode: max}
trainer: {accelerator: cpu, max_steps: 8, val_check_interval: 4, log_every_n_steps: 1}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, a store and a pre-trained network."""
    monkeypatch.chdir(tmp_path)
    Path("finetune.yaml").write_text(RECIPE)
    make_store(Path("store"))
    save_pretrained(Path("run.ckpt"))
    return tmp_path


def save_pretrained(path: Path, **more: object) -> PretrainModule:
    torch.manual_seed(3)
    module = PretrainModule(MODEL)
    for table in (module.autoencoder.network.revin.weight, module.autoencoder.network.revin.bias):
        torch.nn.init.normal_(table, mean=1.0)
    settings = dict(module.hparams)
    checkpoints.save(
        path, {"state_dict": module.state_dict(), "hyper_parameters": settings, **more}
    )
    return module


def trained(
    store: Path, head: HeadConfig, *, steps: int = 2, init: InitConfig | None = None, **data: object
) -> tuple[FinetuneModule, dict[str, float]]:
    torch.manual_seed(0)
    module = FinetuneModule(
        init or InitConfig(scratch=True), head, OptimConfig(lr=1e-2, total_steps=steps), MODEL
    )
    source = SignalData(store, context=head.context, **{"batch_size": 8, **data})
    trainer = bare_trainer(steps)
    trainer.fit(module, datamodule=source)
    return module, trainer.test(module, datamodule=source, verbose=False)[0]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "more",
    [
        ["--head.cutmix=1.0", "--head.pooling=cls"],
        ["--head.task=staging", "--head.context=3", "--data.labels=9"],
    ],
)
def test_resume_equals_straight(more: list[str]) -> None:
    resume_equals_straight(APP, ["finetune", "--config=finetune.yaml", *more], Path(), stop=4)
    names = {name for row in read_metrics(Path("straight/metrics.csv")) for name in row}
    assert {"train/loss", "val/loss", "val/accuracy", "val/macro_f1", "val/auroc"} < names


@pytest.mark.usefixtures("here")
def test_a_run_is_evaluated_loaded_and_outlives_what_it_started_from() -> None:
    assert APP.main(["finetune", "--config=finetune.yaml", "--run_dir=run"]) == 0
    checkpoints.remove(Path("run.ckpt"))
    chosen = ["--training=finetune", "--ckpt_path=run"]
    assert APP.main(["test", *chosen, "--out=test.json"]) == 0
    assert APP.main(["predict", *chosen, "--out=predicted.safetensors"]) == 0
    predicted = checkpoints.load_weights(Path("predicted.safetensors"))
    assert torch.allclose(predicted["probabilities"].sum(dim=1), torch.ones(9))
    right = (predicted["probabilities"].argmax(dim=1) == predicted["label"]).float().mean()
    assert json.loads(Path("test.json").read_text())["test/accuracy"] == pytest.approx(float(right))
    classifier, classes = load_classifier(Path("run"))
    assert classes == CLASSES
    assert classifier.network.config == MODEL
    data = SignalData(Path("store"))
    data.setup("test")
    samples = torch.from_numpy(data.store.samples[data.store.rows("test")])
    logits = classifier(samples)
    assert torch.allclose(logits.softmax(dim=1), predicted["probabilities"], atol=1e-6)
    saved = checkpoints.load(checkpoints.newest(Path("run/checkpoints")))
    assert saved["hyper_parameters"]["model"]["channels"] == ["eeg", "emg"]


@pytest.mark.parametrize("pooling", ["avg", "cls", "cat"])
@pytest.mark.parametrize("task", ["classification", "multilabel", "regression", "staging"])
def test_every_task_and_pooling_trains(tmp_path: Path, task: str, pooling: str) -> None:
    store = make_store(tmp_path, targets=3, absent=[(1, 0), (30, 1)])
    context = 3 if task == "staging" else 1
    head = HeadConfig(outputs=3, task=task, pooling=pooling, context=context)  # pyright: ignore[reportArgumentType]
    if task == "multilabel":
        store.targets[:] = store.targets > 0
        np.save(tmp_path / "targets.npy", store.targets)
    module, scores = trained(tmp_path, head)
    assert module.classifier.training  # what Lightning gave back after the test
    found = {
        "classification": "macro_f1",
        "staging": "macro_f1",
        "multilabel": "exact_match",
        "regression": "mae",
    }
    assert np.isfinite(scores[f"test/{found[task]}"])
    assert np.isfinite(scores["test/loss"])
    names = ("target_0", "target_1", "target_2")
    assert module.output_names == (CLASSES if context > 1 or task == "classification" else names)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("channels", "length"),
    [(("eeg",), 40), (("eeg", "ecg", "emg"), 40), (("ecg", "resp"), 65), (("emg", "eeg"), 12)],
)
def test_other_channels_and_lengths_start_from_the_same_weights(
    channels: tuple[str, ...], length: int
) -> None:
    make_store(Path("other"), channels=channels, length=length, rate=50.0)
    init = InitConfig(run=Path("run.ckpt"))
    before = load_network(Path("run.ckpt")).state_dict()
    module, _ = trained(Path("other"), HeadConfig(outputs=3), init=init, steps=1)
    assert module.classifier.network.config.channels == channels
    assert module.hparams["model"]["channels"] == list(channels)
    after = module.classifier.network.state_dict()
    moved = {name for name in before if before[name].shape == after[name].shape}
    for name in moved - {"revin.weight", "revin.bias", "mixer.modality.table_KTD"}:
        assert (before[name] - after[name]).abs().max() < 0.011, name  # one step of Adam
    for place, name in enumerate(channels):
        weight = float(after["revin.weight"][place])
        known = MODEL.channels.index(name) if name in MODEL.channels else None
        expected = 1.0 if known is None else float(before["revin.weight"][known])
        assert weight == pytest.approx(expected, abs=0.011)


@pytest.mark.usefixtures("here")
def test_lengths_may_differ_within_a_store() -> None:
    make_store(Path("mixed"), lengths=(40, 25, 12))
    _, scores = trained(Path("mixed"), HeadConfig(outputs=3, pooling="cls"), steps=4)
    assert 0 <= scores["test/accuracy"] <= 1


@pytest.mark.usefixtures("here")
def test_mixing_is_of_training_and_of_whole_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import biofame.finetune as finetune

    called: list[bool] = []
    mix = finetune.mix_windows
    monkeypatch.setattr(
        finetune, "mix_windows", lambda *a, **k: (called.append(True), mix(*a, **k))[1]
    )
    for head, expected in (
        (HeadConfig(outputs=3), 2),
        (HeadConfig(outputs=3, mixup=0.0), 0),
        (HeadConfig(outputs=3, freeze=True), 0),
        (HeadConfig(outputs=3, task="staging", context=2), 0),
    ):
        called.clear()
        trained(Path("store"), head)
        assert len(called) == expected


@pytest.mark.usefixtures("here")
def test_a_frozen_network_is_as_it_was() -> None:
    init = InitConfig(run=Path("run.ckpt"))
    module, _ = trained(Path("store"), HeadConfig(outputs=3, freeze=True), init=init, steps=3)
    assert module.classifier.training
    assert not any(part.training for part in module.classifier.network.modules())
    before, after = load_network(Path("run.ckpt")), module.classifier.network
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor), name


def test_labels_are_learnt(tmp_path: Path) -> None:
    make_store(tmp_path, splits=(("train", 60), ("val", 3), ("test", 30)))
    _, scores = trained(tmp_path, HeadConfig(outputs=3, mixup=0.0), steps=60, batch_size=30)
    assert scores["test/accuracy"] > 0.6


def test_numbers_far_from_zero_are_learnt(tmp_path: Path) -> None:
    store = make_store(tmp_path, splits=(("train", 60), ("val", 3), ("test", 30)), targets=1)
    np.save(tmp_path / "targets.npy", (500 + 100 * store.labels[:, None]).astype(np.float32))
    head = HeadConfig(task="regression", outputs=1)
    _, scores = trained(tmp_path, head, steps=60, batch_size=30)
    assert scores["test/r2"] > 0.3


@pytest.mark.usefixtures("here")
def test_people_seen_in_pre_training_and_missing_classes_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_pretrained(Path("seen.ckpt"), subjects=["test-0", "train-0"])
    init = InitConfig(run=Path("seen.ckpt"))
    trained(Path("store"), HeadConfig(outputs=3), init=init, steps=1)
    overlap = [r.getMessage() for r in caplog.records if "SUBJECT OVERLAP" in r.getMessage()]
    assert len(overlap) == 1
    assert "pre-trained on 1 subjects that store holds out (test-0)" in overlap[0]
    caplog.clear()
    make_store(Path("two"), splits=(("train", 2), ("test", 4)), per_recording=4)
    trained(Path("two"), HeadConfig(outputs=3), steps=1)
    assert "no training window of two has class fast" in caplog.text
    assert "SUBJECT OVERLAP" not in caplog.text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init.run=absent"], "absent"),
        (["--init.scratch=true"], "init.run must name a pre-trained run, or init.scratch"),
        (["--head.outputs=5"], "head.outputs is 5, store has 3 classes (slow, middle, fast)"),
        (["--head.outputs=2"], "head.outputs is 2, store has 3 classes"),
        (["--head.task=regression"], "head.outputs is 3, store has 0 targets (none)"),
        (["--data.path=unlabelled"], "unlabelled has no labels"),
        (["--data.path=short"], "short has windows of 4 samples, shorter than model.patch 5"),
        (["--model={dim: 16}"], "model.dim 8, wanted 16"),
        (["--head.task=staging"], "head.context must be >= 2 for staging, got 1"),
        (["--data.labels=2"], "data.labels is 2, fewer than the 3 classes"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(Path("unlabelled"), labelled=False)
    make_store(Path("short"), length=4)
    assert APP.main(["finetune", "--config=finetune.yaml", *words, "--run_dir=run"]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert message in line
    assert not Path("run").exists()


def test_random_weights_follow_the_seed(tmp_path: Path) -> None:
    make_store(tmp_path, channels=("acc_x",), rate=10.0)
    module, _ = trained(tmp_path, HeadConfig(outputs=3), steps=1)
    config = module.classifier.network.config
    assert (config.channels, config.rate, config.dim) == (("acc_x",), 10.0, 8)
    again, _ = trained(tmp_path, HeadConfig(outputs=3), steps=1)
    for one, other in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert isinstance(module.classifier.network, BioFame)
