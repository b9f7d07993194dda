"""Timed steps: what they train, the file that they give, and refused options."""

import json
from pathlib import Path

import pytest
import torch

from dataset_decomposition.bench import bench, report
from dataset_decomposition.config import LossConfig, ModelConfig
from dataset_decomposition.cost import StepTime, fit_step_time
from dataset_decomposition.step_timer import StepTimer
from dataset_decomposition.timings import LengthTiming, Timings, load_timings

MODEL = ModelConfig(vocab_size=32, dim=16, layers=1, heads=2)
CPU = torch.device("cpu")
OPTIONS = {"model": MODEL, "lengths": [8, 32], "tokens": 64, "device": "cpu", "repeats": 2}


def test_bench_writes_what_cost_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "timings.json"
    bench(out, **OPTIONS, precision="fp32")
    timings = load_timings(out)
    assert sorted(timings.milliseconds) == [8, 32]
    assert (timings.tokens, timings.clock, timings.model) == (64, "cpu", MODEL)
    for entry in timings.lengths:
        assert entry.fastest_ms is not None
        assert entry.slowest_ms is not None
        assert 0 < entry.fastest_ms <= entry.ms <= entry.slowest_ms
        assert entry.peak_gib is None
    fit = fit_step_time(timings.milliseconds)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"T(L) = {fit.alpha_ms:.5g} + {fit.beta_ms:.4g} L ms" in printed
    assert json.loads(out.read_text())["device"].startswith("CPU")


@pytest.mark.parametrize("chunk_tokens", [0, 24])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_timed_step_trains_every_parameter(precision: str, chunk_tokens: int) -> None:
    loss = LossConfig(chunk_tokens=chunk_tokens)
    timer = StepTimer(MODEL, loss=loss, tokens=64, device=CPU, precision=precision)
    before = {name: p.detach().clone() for name, p in timer.decoder.named_parameters()}
    timer.train(timer.batch(16))
    same = [n for n, p in timer.decoder.named_parameters() if torch.equal(p, before[n])]
    assert same == []
    assert all(p.grad is None for p in timer.decoder.parameters())


def test_accumulated_micro_batches_make_the_same_step() -> None:
    torch.manual_seed(0)
    whole, parts = (StepTimer(MODEL, tokens=64, accumulate=n, device=CPU) for n in (1, 4))
    parts.decoder.load_state_dict(whole.decoder.state_dict())
    tokens = whole.batch(16)
    assert tokens.shape == (4, 17)
    whole.train(tokens)
    parts.train(tokens)
    for ours, theirs in zip(whole.decoder.parameters(), parts.decoder.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)  # a step is 3e-3


def test_the_report_warns_of_unequal_peak_memory(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    def printed(peaks: tuple[float, float]) -> str:
        entries = tuple(
            LengthTiming(length=n, ms=1.0, peak_gib=p) for n, p in zip((8, 16), peaks, strict=True)
        )
        Console().print(report(Timings(tokens=64, lengths=entries), StepTime(1.0, 0.0)))
        return capsys.readouterr().out

    assert "differs by length: 10.00 to 10.60 GiB" in printed((10.0, 10.6))
    assert "differs" not in printed((10.0, 10.4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "160m"}, "give size or model, not both"),
        ({"lengths": [8]}, "two or more different numbers"),
        ({"lengths": [8, 8]}, "two or more different numbers"),
        ({"lengths": [0, 8]}, "two or more different numbers"),
        ({"lengths": [8, 24]}, "tokens=64 must be a multiple of accumulate"),
        ({"accumulate": 4}, "tokens=64 must be a multiple of accumulate"),
        ({"repeats": 0}, "repeats must be >= 1"),
        ({"accumulate": 0}, "accumulate must be >= 1"),
        ({"tokens": 0}, "tokens must be >= 1"),
        (
            {"compile": True, "tokens": 2048, "lengths": [2**k for k in range(1, 12)]},
            "torch.compile keeps 8 graphs of a model, got 11 lengths",
        ),
    ],
)
def test_wrong_options_of_bench_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench(tmp_path / "timings.json", **{**OPTIONS, **changes})
    assert list(tmp_path.iterdir()) == []


def test_an_absent_gpu_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no CUDA device; use device=cpu"):
        bench(tmp_path / "timings.json", **{**OPTIONS, "device": "cuda"})
