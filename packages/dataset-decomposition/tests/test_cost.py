"""The cost model against the paper's measured and derived figures, and its verb."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from dataset_decomposition.config import MODEL_SIZES
from dataset_decomposition.cost import (
    StepTime,
    bucket_hours,
    causal_flops_per_token,
    expected_slowest,
    expected_step,
    fit_step_time,
    flops_per_token,
    mixture_flops_per_token,
    saving,
    step_time_of_model,
)
from dataset_decomposition.predict_cost import cost
from dataset_decomposition.stats import average_context_length

# Paper, Fig. 7: milliseconds of a step of 8192 tokens, 1B on an H100, by sequence length.
FIGURE_7 = {512: 227.0, 1024: 232.0, 2048: 243.0, 4096: 265.0, 8192: 304.0}
# Paper, Table 1: tokens from D_6 to D_13, what the fit predicts and what was measured, ms a step.
TABLE_1 = {
    "natural": ((3, 6, 10, 17, 21, 17, 13, 9), 242.7, 244),
    "equal": ((12,) * 8, 242.8, 244),
    "1k-only": ((0, 0, 0, 0, 96, 0, 0, 0), 232.6, 234),
    "<=2k": ((16, 16, 16, 16, 16, 16, 0, 0), 229.0, 231),
    ">=256": ((0, 0, 16, 16, 16, 16, 16, 16), 249.3, 244),
}
FROM_256 = dict.fromkeys(range(8, 14), 1.0)
ROUNDED = StepTime(222.2, 0.01006)


def mixture(name: str) -> dict[int, float]:
    return {6 + i: float(tokens) for i, tokens in enumerate(TABLE_1[name][0])}


def test_the_fit_of_figure_7_is_the_published_line() -> None:
    fit = fit_step_time(FIGURE_7)
    assert fit.alpha_ms == pytest.approx(222.2, abs=0.051)
    assert fit.beta_ms == pytest.approx(0.01006, abs=1e-5)
    assert fit.max_residual_ms < 2
    assert 0.995 < fit.r2 < 1


def test_the_fit_equals_numpys_least_squares() -> None:
    rng = np.random.Generator(np.random.Philox(key=3))
    lengths = np.array([64, 100, 1024, 3000])
    times = 50 + 0.02 * lengths + rng.normal(0, 3, 4)
    fit = fit_step_time(dict(zip(lengths.tolist(), times.tolist(), strict=True)))
    slope, intercept = np.polyfit(lengths, times, 1)
    assert (fit.beta_ms, fit.alpha_ms) == pytest.approx((slope, intercept))
    assert fit.r2 == pytest.approx(np.corrcoef(lengths, times)[0, 1] ** 2)
    assert fit.max_residual_ms == pytest.approx(np.abs(times - slope * lengths - intercept).max())


def test_equal_times_fit_perfectly() -> None:
    assert fit_step_time({64: 5.0, 128: 5.0}) == StepTime(5.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({512: 227.0}, "two or more lengths"),
        ({512: 227.0, 1024: 0.0}, "must be positive, got 0.0 ms at length 1024"),
        ({512: 227.0, 1024: float("nan")}, "must be positive"),
        ({0: 227.0, 1024: 232.0}, "must be positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(times: dict[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_step_time(times)


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1_step_times_are_predicted(name: str) -> None:
    _, predicted, measured = TABLE_1[name]
    ours = expected_step(mixture(name), fit_step_time(FIGURE_7))
    assert ours == pytest.approx(predicted, abs=0.051)
    assert ours == pytest.approx(measured, abs=6)
    context = average_context_length(mixture(name))
    assert fit_step_time(FIGURE_7).at_context(context) == pytest.approx(ours)


def test_lockstep_and_independent_draws_give_the_published_table() -> None:
    expected = {1: 249, 2: 264, 4: 280, 8: 294, 16: 302, 32: 304, 1024: 305}
    ours = {ranks: expected_slowest(FROM_256, ROUNDED, ranks) for ranks in expected}
    assert {ranks: round(ms) for ranks, ms in ours.items()} == expected
    assert ours[1] == pytest.approx(expected_step(FROM_256, ROUNDED))
    # With 16 ranks the saving against 8k rows is gone; in lockstep it is 18 %.
    assert 1 - ours[16] / ROUNDED(8192) < 0.01
    assert saving(FROM_256, ROUNDED, 8192) == pytest.approx(0.182, abs=1e-3)


def test_the_slowest_rank_equals_the_sum_over_all_draws() -> None:
    tokens, times = {3: 1.0, 5: 2.0, 4: 5.0, 6: 0.0}, {8: 7.0, 32: 5.0, 16: 11.0}
    shares = {8: 1 / 8, 32: 2 / 8, 16: 5 / 8}
    for ranks in (1, 2, 3):
        naive = sum(
            np.prod([shares[length] for length in draw]) * max(times[length] for length in draw)
            for draw in itertools.product(shares, repeat=ranks)
        )
        assert expected_slowest(tokens, times.__getitem__, ranks) == pytest.approx(naive)


@pytest.mark.parametrize(
    ("size", "ratio"),
    [("160m", 0.745), ("410m", 0.759), ("1b", 0.844), ("3b", 0.865), ("7b", 0.907)],
)
def test_flop_ratios_of_all_sizes_are_the_published_ones(size: str, ratio: float) -> None:
    model = MODEL_SIZES[size]
    by_length = mixture_flops_per_token(model, FROM_256) / flops_per_token(model, 8192)
    eighth = causal_flops_per_token(model, average_context_length({13: 1.0}))
    exact = mixture_flops_per_token(model, FROM_256, causal=True) / eighth
    assert by_length == pytest.approx(ratio, abs=6e-4)
    assert exact == pytest.approx(ratio, abs=6e-4)


def test_flops_of_160m_by_hand() -> None:
    multiplied = 162_435_840 - 50432 * 768
    assert flops_per_token(MODEL_SIZES["160m"], 8192) == 6 * multiplied + 6 * 12 * 768 * 8192
    assert causal_flops_per_token(MODEL_SIZES["160m"], 10) == 6 * multiplied + 12 * 12 * 768 * 10


def test_a_models_step_time_has_its_flops_at_the_stated_speed() -> None:
    model = MODEL_SIZES["1b"]
    step = step_time_of_model(model, tokens=8192, peak_tflops=989, mfu=0.4)
    for length in (256, 8192):
        seconds = 8192 * flops_per_token(model, length) / (989e12 * 0.4)
        assert step(length) == pytest.approx(1e3 * seconds)
    for changes, message in (
        ({"mfu": 1.2}, r"mfu must lie in \(0, 1\], got 1.2"),
        ({"mfu": 0.0}, "mfu must lie"),
        ({"peak_tflops": -1.0}, "peak_tflops must be > 0"),
        ({"tokens": 0}, "tokens must be >= 1"),
    ):
        options = {"tokens": 8192, "peak_tflops": 989.0, "mfu": 0.4, **changes}
        with pytest.raises(ValueError, match=message):
            step_time_of_model(model, **options)


def test_hours_by_bucket_add_up_to_the_expected_step() -> None:
    steps = {8: 3, 9: 0, 13: 5}
    hours = bucket_hours(steps, ROUNDED)
    assert hours[9] == 0
    mean = expected_step({k: float(n) for k, n in steps.items()}, ROUNDED)
    assert sum(hours.values()) == pytest.approx(8 * mean / 3.6e6)
    with pytest.raises(ValueError, match="ranks must be >= 1"):
        expected_slowest(FROM_256, ROUNDED, 0)
    with pytest.raises(ValueError, match="all 0"):
        expected_step({8: 0.0}, ROUNDED)


def write_timings(path: Path, **fields: object) -> Path:
    entries = [{"length": length, "ms": ms} for length, ms in FIGURE_7.items()]
    path.write_text(json.dumps({"tokens": 8192, "lengths": entries, **fields}))
    return path


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Manifests of ten official shards in each of D_8 to D_13, as the folder of official data."""
    for k in range(8, 14):
        folder = tmp_path / "official" / f"D_{k}"
        folder.mkdir(parents=True)
        line = '{{"shard": "shard-{:07d}", "num_sequences": {}}}\n'
        text = "".join(line.format(n, 2 ** (20 - k)) for n in range(10))
        (folder / "manifest.jsonl").write_text(text)
    return tmp_path / "official"


