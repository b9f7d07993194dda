"""Both trainings through the command line: resume, every mode, mistakes on one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_files import CLASSES, damage, make_features, make_images

from fastfill.card import PROBE_ITEMS, check_probe
from fastfill.cli import APP
from fastfill.demo_data import DEMOS
from fastfill.feature_cache import read_cache
from fastfill.transform import transform_all
from fastfill.weights import load_backbone, load_transformation
from tenfold import checkpoints
from tenfold.callbacks.metrics import read_metrics
from tenfold.testing import resume_equals_straight

FIT = """
model: {inner: 8}
optim: {name: adam, lr: 0.01, warmup_steps: 2, hold_steps: 2, decay_all: true, weight_decay: 1.0e-4}
data: {path: features, batch_size: 8}
checkpoint: {every_n_steps: 4, keep: 9, monitor: val/map, mode: max}
trainer: {accelerator: cpu, max_steps: 12, val_check_interval: 4, log_every_n_steps: 1}
"""

FIT_BACKBONE = """
model: {arch: tiny_mlp, dim: 4, num_classes: 10}
optim: {name: sgd, lr: 0.1, warmup_steps: 2}
data: {path: "digits:train", val: "digits:test:0-2", augment: flip, batch_size: 32}
checkpoint: {every_n_steps: 4, keep: 9, monitor: val/map, mode: max}
trainer: {accelerator: cpu, max_steps: 8, val_check_interval: 4, log_every_n_steps: 1}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recipes and features."""
    monkeypatch.chdir(tmp_path)
    Path("fit.yaml").write_text(FIT)
    Path("backbone.yaml").write_text(FIT_BACKBONE)
    make_features(Path("features"), items=26, side=True)
    make_features(Path("held-out"), items=13, views=1, seed=1, side=True)
    return tmp_path


def names_of(run: str) -> set[str]:
    return {name for row in read_metrics(Path(run) / "metrics.csv") for name in row}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "more",
    [
        ["--data.val=held-out"],
        ["--trainer.accumulate_grad_batches=2", "--loss.uncertainty=false"],
    ],
)
def test_resume_equals_straight(more: list[str]) -> None:
    """26 items in batches of 8 and three views: the cut is inside an epoch, views differ."""
    resume_equals_straight(APP, ["fit", "--config=fit.yaml", *more], Path(), stop=4)
    assert {"train/loss", "train/loss_disc", "val/map", "time/pairs_per_s"} <= names_of("straight")


@pytest.mark.usefixtures("here")
def test_a_resume_after_the_switch_equals_straight() -> None:
    words = ["fit", "--config=fit.yaml", "--data.val=held-out"]
    resume_equals_straight(APP, words, Path(), stop=8)
    states = [
        checkpoints.load(path)["state_dict"]
        for path in sorted(Path("straight/checkpoints").glob("step-*.ckpt"))[1:]
    ]
    statistics = [name for name in states[0] if name.endswith(("running_mean", "running_var"))]
    assert len(states) == 2
    assert len(statistics) == 12
    early = checkpoints.load(Path("straight/checkpoints/step-00000004.ckpt"))["state_dict"]
    for name in statistics:
        assert torch.equal(states[0][name], states[1][name])
        assert not torch.equal(early[name], states[0][name])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("method", ["plain", "bct", "ract"])
def test_a_backbone_resumes_as_if_nothing_had_been(method: str) -> None:
    words = ["fit-backbone", "--config=backbone.yaml"]
    if method != "plain":
        old = ["--data.classes=3", "--run_dir=old", "--trainer.max_steps=4"]
        assert APP.main([*words, *old]) == 0
        words += [f"--compat.method={method}", "--compat.old=old", "--compat.old_classes=3"]
    resume_equals_straight(APP, words, Path(), stop=4)
    measures = {"train/loss", "train/loss_classes", "val/map", "val/accuracy", "val/loss"}
    assert measures | ({"train/loss_compat"} if method != "plain" else set()) <= names_of(
        "straight"
    )


@pytest.mark.usefixtures("here")
def test_a_map_is_evaluated_loaded_and_continued() -> None:
    run = ["fit", "--config=fit.yaml", "--data.val=held-out", "--run_dir=run"]
    assert APP.main(run) == 0
    for verb in ("validate", "test"):
        assert APP.main([verb, "--ckpt_path=run", f"--out={verb}.json"]) == 0
    validated, tested = (json.loads(Path(f"{v}.json").read_text()) for v in ("validate", "test"))
    assert validated["val/map"] == tested["test/map"]
    (last,) = (
        row
        for row in read_metrics(Path("run/metrics.csv"))
        if row.get("step") == 12 and "val/map" in row
    )
    assert validated["val/map"] == pytest.approx(last["val/map"])
    assert APP.main(["predict", "--ckpt_path=run", "--out=predicted.safetensors"]) == 0
    predicted = checkpoints.load_weights(Path("predicted.safetensors"))
    h, card = load_transformation(Path("run"))
    trained, held_out = (read_cache(Path(name)) for name in ("features", "held-out"))
    assert (card.old, card.new, card.side) == trained.cards
    assert card.probe is not None
    check_probe(card.probe, trained.old()[:PROBE_ITEMS], what="old")
    z, s = transform_all(h, held_out.old(), held_out.side())
    assert np.allclose(predicted["z"].numpy(), z, atol=1e-6)
    assert np.allclose(predicted["s"].numpy(), s, atol=1e-6)
    keys = json.loads(Path("predicted.json").read_text())["keys"]
    assert keys == list(held_out.ids)
    again = ["--model.init_from=run", "--trainer.max_steps=1", "--run_dir=tuned"]
    assert APP.main([*run[:-1], *again, "--optim.warmup_steps=0", "--optim.lr=1e-9"]) == 0
    tuned, _ = load_transformation(Path("tuned"))
    for one, other in zip(h.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("here")
def test_a_backbone_is_evaluated_and_loaded() -> None:
    assert APP.main(["fit-backbone", "--config=backbone.yaml", "--run_dir=run"]) == 0
    backbone, card = load_backbone(Path("run"))
    assert (card.dim, card.num_classes, backbone.config.arch) == (4, 10, "tiny_mlp")
    chosen = ["--training=fit-backbone", "--ckpt_path=run"]
    assert APP.main(["test", *chosen, "--out=metrics.json"]) == 0
    assert APP.main(["predict", *chosen, "--out=predicted.safetensors"]) == 0
    predicted = checkpoints.load_weights(Path("predicted.safetensors"))
    guesses = backbone.head(predicted["embedding"]).argmax(dim=1)
    right = float((guesses == predicted["label"]).float().mean())
    assert json.loads(Path("metrics.json").read_text())["test/accuracy"] == pytest.approx(right)
    keys = json.loads(Path("predicted.json").read_text())["keys"]
    assert len(keys) == len(predicted["label"])
    assert all(key.startswith("digit-") for key in keys)


@pytest.mark.usefixtures("here")
def test_dry_runs_make_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, recipe in (("fit", "fit.yaml"), ("fit-backbone", "backbone.yaml")):
        assert APP.main([verb, f"--config={recipe}", "--dry_run"]) == 0
        assert f"one batch of fastfill {verb} ran" in capsys.readouterr().out
    assert not Path("runs").exists()


@pytest.mark.usefixtures("here")
def test_a_recipe_makes_its_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEMOS, "digits", replace(DEMOS["digits"], old_steps=5, steps=5))
    words = ["fit", "--config=tiny_cpu", "--trainer.max_steps=20", "--optim.warmup_steps=2"]
    assert APP.main([*words, "--run_dir=run"]) == 0
    assert {"val/map", "val/spearman"} <= names_of("run")


@pytest.mark.usefixtures("here")
def test_a_run_on_too_many_corrupt_images_ends(capsys: pytest.CaptureFixture[str]) -> None:
    damage(make_images(Path("images"), classes=2), "class-0/00.png", "class-1/00.png")
    words = ["fit-backbone", "--config=backbone.yaml", "--data.path=images", "--data.val=null"]
    words += ["--data.batch_size=8", "--model.num_classes=2"]
    assert APP.main([*words, "--run_dir=loose", "--data.max_bad_fraction=0.2"]) == 0
    assert (Path("loose") / "log.txt").read_text().count("left out: original 'class-0/00.png'") == 1
    capsys.readouterr()
    assert APP.main([*words, "--run_dir=strict", "--data.max_bad_fraction=0.1"]) == 2
    assert "images could not be read, more than data.max_bad_fraction" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--data.path=absent"], "absent"),
        (["fit", "--data.batch_size=99"], "data.batch_size must lie in 2..26"),
        (["fit", "--model.inner=0"], "model.inner must be >= 1, got 0"),
        (["fit", "--model.eval_from=2"], "model.eval_from must lie in 0..1, got 2"),
        (["fit", "--loss.mu_sim=0", "--loss.mu_disc=0"], "nothing would be trained"),
        (["fit", "--model.init_from=absent"], "absent"),
        (["fit", "--optim.warmup_steps=3"], "optim.warmup_steps must be a multiple of hold_steps"),
        (["fit-backbone", "--model.arch=resnet5O"], "model.arch must be one of resnet18"),
        (["fit-backbone", "--compat.method=bct"], "compat.old must name the old backbone"),
        (["fit-backbone", "--compat.method=ract", "--compat.old=absent"], "absent"),
        (["fit-backbone", "--model.num_classes=9"], "model.num_classes is 9"),
        (["fit-backbone", "--data.path=absent"], "absent does not exist"),
        (["fit-backbone", "--data.path=digits:train:0-99"], "must be two classes"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *more = words
    recipe = "fit.yaml" if verb == "fit" else "backbone.yaml"
    assert APP.main([verb, f"--config={recipe}", *more, "--run_dir=run"]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert message in line
    assert not Path("run").exists()


@pytest.mark.usefixtures("here")
def test_a_head_of_too_few_rows_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    make_features(Path("more"), labelled=False)
    assert APP.main(["fit", "--config=fit.yaml", "--data.path=more", "--run_dir=run"]) == 2
    assert f"labels must be rows of the new head, 0..{CLASSES - 1}" in capsys.readouterr().err
