"""Training through the command line: recipes, resume after both signals, checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dataset_decomposition.cli import APP
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.data import DecompositionData
from dataset_decomposition.module import DecompositionModule, load_decoder
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
  workers: 1
  prepare: {input: [text], heldout: [heldout], min_bucket: 3, max_bucket: 6}
checkpoint: {every_n_steps: 10, monitor: val/nll_per_token}
trainer: {accelerator: cpu, max_steps: 40, val_check_interval: 20, gradient_clip_val: 1.0}
"""


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


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_with_the_same_weights(folder: Path, signum: int) -> None:
    script = Path(sys.executable).with_name("dataset-decomposition")
    call = [script, "fit", "--config", "recipe.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*call, "--run_dir", "stopped"], env=environment) as process:
        while not list(Path("stopped/checkpoints").glob("step-*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signum)
    assert process.returncode == (143 if signum == signal.SIGTERM else -signum)
    assert fit("stopped", "--resume", "auto") == 0
    assert fit("straight") == 0
    assert_same_weights(Path("straight/checkpoints"), Path("stopped/checkpoints"))


def test_training_lowers_the_heldout_loss_and_writes_every_metric(folder: Path) -> None:
    words = ["--trainer.max_steps=60", "--data.repeat=reshuffle"]
    assert fit("run", "--trainer.val_check_interval=10", *words) == 0
    rows = read_metrics(Path("run/metrics.csv"))
    losses = [row["val/nll_per_token"] for row in rows if "val/nll_per_token" in row]
    assert losses[-1] < losses[0] - 0.2
    names = {name for row in rows for name in row}
    assert {"train/loss", "train/loss_nll", "train/loss_z", "time/tokens_per_s"} <= names
    for row in rows:
        if "train/loss" in row:
            expected = row["train/loss_nll"] + 1e-4 * row["train/loss_z"]
            assert row["train/loss"] == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_holds_all_that_its_model_needs(folder: Path) -> None:
    words = ["--model.rope_theta=500", "--model.qk_norm=false", "--trainer.max_steps=10"]
    assert fit("run", *words) == 0
    decoder = load_decoder(checkpoints.load(checkpoints.newest(Path("run/checkpoints"))))
    assert decoder.config.rope_theta == 500.0
    assert not decoder.config.qk_norm
    words = ["--config=run/config.yaml", "--ckpt_path=run", "--out=p.safetensors"]
    assert APP.main(["predict", *words]) == 0
    predicted = checkpoints.load_weights(Path("p.safetensors"))
    assert APP.main(["validate", "--ckpt_path=run", "--out=metrics.json"]) == 0
    metrics = json.loads(Path("metrics.json").read_text())
    nll, targets = predicted["nll"], predicted["targets"]
    assert metrics["val/nll_per_token"] == pytest.approx(float(nll.sum() / targets.sum()), rel=1e-5)
    assert metrics["val/nll_per_document"] == pytest.approx(float((nll / targets).mean()), rel=1e-5)
    data = DecompositionData(Path("data"))
    data.setup("predict")
    for place, number in enumerate(predicted["document"].tolist()):
        tokens = torch.from_numpy(data.dataset.heldout().document(number).astype(int))[:65]
        with torch.inference_mode():
            logits = decoder(tokens[None, :-1])[0]
        nll = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum")
        assert predicted["nll"][place].item() == pytest.approx(nll.item(), rel=1e-4)
    with pytest.raises(ValueError, match="holds no dataset-decomposition model"):
        load_decoder({"state_dict": {}})


MASKED = {
    "bestfit": ["--data.prepare.method=bestfit"],
    "concat_docmask": ["--data.prepare.method=concat_docmask"],
    "packed tail": ["--data.prepare.tail=pack"],
}


@pytest.mark.parametrize("words", [[], *MASKED.values()], ids=["dd", *MASKED])
def test_accumulated_micro_batches_equal_one_batch(folder: Path, words: list[str]) -> None:
    steps = ["--trainer.max_steps=4", "--data.tokens_per_step=256", "--optim.warmup_steps=0"]
    steps += words
    assert fit("whole", *steps) == 0
    assert fit("parts", *steps, "--trainer.accumulate_grad_batches=4") == 0
    whole, parts = (
        checkpoints.load(checkpoints.newest(Path(run) / "checkpoints"))["state_dict"]
        for run in ("whole", "parts")
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)


def test_llama_and_chunked_loss_train_on_packed_rows(folder: Path) -> None:
    words = ["--model.body=llama", "--model.qk_norm=false", "--loss.chunk_tokens=50"]
    words += [*MASKED["packed tail"], "--trainer.log_every_n_steps=1"]
    assert fit("run", *words) == 0
    rows = read_metrics(Path("run/metrics.csv"))
    names = {name for row in rows for name in row if name.startswith("train/nll_d_")}
    assert names == {f"train/nll_d_{k}" for k in range(3, 7)}
    losses = [row["val/nll_per_token"] for row in rows if "val/nll_per_token" in row]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1)])
def test_a_run_resumed_with_other_micro_batches_takes_the_same_steps(
    folder: Path, before: int, after: int
) -> None:
    words = ["--data.tokens_per_step=256", "--data.repeat=reshuffle"]
    accumulate = "--trainer.accumulate_grad_batches"
    assert fit("straight", *words) == 0
    assert fit("changed", *words, f"{accumulate}={before}", "--checkpoint.keep=9") == 0
    for path in Path("changed/checkpoints").glob("step-*.ckpt"):
        if path.stem > "step-00000010":
            checkpoints.remove(path)
    assert fit("changed", *words, f"{accumulate}={after}", "--resume=auto") == 0
    one, other = (
        checkpoints.load(checkpoints.newest(Path(run) / "checkpoints"))
        for run in ("straight", "changed")
    )
    assert one["global_step"] == other["global_step"] == 40
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], tensor, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.body=llama"], "model.body llama has no QK-norm"),
        (["--model.vocab_size=256"], "model.vocab_size is 256, the data's tokenizer has 257 ids"),
        (["--data.tokens_per_step=100"], "tokens_per_step must be a multiple"),
        (["--data.path=/proc/nothing"], "/proc/nothing"),
        (["--data.wrokers=1"], "unrecognized arguments: --data.wrokers=1"),
        (["--data.prepare.min_bucket=9"], "bucket"),
        (["--trainer.max_steps=4000"], "repeat"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert fit("run", *words) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert message in line


def test_means_weigh_by_tokens_and_a_diverged_document_spoils_them() -> None:
    module = DecompositionModule(ModelConfig(vocab_size=257, dim=16, layers=1, heads=2))
    module.nll_per_token.update(torch.tensor([1.0, 3.0]), torch.tensor([3, 1]))
    assert module.nll_per_token.compute() == 1.5
    for metric in (module.nll_per_token, module.nll_per_document):
        metric.update(torch.tensor([1.0, torch.nan]), torch.tensor([5, 3]))
        assert metric.compute() == torch.inf


@pytest.mark.parametrize("path", sorted(APP.recipes_dir().rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_parses_and_builds_its_model(path: Path) -> None:
    from tenfold.cli.training import TrainingCLI

    cli = TrainingCLI(APP, "fit", ["--config", str(path)])
    with torch.device("meta"):
        cli.build()
    assert isinstance(cli.model, DecompositionModule)
    assert cli.model.optim_config.total_steps == cli.config.trainer.max_steps
