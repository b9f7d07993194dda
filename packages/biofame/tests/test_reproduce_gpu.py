"""The scale `gpu` of `reproduce`, run through on the CPU at a shrunken size, and its claims."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biofame.claims_gpu import judge_speed, judge_training
from biofame.cli import APP
from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.demo_data import write_sleep
from biofame.mae import MaskedAutoencoder
from biofame.masking import draw_partition
from biofame.naive_gpu import make_naive
from biofame.recordings_gpu import SEED, sleep_store
from biofame.reproduce_gpu import compare_on_gpu
from biofame.resident_gpu import Place, ResidentWindows
from biofame.speed_gpu import Curve
from biofame.study import SETTLED
from biofame.study_gpu import LARGE, OURS, PUBLISHED, GpuScale, pretrain_tasks
from biofame.synthetic import SleepConfig, generate
from biofame.weights import load_network
from tenfold.results import Result, load_result, save_result

CPU = Place(device=torch.device("cpu"), mixed=True, compiled=False)
SHRUNKEN = GpuScale(
    sleep=SleepConfig(subjects=6, windows_per_subject=20, seconds=2.0),
    shares=(0.5, 0.25, 0.25),
    model=ModelConfig(dim=8, depth=2, mlp=8, filters=3, mixer_heads=2, mixer_mlp=8),
    decoder=DecoderConfig(heads=2, mlp=8),
    windows=40,
    batch_size=8,
    large_batch=20,
    labels=15,
    finetune_steps=2,
    speed_batches=(2, 4),
    speed_steps=1,
    lengths=(4, 9),
    tokens_in_all=18,
)
STARTS = {
    f"{PUBLISHED}, pre-trained",
    f"{PUBLISHED}, scratch",
    f"{LARGE}, pre-trained",
    f"{OURS}, pre-trained",
    f"{OURS}, scratch",
}


def _run(folder: Path) -> dict[str, Result]:
    return compare_on_gpu(
        SHRUNKEN,
        folder / "trained",
        recordings=folder / "recordings",
        out=folder / "out",
        seeds=2,
        workers=1,
        place=CPU,
    )


def test_the_whole_scale_runs_through_at_shrunken_size_and_goes_on(tmp_path: Path) -> None:
    results = _run(tmp_path)
    assert set(results) == {
        *(f"{name}_nights" for name in ("reconstruction", "recipe", "few_labels", "dropout")),
        "throughput",
        "crossover",
    }
    rows = {(row.arm, row.metric): row for row in results["dropout_nights"].rows}
    prefix = "test/accuracy_percent_with_"
    sets = {metric.removeprefix(prefix) for _, metric in rows if metric.startswith(prefix)}
    assert len(sets) == 15
    assert {"eeg+eog+emg+resp", "eeg+emg", "resp"} <= sets
    for start in STARTS:
        parts = [rows[start, prefix + each].per_seed for each in sets - {"eeg+eog+emg+resp"}]
        mean = np.mean(parts, axis=0)
        found = rows[start, "test/dropout_accuracy_percent"].per_seed
        np.testing.assert_allclose(found, mean)
    errors = results["reconstruction_nights"].rows
    assert {row.arm for row in errors} == {PUBLISHED, LARGE, OURS}
    assert all(row.mean > 0 for row in errors)
    speeds = {(row.arm, row.metric) for row in results["throughput"].rows}
    assert speeds == {
        *((arm, f"time/windows_per_s_at_batch_{n}") for arm in ("ours", "naive") for n in (2, 4)),
        *(("ours / naive", f"ratio/at_batch_{n}") for n in (2, 4)),
    }
    assert results["crossover"].command.endswith("--scale gpu --seeds 2")
    assert (tmp_path / "out" / "crossover_curves_gpu.png").stat().st_size > 1000

    files = sorted(tmp_path.rglob("*.json")) + sorted(tmp_path.rglob("*.safetensors"))
    written = {path: path.stat().st_mtime_ns for path in files}
    assert len(list(tmp_path.rglob(".jobs/fine-tuning/*.json"))) == 2 * len(STARTS)
    again = _run(tmp_path)
    assert {name: result.rows for name, result in again.items()} == {
        name: result.rows for name, result in results.items()
    }
    assert written == {path: path.stat().st_mtime_ns for path in written}

    next(tmp_path.rglob(".jobs/encoders/tokens-9.json")).unlink()
    redone = _run(tmp_path)
    assert redone["few_labels_nights"].rows == results["few_labels_nights"].rows
    changed = [path.name for path, time in written.items() if path.stat().st_mtime_ns != time]
    assert changed == ["tokens-9.json"]

    save_result(results["crossover"], tmp_path / "crossover_gpu.json")
    assert load_result(tmp_path / "crossover_gpu.json") == results["crossover"]
    network = load_network(tmp_path / "trained/pretrained/settled.safetensors")
    assert network.config.operator == "query"


def test_arms_are_the_published_recipe_and_the_settled_settings() -> None:
    tasks = pretrain_tasks(GpuScale())
    published, large, ours = tasks[PUBLISHED], tasks[LARGE], tasks[OURS]
    channels = ("eeg", "eog", "emg", "resp")
    assert published.model == ModelConfig(channels=channels)
    assert published.decoder == DecoderConfig()
    assert published.loss == LossConfig(target="raw")
    assert (published.optim.name, published.optim.decay_all) == ("adam", True)
    assert {published.optim.lr_at(step) for step in (0, 6000, 11_999)} == {1e-3}
    assert large.model == published.model
    assert {task.optim.total_steps * task.batch_size for task in tasks.values()} == {1_536_000}
    assert (published.batch_size, large.batch_size) == (128, 4096)
    assert ours.model == replace(ModelConfig(channels=channels), **dict(SETTLED.model))
    assert ours.loss.target == "revin"
    sleep = GpuScale().sleep
    assert sleep.subjects * sleep.windows_per_subject == 200_000
    assert (len(sleep.channels), sleep.samples) == (4, 3000)


def test_the_store_is_the_same_however_it_was_drawn(tmp_path: Path) -> None:
    config, shares = SHRUNKEN.sleep, (0.6, 0.2, 0.2)
    store = sleep_store(tmp_path / "jobs", config, shares=shares, workers=1)
    whole = write_sleep(tmp_path / "whole", config, seed=SEED)
    np.testing.assert_array_equal(store.samples, whole.samples)
    for name in ("labels", "subjects", "splits", "onsets"):
        np.testing.assert_array_equal(getattr(store, name), getattr(whole, name))
    assert not (tmp_path / "jobs" / "people").exists()
    with pytest.raises(ValueError, match=r"holds another store .*noise=0\.5.*: remove it"):
        sleep_store(tmp_path / "jobs", replace(config, noise=0.5), shares=shares, workers=1)


def test_an_interrupted_drawing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def recording(config: SleepConfig, *, subject: int, seed: int) -> Any:
        if subject == 4 and len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(subject)
        return list(generate(config, seed=seed))[subject]

    monkeypatch.setattr("biofame.recordings_gpu.recording", recording)
    options: dict[str, Any] = {"shares": SHRUNKEN.shares, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        sleep_store(tmp_path, SHRUNKEN.sleep, **options)
    drawn.append(-1)
    store = sleep_store(tmp_path, SHRUNKEN.sleep, **options)
    assert drawn == [0, 1, 2, 3, -1, 4, 5]
    assert len(store) == 6 * 20


def test_resident_batches_hold_each_training_window_once_a_pass(tmp_path: Path) -> None:
    store = sleep_store(tmp_path, SHRUNKEN.sleep, shares=SHRUNKEN.shares, workers=1)
    windows = ResidentWindows(store, torch.device("cpu"))
    assert len(windows) == 60
    np.testing.assert_array_equal(windows.samples.numpy(), store.samples[store.rows("train")])
    batches = windows.batches(20, seed=3)
    passes = [torch.cat([next(batches) for _ in range(3)]) for _ in range(2)]
    for each in passes:
        marks = each[:, 0, 0].sort().values
        assert torch.equal(marks, windows.samples[:, 0, 0].sort().values)
    assert not torch.equal(passes[0], passes[1])
    assert torch.equal(next(windows.batches(20, seed=3)), passes[0][:20])
    with pytest.raises(ValueError, match="batch_size must be <= 60 training windows"):
        next(windows.batches(61, seed=0))


def test_the_naive_way_gives_the_same_numbers_and_gradients() -> None:
    model = ModelConfig(
        channels=("eeg", "eog", "emg"),
        tokens=7,
        patch=4,
        dim=8,
        depth=2,
        mlp=8,
        filters=3,
        filter_std=1.0,
        mixer_heads=2,
        mixer_mlp=8,
        dropout=0.0,
    )
    decoder, loss = DecoderConfig(heads=2, mlp=8, depth=2, dropout=0.0), LossConfig(target="raw")
    torch.manual_seed(0)
    ours = MaskedAutoencoder(model, decoder, loss)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    naive = MaskedAutoencoder(model, decoder, loss)
    naive.load_state_dict(ours.state_dict())
    make_naive(naive, decoder)
    samples = torch.randn(5, 3, 28)
    partition = draw_partition(5, 3, 7, ratio=0.5, device=torch.device("cpu"))
    made = [each(samples, partition=partition) for each in (ours, naive)]
    torch.testing.assert_close(made[1].predicted, made[0].predicted)
    for each, reconstruction in zip((ours, naive), made, strict=True):
        each.loss(reconstruction).total.backward()
    theirs = dict(naive.named_parameters())
    for name, parameter in ours.named_parameters():
        if not name.startswith("decoders"):
            torch.testing.assert_close(theirs[name].grad, parameter.grad)
    outputs = ours.decoders.reconstruction.weight.grad
    assert outputs is not None
    for group in range(3):
        found = theirs[f"decoders.reconstructions.{group}.weight"].grad
        torch.testing.assert_close(found, outputs[group].T)
    queries = MaskedAutoencoder(replace(model, operator="query"), decoder, loss)
    with pytest.raises(ValueError, match="the naive filter is of operator pool, got query"):
        make_naive(queries, decoder)


def _training(**changes: list[float]) -> dict[str, Result]:
    """Judge given accuracies with all sensors; without some, 10 points less."""
    starts = {start: [70.0, 72.0] for start in STARTS} | {
        f"{PUBLISHED}, pre-trained": [74.0, 77.0],
        f"{OURS}, pre-trained": [75.0, 79.0],
    }
    starts |= {name.replace("_", " "): each for name, each in changes.items() if name != "error"}
    less = {start: [each - 10 for each in values] for start, values in starts.items()}
    errors = {PUBLISHED: [0.9] * 2, LARGE: [0.95] * 2, OURS: changes.get("error", [0.6] * 2)}
    return judge_training(
        {"masked_error": errors, "windows_per_s": dict.fromkeys(errors, [1e4] * 2)},
        {"eeg+eog": starts, "eeg": less, "eog": starts},
        notes="",
    )


def test_claims_about_training() -> None:
    results = _training()
    assert all(result.holds for result in results.values())
    assert {name: result.margin for name, result in results.items()} == pytest.approx(
        {
            "reconstruction_nights": 0.1,
            "recipe_nights": 4.5 - 3,
            "few_labels_nights": 6 - 3,
            "dropout_nights": 6,
        }
    )
    rows = {(row.arm, row.metric): row for row in results["dropout_nights"].rows}
    first = rows[f"{OURS}, pre-trained", "test/dropout_accuracy_percent"]
    assert first.per_seed == (70.0, 74.0)
    assert rows[f"{OURS} - scratch", "gain/dropout_accuracy_points"].per_seed == (5.0, 7.0)


@pytest.mark.parametrize(
    ("failing", "changes"),
    [
        ({"reconstruction_nights"}, {"error": [0.71, 0.71]}),
        ({"recipe_nights"}, {f"{PUBLISHED}, pre-trained": [72.0, 75.9]}),
        ({"few_labels_nights"}, {f"{OURS}, pre-trained": [72.0, 74.0]}),
        ({"few_labels_nights", "dropout_nights"}, {f"{OURS}, pre-trained": [69.0, 72.0]}),
    ],
)
def test_a_claim_about_training_that_fails(failing: set[str], changes: dict[str, Any]) -> None:
    results = _training(**changes)
    assert {name for name, result in results.items() if not result.holds} == failing
    assert all(results[name].margin < 0 for name in failing)


def test_claims_about_speed_judge_the_largest_batch_and_length() -> None:
    rates = {
        128: {"ours": [300.0, 300.0], "naive": [100.0, 100.0], "ours_gib": [2.0, 2.0]},
        1024: {"ours": [600.0, 660.0], "naive": [100.0, 100.0], "ours_gib": [8.0, 8.0]},
    }
    curves = [
        Curve(150, filter=[2.0, 2.0], attention=[1.0, 1.0]),
        Curve(15_000, filter=[2.0, 4.0], attention=[6.0, 8.0]),
    ]
    results = judge_speed(rates, curves, notes="")
    margins = {name: result.margin for name, result in results.items()}
    assert margins == pytest.approx({"throughput": 1.3, "crossover": 1.5})
    means = {(row.arm, row.metric): row.mean for row in results["throughput"].rows}
    assert means["ours / naive", "ratio/at_batch_128"] == 3.0
    assert means["ours", "mem/peak_gib_at_batch_1024"] == 8.0
    assert means["ours", "time/windows_per_s_at_batch_1024"] == 630.0
    assert "1,024 windows" in results["throughput"].claim
    slower = judge_speed({128: rates[128]}, curves[:1], notes="")
    assert {name: result.margin for name, result in slower.items()} == pytest.approx(
        {"throughput": -2.0, "crossover": -0.5}
    )
    assert not any(result.holds for result in slower.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale=gpu"], "scale gpu needs an NVIDIA GPU"),
        (["--scale=gpu", "--seeds=1"], "seeds must be >= 2 and workers >= 1, got 1"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert APP.main(["reproduce", *options]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
