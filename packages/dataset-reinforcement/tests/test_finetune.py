"""The verb `finetune`: what it starts from, and that it needs it."""

from pathlib import Path

import pytest
import torch
from tiny_reinforcement import CLASSES, SIZE, TinyData

from dataset_reinforcement.cli import APP
from dataset_reinforcement.model import build_model
from dataset_reinforcement.weights import read_weights
from tenfold import checkpoints

RECIPE = f"""
model: {{name: conv4, classes: {CLASSES}, image_size: {SIZE}}}
data: {{augment: {{size: {SIZE}}}, batch_size: 8, eval_resize: 0, workers: 0}}
trainer: {{accelerator: cpu, max_steps: 2, log_every_n_steps: 1}}
"""
BODY, HEAD = "stages.0.first.0.weight", "head.weight"


@pytest.fixture
def words(tiny: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A recipe on stored labels in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    data = {"val": tiny.val, "images": tiny.train, "store": tiny.store()}
    return ["--config=recipe.yaml", *(f"--data.{name}={path}" for name, path in data.items())]


def newest(run: str) -> dict[str, torch.Tensor]:
    return read_weights(Path(run))


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert APP.main(words) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    return line


def test_without_weights_it_ends_before_any_data(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    absent = ["--data.images=absent", "--data.val=absent", "--run_dir=run"]
    line = error_of(["finetune", *words, *absent], capsys)
    assert "model.init_from must name what finetune starts from" in line
    assert not Path("run").exists()


def test_weights_that_do_not_exist_or_fit_are_named(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["finetune", *words, "--run_dir=run"]
    line = error_of([*start, "--model.init_from=nowhere.ckpt"], capsys)
    assert "model.init_from nowhere.ckpt does not exist" in line
    Path("empty").mkdir()
    assert "no step-*.ckpt in empty" in error_of([*start, "--model.init_from=empty"], capsys)
    other = build_model("conv8", num_classes=3, image_size=SIZE)
    checkpoints.save_weights(Path("w.safetensors"), other.state_dict(), {})
    line = error_of([*start, "--model.init_from=w.safetensors"], capsys)
    assert "model.init_from w.safetensors does not fit the model" in line


def test_it_starts_from_a_run_of_fit_and_is_evaluated(
    words: list[str], tiny: TinyData, capsys: pytest.CaptureFixture[str]
) -> None:
    sgd = ["--optim.name=sgd", "--optim.lr=0.1"]
    assert APP.main(["fit", *words, *sgd, "--run_dir=body"]) == 0
    still = ["--model.init_from=body", "--optim.lr=1e-12", "--run_dir=tuned"]
    assert APP.main(["finetune", *words, *still]) == 0
    body, tuned = newest("body"), newest("tuned")
    torch.testing.assert_close(tuned[BODY], body[BODY])
    assert (tuned[HEAD] - body[HEAD]).abs().max() > 0.01  # new, and not from the same seed's step
    for choice in ([], ["--training=finetune"]):
        assert APP.main(["validate", "--ckpt_path=tuned", *choice]) == 0
    assert "val/top1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["timm.pth", "timm.safetensors"])
def test_it_starts_from_a_file_of_weights(words: list[str], name: str) -> None:
    saved = build_model("conv4", num_classes=1000, image_size=SIZE).state_dict()
    if name.endswith("pth"):
        torch.save({"state_dict": saved}, name)
    else:
        checkpoints.save_weights(Path(name), saved, {})
    start = [f"--model.init_from={name}", "--optim.lr=1e-12", "--trainer.max_steps=1"]
    assert APP.main(["finetune", *words, *start, "--run_dir=run"]) == 0
    tuned = newest("run")
    torch.testing.assert_close(tuned[BODY], saved[BODY])
    assert tuned[HEAD].shape[0] == CLASSES
