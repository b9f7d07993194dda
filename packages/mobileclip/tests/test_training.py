"""Training through the command line: every mode, exact resume, mistakes on one line."""

import json
from pathlib import Path

import pytest
import torch
from published_shards import make_sample, write_folder

from mobileclip.checkpoint import load_model
from mobileclip.cli import APP
from mobileclip.models.clip import build_model
from mobileclip.models.keymap import save_weights
from tenfold import checkpoints
from tenfold.callbacks.metrics import read_metrics
from tenfold.testing import resume_equals_straight

RECIPE = """
model: {name: tiny}
loss: {mode: dr, distill_weight: 0.75}
optim: {lr: 1.0e-3, warmup_steps: 1, weight_decay: 0.2}
ema: {momentum: 0.1}
data: {batch_size: 4, eval_batch_size: 5, workers: 0}
checkpoint: {every_n_steps: 2, keep: 9, monitor: val/image_to_text_r1_ema, mode: max}
trainer: {accelerator: cpu, max_steps: 4, val_check_interval: 2, log_every_n_steps: 1}
"""

ONLINE = """
loss: {mode: online}
teachers: {members: [{model: "mobileclip:teacher.safetensors", logit_scale: 50.0}]}
"""

WAYS = {
    "dr": ["--loss.micro_batch=3", "--loss.column_chunk=2", "--loss.captions=mix"],
    "clip": ["--loss.mode=clip", "--range_augment.start_psnr=35"],
    "online": ["--config=online.yaml"],
}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A recipe in an empty folder, its data, and a teacher."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    Path("online.yaml").write_text(ONLINE)
    samples = [make_sample(number) for number in range(14)]
    write_folder(Path("train"), [samples[:5], samples[5:9]])
    write_folder(Path("val"), [samples[9:]])
    torch.manual_seed(0)
    save_weights(build_model("tiny"), Path("teacher.safetensors"), layout="ours")
    return ["fit", "--config=recipe.yaml", "--data.shards=train", "--data.val=val"]


@pytest.mark.parametrize("way", WAYS)
def test_resume_equals_straight(words: list[str], way: str) -> None:
    resume_equals_straight(APP, [*words, *WAYS[way]], Path(), stop=2)
    rows = read_metrics(Path("straight/metrics.csv"))
    names = {name for row in rows for name in row}
    measures = {"loss", "image_to_text_r1", "text_to_image_r1"}
    expected = {f"val/{name}{ending}" for name in measures for ending in ("", "_ema")}
    expected |= {"train/loss", "train/loss_clip", "train/logit_scale", "time/pairs_per_s"}
    if way != "clip":
        expected |= {"train/loss_distill_ce", "train/loss_distill_kl"}
    assert expected <= names
    first = load_model(Path("straight"))
    assert first.name == "tiny"
    state = checkpoints.load(checkpoints.newest(Path("straight/checkpoints")))["state_dict"]
    assert ("range_augment.noise.raw_ends" in state) == (way == "clip")
    name = "text_tower.token_embedding.weight"
    assert torch.equal(first.state_dict()[name], state[f"ema.module.{name}"])
    assert not torch.equal(first.state_dict()[name], state[f"network.{name}"])


def test_a_run_starts_from_weights(words: list[str]) -> None:
    start = ["--model.init_from=teacher.safetensors", "--optim.lr=1e-12", "--run_dir=run"]
    assert APP.main([*words, *start, "--trainer.max_steps=1", "--optim.warmup_steps=0"]) == 0
    given = load_model(Path("teacher.safetensors")).state_dict()
    for ema in (True, False):
        found = load_model(Path("run"), ema=ema).state_dict()
        name = "text_tower.token_embedding.weight"
        torch.testing.assert_close(found[name], given[name], rtol=0, atol=1e-9)


def test_a_finished_run_is_prolonged_by_less_than_its_interval(words: list[str]) -> None:
    words = [*words, "--run_dir=run", "--trainer.val_check_interval=3", "--checkpoint.monitor="]
    assert APP.main([*words, "--trainer.max_steps=2"]) == 0
    assert APP.main([*words, "--trainer.max_steps=4", "--resume=auto"]) == 0
    rows = read_metrics(Path("run/metrics.csv"))
    assert [row["step"] for row in rows if "val/image_to_text_r1" in row] == [2, 3, 4]


@pytest.mark.parametrize("mode", ["dr", "clip"])
def test_data_without_the_synthetic_captions_asked_for(
    words: list[str], mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("train/reinforcement.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_captions": 0}))
    words = [*words, f"--loss.mode={mode}", "--run_dir=run"]
    assert APP.main(words) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert "train has no synthetic captions by its reinforcement.json, which" in line
    assert "give loss.captions=real" in line
    assert not Path("train/quarantine.jsonl").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_pairs(
    words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert APP.main([*words, "--optim.lr=1e30", "--run_dir=run"]) == 1
    (message,) = [
        r.message for r in caplog.records if "not finite" in r.message or "gradient is" in r.message
    ]
    listed = message.partition("sample keys: ")[2].partition(";")[0].split(", ")
    assert len(listed) == 4
    assert {*listed} <= {f"{number:032x}" for number in range(9)}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model.name=s3"], "model.name must be one of s0, s1, s2, b, tiny, got s3"),
        (["--loss.mode=online"], "teachers must be given for loss.mode online alone"),
        (["--loss.teacher_scales=[1,2,3]"], "one value or one a teacher (2), got 3"),
        (["--data.teacher_dims=[768,768]"], "data.teacher_dims is [768, 768]"),
        (["--model.init_from=absent.pt"], "there are no weights at absent.pt"),
        (["--loss.distill_weight=1.5"], "loss.distill_weight must lie in 0..1, got 1.5"),
        (["--optim.constant_steps=-1"], "optim.constant_steps must be >= 0, got -1"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert APP.main([*words, *extra, "--run_dir=run"]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert message in line
    assert not Path("run").exists()
    assert json.loads(Path("train/reinforcement.json").read_text())["num_views"] == 4
