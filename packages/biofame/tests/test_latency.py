"""Times of a window; what is computed is checked, not how long it takes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from trained_runs import MODEL, saved_finetuning, saved_pretraining, trained, trained_classifier

from biofame.config import HeadConfig, ModelConfig
from biofame.export import export
from biofame.latency import count_macs, latency
from biofame.onnx_graph import Fixed, WindowShape, in_real_arithmetic


def fixed_classifier(config: ModelConfig, length: int) -> Fixed:
    shape = WindowShape(channels=config.channels, rate=100.0, length=length)
    classifier = trained_classifier(HeadConfig(), config)
    return Fixed(classifier, "classifier", shape).eval()


@pytest.mark.parametrize(
    ("channels", "flops"), [(("eeg",), 33_178_240), (("eeg", "eog", "emg"), 134_093_440)]
)
def test_the_released_model_costs_what_the_official_one_does(
    channels: tuple[str, ...], flops: int
) -> None:
    """Figures of the official modules at 3,000 samples a channel, by the same counter."""
    fixed = fixed_classifier(ModelConfig(channels=channels), 3000)
    assert 2 * count_macs(fixed) == flops


def test_the_graphs_transforms_are_counted() -> None:
    fixed = fixed_classifier(MODEL, 24)
    # Two matrices each way, 4 frequencies by 6 tokens, for each block, channel and dimension.
    transforms = 2 * 2 * 4 * 6 * MODEL.depth * len(MODEL.channels) * MODEL.dim
    assert count_macs(in_real_arithmetic(fixed)) == count_macs(fixed) + transforms


def test_the_table_has_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = trained_classifier(HeadConfig(outputs=3), replace(MODEL, depth=1))
    run = saved_finetuning(tmp_path / "x.ckpt", classifier)
    threads = torch.get_num_threads()
    latency(run, repeats=2, out=tmp_path / "figures.json", seconds=0.12, channels=["eog"])
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert "eog, 0.12 s at 100 Hz" in printed
    assert "M MAC" in printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    eager, graph = figures["rows"]
    assert [eager["form"], graph["form"]] == ["eager", "onnx"]
    assert eager["parameters"] == sum(p.numel() for p in classifier.parameters())
    assert graph["parameters"] == eager["parameters"]
    assert graph["macs"] > eager["macs"] > 0
    assert 0 < eager["median"] <= eager["p95"]


def test_a_written_graph_says_what_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = HeadConfig(task="staging", outputs=3, context=2)
    run = saved_finetuning(tmp_path / "x.ckpt", trained_classifier(head, replace(MODEL, depth=1)))
    export(run, tmp_path / "x.onnx")
    latency(tmp_path / "x.onnx", repeats=1)
    assert "2 x eeg, eog, 0.24 s at 100 Hz" in capsys.readouterr().out
    with pytest.raises(ValueError, match="of one window shape; leave out forms, rate"):
        latency(tmp_path / "x.onnx", forms=["onnx"], rate=50.0)
    graph = onnx.load(tmp_path / "x.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="was not written by `biofame export`"):
        latency(tmp_path / "foreign.onnx")


def test_features_are_timed_without_a_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved_pretraining(tmp_path / "x.ckpt", trained(replace(MODEL, mixing="attention")))
    latency(run, kind="features", forms=["eager"], repeats=1)
    assert "onnx" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threads": 0}, "threads must be >= 1, got 0"),
        ({"repeats": 0}, "repeats must be >= 1, got 0"),
        ({"forms": ["fast"]}, "forms must be some of eager, compiled, onnx, got fast"),
        ({"seconds": 0.01}, "at least a patch, 4 samples, got 1"),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    run = saved_finetuning(tmp_path / "x.ckpt", trained_classifier(HeadConfig(outputs=3)))
    with pytest.raises(ValueError, match=match):
        latency(run, **options)


def test_a_missing_graph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such graph"):
        latency(tmp_path / "absent.onnx")