def figures_of(capsys: pytest.CaptureFixture[str], data: Path, **options: object) -> dict:
    capsys.readouterr()
    cost(data, json=True, tokens=48 * 2**20, **options)
    return json.loads(capsys.readouterr().out)


def test_cost_from_timings(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timings = write_timings(tmp_path / "timings.json")
    figures = figures_of(
        capsys, official, tokens_per_step=65_536, ranks=4, timings=timings, size="1b", cycles=2
    )
    fit = fit_step_time(FIGURE_7)
    # A rank has 65,536 / 4 tokens a step, twice those of the file.
    assert figures["step_ms"] == pytest.approx(2 * expected_step(FROM_256, fit))
    assert figures["steps"] == 768
    assert figures["hours"] == pytest.approx(768 * figures["step_ms"] / 3.6e6)
    assert figures["hours_at_cycle_end"][-1] == pytest.approx(figures["hours"])
    assert len(figures["hours_at_cycle_end"]) == 2
    assert figures["rank_hours"] == pytest.approx(4 * figures["hours"])
    assert figures["baseline"]["step_ms"] == pytest.approx(2 * fit(8192))
    assert figures["saving"] == pytest.approx(saving(FROM_256, fit, 8192))
    assert figures["independent_draws"]["step_ms"] == pytest.approx(
        2 * expected_slowest(FROM_256, fit, 4)
    )
    assert figures["flops"]["saving"] == pytest.approx(1 - 0.844, abs=6e-4)
    assert sum(b["hours"] for b in figures["buckets"].values()) == pytest.approx(figures["hours"])
    assert sum(b["share_of_time"] for b in figures["buckets"].values()) == pytest.approx(1)
    assert figures["warnings"] == ["lengths [256] lie outside the measured 512 to 8192"]


def test_cost_from_peak_and_mfu(official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"tokens_per_step": 65_536, "size": "1b", "peak_tflops": 989.0, "mfu": 0.4}
    figures = figures_of(capsys, official, **options, baseline_length=2048)
    assert figures["hours"] == pytest.approx(figures["flops"]["total"] / (989e12 * 0.4) / 3600)
    assert figures["saving"] == pytest.approx(figures["flops"]["saving"])
    assert figures["baseline"]["length"] == 2048
    assert figures["warnings"] == []


def test_cost_prints_tables(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timings = write_timings(tmp_path / "timings.json", clock="cpu")
    cost(official, tokens=48 * 2**20, tokens_per_step=65_536, timings=timings)
    printed = capsys.readouterr().out
    for text in ("D_13", "18.", "CPU hours", "8,192 tokens a row", "outside the measured"):
        assert text in printed
    assert "FLOPs" not in printed  # the file names no model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either timings"),
        ({"timings": Path("t.json"), "peak_tflops": 1.0}, "give either timings"),
        ({"peak_tflops": 989.0}, "peak_tflops needs size"),
        ({"size": "1b", "peak_tflops": 989.0, "ranks": 0}, "ranks must be >= 1"),
        ({"size": "1b", "peak_tflops": 989.0, "baseline_length": -1}, "baseline_length must be"),
        ({"size": "1b", "peak_tflops": 989.0, "ranks": 3}, "nearest: 49152, 73728"),
    ],
)
def test_wrong_options_of_cost_are_refused(official: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(official, tokens=48 * 2**20, tokens_per_step=65_536, **options)


def test_a_missing_timings_file_is_named(official: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no timings file .*gone\.json; measure one"):
        cost(official, tokens=2**20, tokens_per_step=65_536, timings=tmp_path / "gone.json")
