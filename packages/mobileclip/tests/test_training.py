"""The tiny recipe through the command line: train, resume, measure, reproduce."""

import json
from pathlib import Path

import pytest

from mobileclip.cli import APP
from tenfold.results import load_result
from tenfold.testing import resume_equals_straight

FIT = ["fit", "--config", "tiny_cpu", "--checkpoint.every_n_steps=4", "--checkpoint.keep=9"]
SHORT = [*FIT, "--trainer.max_steps=12", "--trainer.val_check_interval=4"]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_resume_equals_straight() -> None:
    resume_equals_straight(APP, SHORT, Path(), stop=4)


def test_the_tiny_recipe_learns_and_is_measured() -> None:
    assert APP.main(["fit", "--config", "tiny_cpu", "--run_dir=run"]) == 0
    words = ["--config", "run/config.yaml", "--ckpt_path=run"]
    assert APP.main(["test", *words, "--out=metrics.json"]) == 0
    assert json.loads(Path("metrics.json").read_text())["test/accuracy"] > 0.9
    assert APP.main(["predict", *words, "--out=predictions.safetensors"]) == 0
    assert Path("predictions.safetensors").is_file()


def test_every_recipe_builds(capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in APP.recipes_dir().glob("*.yaml"):
        words = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--data.batch_size=8"]
        assert APP.main(["fit", "--config", recipe.stem, "--dry_run", *words]) == 0
    assert "no run folder was made" in capsys.readouterr().out


def test_reproduce_writes_a_result() -> None:
    code = APP.main(["reproduce", "--seeds", "1", "--out", "results"])
    result = load_result(Path("results/hidden_layer_tiny.json"))
    assert code == (0 if result.holds else 1)
    assert [row.spread for row in result.rows] == [0.0, 0.0]
    assert Path("results/hidden_layer_tiny.png").is_file()
