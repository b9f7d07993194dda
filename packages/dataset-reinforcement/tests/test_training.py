"""Training through the command line: resume, every mode, mistakes on one line."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_reinforcement import CLASSES, SIZE, TinyData

from dataset_reinforcement.images import open_images
from dataset_reinforcement.streaming import pack
from dataset_reinforcement.weights import read_weights
from tenfold import checkpoints
from tenfold.callbacks.metrics import read_metrics
from tenfold.cli import App, Training
from tenfold.testing import resume_equals_straight

APP = App(
    name="dataset-reinforcement",
    package="dataset_reinforcement",
    about="Training on reinforced data.",
    trainings={
        "fit": Training(
            module="dataset_reinforcement.module:ReinforcementModule",
            data="dataset_reinforcement.data:ReinforcementData",
            links=(
                ("trainer.max_steps", "optim.total_steps"),
                ("trainer.max_steps", "data.total_steps"),
                ("loss.mode", "data.mode"),
            ),
        )
    },
)

RECIPE = f"""
model: {{name: conv4, classes: {CLASSES}, image_size: {SIZE}}}
loss: {{mode: dr}}
optim: {{name: sgd, lr: 0.1, warmup_steps: 2, weight_decay: 1.0e-4}}
ema: {{momentum: 0.1}}
data:
  augment: {{size: {SIZE}, rand_augment: 1.0, erase: 0.25}}
  batch_size: 8
  eval_resize: 0
  workers: 1
checkpoint: {{every_n_steps: 4, keep: 9, monitor: val/top1, mode: max}}
trainer: {{accelerator: cpu, max_steps: 12, val_check_interval: 4, log_every_n_steps: 1}}
"""


@pytest.fixture
def words(tiny: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A recipe in an empty folder, and where its data are."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    return ["fit", "--config=recipe.yaml", f"--data.val={tiny.val}"]


def plain(tiny: TinyData) -> list[str]:
    return [f"--data.images={tiny.train}", f"--data.store={tiny.store()}"]


def kd(tiny: TinyData) -> list[str]:
    Path("kd.yaml").write_text(
        json.dumps(
            {
                "loss": {"mode": "kd", "mixup_alpha": 1.0},
                "teacher": {
                    "batch": 4,
                    "members": [
                        asdict(m) | {"checkpoint": str(m.checkpoint)} for m in tiny.teacher.members
                    ],
                },
            }
        )
    )
    return ["--config=kd.yaml", f"--data.images={tiny.train}"]


def mixing_erm(tiny: TinyData) -> list[str]:
    mode = ["--loss.mode=erm", "--loss.mixup_alpha=0.2", "--loss.cutmix_alpha=1.0"]
    return [*mode, f"--data.images={tiny.train}"]


def resolutions(tiny: TinyData) -> list[str]:
    sizes = {"low": 8, "high": 16, "scales": 3, "multiple": 4}
    return [*plain(tiny), *(f"--data.resolution.{name}={n}" for name, n in sizes.items())]


def packed(tiny: TinyData) -> list[str]:
    pack(tiny.train, tiny.store(), Path("packed"))
    return ["--data.packed=packed"]


@pytest.mark.parametrize("mode", [plain, kd, mixing_erm, resolutions, packed])
def test_resume_equals_straight(tiny: TinyData, words: list[str], mode) -> None:
    resume_equals_straight(APP, [*words, *mode(tiny)], Path(), stop=4)
    rows = read_metrics(Path("straight/metrics.csv"))
    names = {name for row in rows for name in row}
    measures = {f"val/{name}" for name in ("loss", "top1", "top5", "ece", "top1_ema")}
    assert {"train/loss", "time/images_per_s"} | measures <= names


@pytest.mark.timeout(120)  # it once counted empty epochs for ever
def test_a_finished_run_goes_on_to_more_steps(tiny: TinyData, words: list[str]) -> None:
    run = [*words, *plain(tiny), "--run_dir=run", "--data.workers=0"]
    assert APP.main([*run, "--trainer.max_steps=4"]) == 0
    assert APP.main([*run, "--trainer.max_steps=8", "--resume=auto"]) == 0
    steps = [int(row["step"]) for row in read_metrics(Path("run/metrics.csv"))]
    assert set(steps) == set(range(1, 9))


def test_a_checkpoint_is_evaluated_continued_and_refused(
    tiny: TinyData, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert APP.main([*words, *plain(tiny), "--run_dir=run"]) == 0
    chosen = ["--config=run/config.yaml", "--ckpt_path=run"]
    assert APP.main(["test", *chosen, "--out=metrics.json"]) == 0
    assert APP.main(["predict", *chosen, "--out=predicted.safetensors"]) == 0
    predicted = checkpoints.load_weights(Path("predicted.safetensors"))
    correct = predicted["probabilities"].argmax(-1) == predicted["label"]
    top1 = json.loads(Path("metrics.json").read_text())["test/top1"]
    assert top1 == pytest.approx(float(correct.float().mean()))
    names = json.loads(Path("predicted.json").read_text())
    images = open_images(tiny.val)
    assert names["classes"] == [f"class-{label}" for label in range(CLASSES)]
    assert names["keys"] == [images.key(index) for index in range(11)]
    path = checkpoints.newest(Path("run/checkpoints"))
    saved = read_weights(path, ema=True)
    assert saved.keys() == read_weights(path).keys()
    assert not torch.equal(saved["head.weight"], read_weights(path)["head.weight"])
    tuned = [f"--model.init_from={path}", "--optim.lr=0.002", "--run_dir=tuned"]
    assert APP.main([*words, *plain(tiny), *tuned, "--ema.momentum=0"]) == 0
    capsys.readouterr()
    other = ["--data.batch_size=4", "--run_dir=run", "--resume=auto", "--trainer.max_steps=16"]
    assert APP.main([*words, *plain(tiny), *other]) == 2
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model.classes=6"], "model.classes is 6, the data has 5 classes"),
        (["--loss.mode=kd"], "teacher.members must name at least one network for loss.mode kd"),
        (["--model.image_size=16"], "model.image_size is 16, data.augment.size is 12: give both"),
        (["--loss.mixup_alpha=0.2"], "loss.mixup_alpha must be 0 for dr"),
        (["--data.views=9"], "num_views must lie in 1..3"),
        (["--data.store=absent"], "absent"),
        (["--model.name=resnet5O"], "no model 'resnet5O'"),
    ],
)
def test_a_mistake_is_one_line(
    tiny: TinyData,
    words: list[str],
    extra: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert APP.main([*words, *plain(tiny), *extra, "--run_dir=run"]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert message in line
    assert not Path("run").exists()
