"""Lightning's verbs on the toy member: run folder, resume, signals, NaN, evaluation."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tenfold import checkpoints
from tenfold.callbacks.metrics import read_metrics
from tenfold.cli import App
from tenfold.testing import assert_same_weights, resume_equals_straight

FIT = ["fit", "--config", "tiny_cpu"]


@pytest.fixture
def app(toy: Path) -> App:
    from toy_member.cli import APP

    return APP


def fit(app: App, run_dir: str, *words: str) -> int:
    return app.main([*FIT, "--run_dir", run_dir, *words])


def test_a_run_folder_holds_all_that_repeats_it(app: App) -> None:
    assert app.main(FIT) == 0
    (run,) = Path("runs/tiny_cpu").iterdir()
    names = {path.name for path in run.iterdir()}
    wanted = {"config.yaml", "environment.json", "metrics.csv", "log.txt", "loss.png"}
    assert names == {*wanted, "checkpoints"}
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"]
    steps = sorted(path.stem for path in (run / "checkpoints").glob("*.ckpt"))
    assert steps[1:] == ["step-00000015", "step-00000020"]
    assert steps[0].startswith("best-")
    assert app.main(["fit", "--config", str(run / "config.yaml"), "--run_dir", "again"]) == 0
    assert_same_weights(run / "checkpoints", Path("again/checkpoints"))


def test_a_used_run_folder_is_refused(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(app, "run", "--trainer.max_steps", "2") == 0
    assert fit(app, "run") == 2
    assert "run folder run is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("accumulate", [1, 3])
def test_resume_equals_straight(app: App, accumulate: int) -> None:
    words = [*FIT, f"--trainer.accumulate_grad_batches={accumulate}", "--checkpoint.keep=9"]
    resume_equals_straight(app, words, Path(), stop=5)
    steps = [row["step"] for row in read_metrics(Path("resumed/metrics.csv"))]
    assert steps == sorted(steps)


def test_resume_falls_back_past_damaged_files_and_says_so(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert fit(app, "straight", "--checkpoint.keep=9") == 0
    assert fit(app, "damaged", "--checkpoint.keep=9") == 0
    folder = Path("damaged/checkpoints")
    newest, altered, unfinished = (folder / f"step-000000{n}.ckpt" for n in (20, 15, 10))
    newest.write_bytes(newest.read_bytes()[:-100])
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    checkpoints.manifest_path(unfinished).unlink()
    assert fit(app, "damaged", "--resume", "auto") == 0
    for path, reason in ((newest, "truncated"), (altered, "altered"), (unfinished, "no manifest")):
        assert any(str(path) in line and reason in line for line in caplog.messages)
    assert any("resuming from damaged/checkpoints/step-00000005.ckpt" in m for m in caplog.messages)
    assert_same_weights(Path("straight/checkpoints"), folder)


def test_resume_never_starts_over_unasked(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([*FIT, "--resume", "auto"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert fit(app, "run", "--trainer.max_steps=2") == 0
    for path in Path("run/checkpoints").glob("*.ckpt"):
        path.write_bytes(b"nothing")
    assert fit(app, "run", "--resume", "auto") == 2
    assert "none of 1 checkpoints verifies" in capsys.readouterr().err
    assert app.main([*FIT, "--resume", "if_any", "--trainer.max_steps=2"]) == 0


def test_resume_says_which_options_changed(
    app: App, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(app, "run", "--trainer.max_steps=5") == 0
    assert fit(app, "run", "--trainer.max_steps=6", "--resume=auto", "--optim.lr=0.01") == 2
    assert "optim.lr is 0.01, the interrupted run has 0.05" in capsys.readouterr().err
    assert fit(app, "run", "--trainer.max_steps=6", "--resume=auto") == 0
    assert "resuming with trainer.max_steps = 6 (was 5)" in caplog.messages


def test_a_finished_run_is_not_trained_again_in_silence(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [*FIT, "--trainer.max_steps=2"]
    assert app.main(short) == 0
    assert app.main([*short, "--resume=auto"]) == 2
    assert "nothing left to train" in capsys.readouterr().err
    assert app.main([*short, "--resume=if_any"]) == 0
    assert len(list(Path("runs/tiny_cpu").iterdir())) == 2


def test_if_any_starts_in_a_folder_whose_run_died_early(app: App) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/log.txt").write_text("killed in the first step")
    assert fit(app, "run", "--resume=if_any", "--trainer.max_steps=2") == 0


def test_an_older_checkpoint_starts_a_branch_of_its_own(app: App) -> None:
    assert fit(app, "run", "--checkpoint.keep=9") == 0
    words = ["--resume=run/checkpoints/step-00000005.ckpt", "--trainer.max_steps=7"]
    assert app.main([*FIT, *words]) == 0
    assert [path.stem for path in sorted(Path("run/checkpoints").glob("step-*.ckpt"))] == [
        "step-00000005",
        "step-00000007",
    ]
    aside = {path.name for path in Path("run/checkpoints/superseded").glob("step-*.ckpt")}
    assert aside == {f"step-000000{step}.ckpt" for step in (10, 15, 20)}


def test_resume_with_other_micro_batches_takes_the_steps_that_are_left(app: App) -> None:
    assert fit(app, "run", "--trainer.accumulate_grad_batches=4", "--trainer.max_steps=6") == 0
    words = ["--trainer.accumulate_grad_batches=2", "--trainer.max_steps=20", "--resume=auto"]
    assert fit(app, "run", *words) == 0
    state = checkpoints.load(checkpoints.newest(Path("run/checkpoints")))
    progress = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert state["global_step"] == 20
    assert progress["ready"] == 40


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_made_longer_validates_where_it_ended_and_at_its_interval(
    app: App, accumulate: int
) -> None:
    words = [f"--trainer.accumulate_grad_batches={accumulate}"]
    assert fit(app, "run", *words, "--trainer.max_steps=13") == 0
    (before,) = (row for row in validations("run") if row["step"] == 13)
    assert fit(app, "run", *words, "--trainer.max_steps=25", "--resume=auto") == 0
    after = validations("run")
    assert [row["step"] for row in after] == [10, 13, 20, 25]
    assert after[1]["val/error"] == before["val/error"]  # of the checkpoint's weights
    steps = [row["step"] for row in read_metrics(Path("run/metrics.csv"))]
    assert steps == sorted(steps)


@pytest.mark.parametrize(("interval", "expected"), [(30, [20, 30]), (100, [20, 30]), (7, None)])
def test_a_longer_run_over_data_of_what_is_left_keeps_its_interval(
    app: App, monkeypatch: pytest.MonkeyPatch, interval: int, expected: list[int] | None
) -> None:
    from toy_member.data import Points

    monkeypatch.setattr(Points, "__len__", lambda self: self.end - self.start)
    words = [f"--trainer.val_check_interval={interval}"]
    assert fit(app, "run", *words, "--data.batches=20") == 0
    words += ["--data.batches=30", "--trainer.max_steps=30", "--resume=auto"]
    assert fit(app, "run", *words) == 0
    assert [row["step"] for row in validations("run")] == (expected or [7, 14, 20, 21, 28, 30])


def validations(run: str) -> list[dict[str, float]]:
    return [row for row in read_metrics(Path(run) / "metrics.csv") if "val/error" in row]


def test_the_last_step_is_validated_and_the_best_survives_a_resume(app: App) -> None:
    words = [*FIT, "--trainer.max_steps=13", "--checkpoint.keep=9"]
    resume_equals_straight(app, words, Path(), stop=10)
    assert [row["step"] for row in validations("resumed")] == [10, 13]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_printed_command_goes_on(
    app: App, toy: Path, signum: int, code: int
) -> None:
    assert fit(app, "straight") == 0
    call = [sys.executable, "-m", "toy_member.cli", *FIT, "--run_dir=stopped", "--data.pause=0.2"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    while not list(Path("stopped/checkpoints").glob("step-*5.json")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "20/20" not in errors
    command = re.search(r"go on with:\n +(\S.*)", errors)
    assert command is not None, errors
    words = command[1].split()
    assert words[0] == "toy-member"
    assert app.main([*words[1:], "--data.pause=0"]) == 0
    assert_same_weights(Path("straight/checkpoints"), Path("stopped/checkpoints"))


def test_nan_stops_before_the_weights_and_names_the_samples(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit(app, "run", "--model.nan_at=7") == 1
    (message,) = [m for m in caplog.messages if "gradient is nan" in m]
    assert "at step 7; train/loss=nan, train/loss_square=nan" in message
    assert "batch-7/0, batch-7/1" in message
    capture = torch.load("run/nan-step-7-rank-0.pt", weights_only=True)
    assert capture["micro_batches"][0]["batch"]["keys"][0] == "batch-7/0"
    newest = checkpoints.load(checkpoints.newest(Path("run/checkpoints")))
    assert newest["global_step"] == 5
    assert all(torch.isfinite(value).all() for value in newest["state_dict"].values())


def test_dry_run_shows_sizes_and_writes_nothing(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([*FIT, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"all +│ 17 +│ 17", out)
    assert "optimiser state" in out
    assert not list(Path().iterdir())


def test_evaluation_needs_a_checkpoint_and_uses_it(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(app, "run") == 0
    assert app.main(["validate", "--config", "tiny_cpu"]) == 2
    assert "--ckpt_path must be given" in capsys.readouterr().err
    words = ["--ckpt_path", "run"]
    assert app.main(["validate", *words, "--out", "metrics.json"]) == 0
    rows = [row for row in read_metrics(Path("run/metrics.csv")) if "val/error" in row]
    assert json.loads(Path("metrics.json").read_text())["val/error"] == pytest.approx(
        rows[-1]["val/error"]
    )
    assert app.main(["test", *words, "--training", "pretrain"]) == 0
    assert "test/error" in capsys.readouterr().out
    assert app.main(["predict", *words, "--out", "predictions.safetensors"]) == 0
    assert checkpoints.load_weights(Path("predictions.safetensors"))["y"].shape == (16, 1)
    names = json.loads(Path("predictions.json").read_text())
    assert names["target"] == "sum"
    assert [names["keys"][n] for n in (0, 15)] == ["batch-5000/0", "batch-5001/7"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validate", "--ckpt_path", "nope"], "--ckpt_path nope does not exist: name a checkpoint"),
        (["test", "--ckpt_path=nope", "--config", "tiny_cpu"], "--ckpt_path nope does not exist"),
        (["validate", "--ckpt_path", "empty"], "there is no step-*.ckpt in empty"),
        (["predict", "--ckpt_path", "empty"], "--out must be given"),
        (
            ["predict", "--ckpt_path", "empty", "--out", "p.csv"],
            "--out must end with .safetensors, got p.csv",
        ),
    ],
)
def test_a_mistaken_evaluation_is_one_line(
    app: App, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("empty").mkdir()
    assert app.main(words) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        (
            "modle: {dim: 3}",
            [],
            "bad.yaml: Option 'modle.dim' is not accepted; did you mean model.dim?",
        ),
        (
            "data: {bacthes: 3}",
            [],
            "bad.yaml: Group 'data' does not accept option 'bacthes'; did you mean batches?",
        ),
        (
            "trainer: {callbacks: {class_path: Timer, init_args: {duratoin: 1}}}",
            [],
            "Option 'duratoin' is not accepted; did you mean duration?",
        ),
        ("batches: 3", [], "Option 'batches' is not accepted; did you mean data.batches?"),
        ("", ["--data.bacthes", "3"], "arguments: --data.bacthes 3; did you mean --data.batches?"),
        ("model: {dim: wide}", [], "bad.yaml: Parser key \"model.dim\": Expected a <class 'int'>"),
        ("model: {dim: [", [], "bad.yaml: Problems parsing config"),
        ("model: {dim: 0}", [], "model.dim must be >= 1, got 0"),
        ("optim: {lr: -1}", [], "optim.lr must be > 0, got -1"),
        ("trainer: {max_steps: -1}", [], "trainer.max_steps must be >= 1, got -1"),
        ("checkpoint: {keep: 1}", [], "checkpoint.keep must be >= 2, got 1"),
        ("checkpoint: {monitor: val/no}", [], "checkpoint.monitor 'val/no' is not logged"),
        ("", ["--config", "none.yaml"], "no such recipe: none.yaml"),
        ("", ["--config", "tiny_cpuu"], "recipes lists; nearest: tiny_cpu)"),
        ("", ["--no.such", "1"], "unrecognized arguments: --no.such"),
        ("", ["--run_dir", "/proc/nowhere"], "/proc/nowhere"),
        ("", ["--resume", "none.ckpt"], "no such checkpoint: none.ckpt"),
        ("", ["--resume", "best-1.ckpt"], "cannot resume from best-1.ckpt"),
    ],
)
def test_bad_input(
    app: App, capsys: pytest.CaptureFixture[str], recipe: str, words: list[str], message: str
) -> None:
    Path("bad.yaml").write_text(recipe or "model: {dim: 4}")
    assert app.main([*FIT, "--config", "bad.yaml", *words]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert message in line


def test_help_shows_our_options_and_few_of_the_trainers(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["fit", "--help"]) == 0
    short = capsys.readouterr().out
    assert short.index("--model.dim") < short.index("--trainer.max_steps")
    assert "--trainer.sync_batchnorm" not in short
    assert app.main(["fit", "--trainer.help"]) == 0
    assert "--trainer.sync_batchnorm" in capsys.readouterr().out


def test_two_ranks_share_one_run_folder(toy: Path) -> None:
    call = [sys.executable, "-m", "toy_member.cli", *FIT, "--run_dir", "run"]
    call += ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert checkpoints.verify(checkpoints.newest(Path("run/checkpoints")))["step"] == 6
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["devices"] == "2"
