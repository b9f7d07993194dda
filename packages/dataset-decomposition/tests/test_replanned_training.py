"""Training without some steps, and with a new plan in mid-run, through the command line."""

import shutil
from pathlib import Path

import pytest

from dataset_decomposition.cli import APP
from tenfold import checkpoints
from tenfold.callbacks.metrics import read_metrics
from tenfold.testing import assert_same_weights

RECIPE = """
model: {vocab_size: 257, dim: 16, layers: 1, heads: 2}
optim: {lr: 0.01, warmup_steps: 2, decay_all: true}
data:
  path: data
  tokens_per_step: 128
  mixture: natural
  cycles: 2
  workers: 0
  prepare: {input: [text], heldout: [heldout], min_bucket: 3, max_bucket: 6}
checkpoint: {every_n_steps: 10, keep: 9}
trainer: {accelerator: cpu, max_steps: 40, val_check_interval: 20, gradient_clip_val: 1.0}
"""

RESUME = "--resume=run/checkpoints/step-000000"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with documents and a recipe."""
    for name, numbers in (("text", range(60)), ("heldout", range(60, 66))):
        (tmp_path / name).mkdir()
        for number in numbers:
            words = " ".join(f"{word * number % 97:b}" for word in range(5 + number % 40))
            (tmp_path / name / f"{number}.txt").write_text(words)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(run_dir: str, *words: str) -> int:
    return APP.main(["fit", "--config", "recipe.yaml", "--run_dir", run_dir, *words])


def test_a_run_resumed_without_steps_equals_one_that_never_had_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("whole") == 0
    skips = ["--data.skip_steps", '["12:15", "30"]']
    assert fit("straight", *skips) == 0
    assert fit("whole", *skips, "--resume=whole/checkpoints/step-00000010.ckpt") == 0
    last = checkpoints.newest(Path("whole/checkpoints"))
    assert last.name == "step-00000036.ckpt"  # 40 steps of the plan, 4 left out
    assert_same_weights(Path("straight/checkpoints"), Path("whole/checkpoints"))
    # The learning rate is that of a run of 40 steps, which has not come to its end.
    state = checkpoints.load(last)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] > 1e-4
    # The run is done, and the checkpoint remembers what was left out.
    assert fit("whole", *skips, "--resume=auto") == 2
    assert "nothing left to train" in capsys.readouterr().err
    assert fit("whole", "--resume=auto") == 2
    assert "left out steps 12:15, 30:31, which cannot be undone" in capsys.readouterr().err


def test_a_new_plan_in_mid_run_and_its_resume(folder: Path) -> None:
    assert fit("run") == 0
    words = ["--data.curriculum=uniform", "--data.seed=7", "--trainer.max_steps=50"]
    start = "--resume=run/checkpoints/step-00000020.ckpt"
    assert fit("run", *words, start) == 2  # the fingerprint check
    words.append("--data.new_plan_from_step=20")
    assert fit("run", *words, start) == 0
    assert checkpoints.newest(Path("run/checkpoints")).name == "step-00000050.ckpt"
    shutil.copytree("run", "again")
    for path in Path("again/checkpoints").glob("step-000000[45]0.ckpt"):
        checkpoints.remove(path)
    assert fit("again", *words, "--resume=auto", "--trainer.accumulate_grad_batches=1") == 0
    assert_same_weights(Path("run/checkpoints"), Path("again/checkpoints"))


def validated(run: str) -> list[int]:
    rows = read_metrics(Path(run) / "metrics.csv")
    return [int(row["step"]) for row in rows if "val/nll_per_token" in row]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_resumed_run_validates_at_the_same_steps(folder: Path, micro_batches: int) -> None:
    accumulate = f"--trainer.accumulate_grad_batches={micro_batches}"
    assert fit("run", accumulate, "--trainer.max_steps=30") == 0
    assert validated("run") == [20, 30]
    shutil.copytree("run", "again")
    assert fit("run", accumulate, "--trainer.max_steps=30", f"{RESUME}10.ckpt") == 0
    assert validated("run") == [20, 30]
    # The run that ended at 30 goes on: its interval knows no step 30, its loader has had its end.
    words = ["--trainer.max_steps=50", "--data.curriculum=uniform", "--data.repeat=reshuffle"]
    for start, steps in ((30, [20, 30, 40, 50]), (20, [20, 40, 50])):
        shutil.copytree("again", f"from{start}")
        new_plan = f"--data.new_plan_from_step={start}"
        resume = f"--resume=from{start}/checkpoints/step-000000{start}.ckpt"
        assert fit(f"from{start}", accumulate, *words, new_plan, resume) == 0
        assert validated(f"from{start}") == steps
        state = checkpoints.load(checkpoints.newest(Path(f"from{start}/checkpoints")))
        assert state["epoch"] == 0
        counted = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
        assert counted["ready"] == 50 * micro_batches


def test_an_interval_longer_than_what_is_left_validates_at_the_end(folder: Path) -> None:
    assert fit("run", "--data.skip_steps", '["30:33"]', "--trainer.val_check_interval=40") == 0
    assert validated("run") == [37]


def test_a_nan_names_the_step_to_leave_out(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--optim.lr=1e30", "--optim.warmup_steps=0", "--trainer.gradient_clip_val=null"]
    assert fit("run", *words, "--data.skip_steps+=1:3") == 1
    told = next(text for text in caplog.messages if text.startswith("optimiser step"))
    guard = next(text for text in caplog.messages if "at step" in text and "sample keys" in text)
    step = int(guard.partition(" at step ")[2].partition(";")[0])
    bucket = guard.partition("sample keys: ")[2].partition("/")[0]
    assert 1 <= step < 40
    assert f"optimiser step {step} trained step {step + 2} of the plan, bucket {bucket};" in told
    assert f"--resume auto --data.skip_steps+={step + 2}:{step + 3}" in told
