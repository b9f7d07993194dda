"""Transforms as matrices, and what `export` writes, run as a user would."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from trained_runs import MODEL, saved_finetuning, saved_pretraining, trained, trained_classifier

from biofame import onnx_graph
from biofame.config import HeadConfig, ModelConfig, Operator
from biofame.dft_export import DftFilter, Pair, RealDft, with_dft
from biofame.export import export
from biofame.filters import FilterLayer
from biofame.model import BioFame
from biofame.weights import load_classifier, load_network
from tenfold.atomic import sha256_file

SHALLOW = replace(MODEL, depth=1)
COUNTS = (1, 2, 3, 9, 15, 150, 301)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("tokens", COUNTS)
def test_the_matrices_are_torchs_transforms(tokens: int) -> None:
    dft, tokens_BND = RealDft(tokens), draw(2, tokens, 5)
    expected = torch.fft.rfft(tokens_BND, dim=1, norm="ortho")
    spectrum = dft(tokens_BND)
    torch.testing.assert_close(torch.complex(*spectrum), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(dft.inverse(spectrum), tokens_BND, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", COUNTS)
def test_the_inverse_ignores_what_irfft_ignores(tokens: int) -> None:
    """A response turns DC and Nyquist, whose imaginary parts no real signal has."""
    spectrum = torch.complex(draw(2, tokens // 2 + 1, 5), draw(2, tokens // 2 + 1, 5).flip(1) + 1)
    expected = torch.fft.irfft(spectrum, n=tokens, dim=1, norm="ortho")
    found = RealDft(tokens).inverse(Pair(spectrum.real, spectrum.imag))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("operator", get_args(Operator))
@pytest.mark.parametrize("tokens", [1, 9, 150])
def test_every_operator_is_the_filter_layers(operator: Operator, tokens: int) -> None:
    config = ModelConfig(
        dim=8, mixer_heads=2, operator=operator, filters=4, filter_std=1.0, temperature=0.5
    )
    torch.manual_seed(0)
    layer = FilterLayer(config)
    with torch.no_grad():
        real = DftFilter(layer, RealDft(tokens), tokens, rate=150.0)
        x = draw(3, tokens, 8)
        torch.testing.assert_close(real(x), layer(x, rate=150.0), rtol=1e-5, atol=1e-5)


def test_the_network_itself_keeps_its_transforms() -> None:
    network = trained()
    changed = with_dft(network, tokens=6, rate=100.0)
    assert all(isinstance(block.filter, FilterLayer) for block in network.encoder.blocks)
    assert all(isinstance(block.filter, DftFilter) for block in changed.encoder.blocks)
    assert {id(block.filter.dft) for block in changed.encoder.blocks} == {
        id(changed.encoder.blocks[0].filter.dft)
    }


def outputs(path: Path, samples: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["outputs"], {"samples": samples.numpy()})[0])


def test_a_graph_gives_the_classifiers_logits_and_says_what_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = trained_classifier(HeadConfig(outputs=3), replace(MODEL, operator="query"))
    run = saved_finetuning(tmp_path / "x.ckpt", classifier, ("wake", "rem", "deep"))
    out = tmp_path / "out" / "x.onnx"
    export(run, out)
    assert "largest difference from the model" in capsys.readouterr().out
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.onnx", "x.onnx.json"]
    for batch in (1, 4):
        windows = draw(batch, 2, 24) * 30 + 7
        with torch.no_grad():
            torch.testing.assert_close(
                outputs(out, windows), classifier(windows), rtol=1e-4, atol=1e-4
            )
    facts = json.loads((out.parent / "x.onnx.json").read_text())
    assert facts["sha256"] == sha256_file(out)
    assert 0 <= facts["max_error"] < 1e-4
    graph = onnx.load(out)
    onnx.checker.check_model(graph)
    assert {entry.domain for entry in graph.opset_import} == {""}
    carried = {entry.key: entry.value for entry in graph.metadata_props}
    for name, value in {
        "channels": ["eeg", "eog"],
        "classes": ["wake", "rem", "deep"],
        "patch": 4,
        "rate": 100.0,
        "shape": ["batch", 2, 24],
    }.items():
        assert facts[name] == value
        assert json.loads(carried[name]) == value
    assert carried["task"] == facts["task"] == "classification"


def test_a_graph_takes_other_channels_lengths_and_rates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(SHALLOW, operator="bandfilter", tail="pad")
    classifier = trained_classifier(HeadConfig(outputs=3, pooling="cls"), config)
    run, out = saved_finetuning(tmp_path / "x.ckpt", classifier), tmp_path / "x.onnx"
    names = ["eog", "emg", "resp"]
    export(run, out, channels=names, length=31, rate=50.0)
    assert "emg, resp: the model has no parameters of their own" in caplog.text
    windows = draw(3, 3, 31)
    with torch.no_grad():
        expected = classifier(windows, channels=names, rate=50.0)
    torch.testing.assert_close(outputs(out, windows), expected, rtol=1e-4, atol=1e-4)


def test_a_rate_alone_keeps_the_seconds_and_opset_is_kept(tmp_path: Path) -> None:
    head = HeadConfig(task="staging", outputs=3, context=2)
    classifier = trained_classifier(head, replace(SHALLOW, operator="softpool"))
    run, out = saved_finetuning(tmp_path / "x.ckpt", classifier), tmp_path / "x.onnx"
    export(run, out, rate=200.0, opset=20)
    assert json.loads((tmp_path / "x.onnx.json").read_text())["shape"] == ["batch", 2, 2, 48]
    assert onnx.load(out).opset_import[0].version == 20
    sequences = draw(3, 2, 2, 48)
    with torch.no_grad():
        expected = classifier(sequences, rate=200.0)
    torch.testing.assert_close(outputs(out, sequences), expected, rtol=1e-4, atol=1e-4)


def test_features_of_a_pretrained_network_need_no_head(tmp_path: Path) -> None:
    network = trained(replace(SHALLOW, operator="query_complex"))
    run, out = saved_pretraining(tmp_path / "x.ckpt", network), tmp_path / "x.onnx"
    export(run, out, kind="features")
    windows = draw(2, 2, 24)
    with torch.no_grad():
        expected = network(windows).mean(dim=(1, 2))
    torch.testing.assert_close(outputs(out, windows), expected, rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "x.onnx.json").read_text())["classes"] == []
    with pytest.raises(ValueError, match="holds a network without a head"):
        export(run, tmp_path / "y.onnx")


def test_features_of_a_classifier_are_what_its_head_sees() -> None:
    classifier = trained_classifier(HeadConfig(outputs=3, pooling="cat"))
    names = ("eog", "eeg")
    shape = onnx_graph.WindowShape(channels=names, rate=50.0, length=24)
    windows = draw(2, 2, 24)
    with torch.no_grad():
        found = onnx_graph.Fixed(classifier, "features", shape).eval()(windows)
        assert torch.equal(found, classifier.features(windows, channels=names, rate=50.0))


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved_pretraining(tmp_path / "x.ckpt", trained(SHALLOW))
    inverse = RealDft.inverse
    monkeypatch.setattr(RealDft, "inverse", lambda self, pair: inverse(self, pair) * 1.01)
    with pytest.raises(ValueError, match=r"differ from the model's by .*; nothing was written"):
        export(run, tmp_path / "out" / "x.onnx", kind="features")
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_none_do_not_pass_the_comparison() -> None:
    shape = onnx_graph.WindowShape(channels=MODEL.channels, rate=100.0, length=24)
    fixed = onnx_graph.Fixed(trained(), "features", shape).eval()
    with torch.no_grad():
        right = onnx_graph.largest_difference(fixed, lambda x: fixed(torch.from_numpy(x)).numpy())
    assert right == 0
    with pytest.raises(ValueError, match="differ from the model's by nan"):
        onnx_graph.largest_difference(fixed, lambda x: np.full((len(x), 8), np.nan, np.float32))


def test_weights_are_written_as_they_are(tmp_path: Path) -> None:
    classifier = trained_classifier(HeadConfig(outputs=2))
    run = saved_finetuning(tmp_path / "x.ckpt", classifier, ("no", "yes"))
    windows = draw(2, 2, 24)
    export(run, tmp_path / "c.safetensors", format="safetensors")
    export(run, tmp_path / "f.safetensors", format="safetensors", kind="features")
    loaded, classes = load_classifier(tmp_path / "c.safetensors")
    network = load_network(tmp_path / "f.safetensors")
    assert classes == ("no", "yes")
    assert isinstance(network, BioFame)
    with torch.no_grad():
        assert torch.equal(loaded(windows), classifier(windows))
        assert torch.equal(network(windows), classifier.network(windows))


@pytest.mark.parametrize(
    ("out", "options", "match"),
    [
        ("x.bin", {}, r"must end in \.onnx for format onnx"),
        ("x.onnx", {"format": "safetensors"}, r"must end in \.safetensors"),
        ("x.safetensors", {"format": "safetensors", "rate": 5.0}, "rate are of format onnx only"),
        ("x.onnx", {"opset": 17}, r"opset must lie in 18\.\.23, got 17"),
        ("x.onnx", {"length": 3}, "at least a patch, 4 samples, got 3"),
        ("x.onnx", {"rate": -1.0}, "rate must be > 0"),
        ("x.onnx", {"channels": ["eeg", "eeg"]}, "named once each"),
    ],
)
def test_impossible_exports_are_refused(
    tmp_path: Path, out: str, options: dict[str, Any], match: str
) -> None:
    run = saved_finetuning(tmp_path / "run.ckpt", trained_classifier(HeadConfig(outputs=3)))
    with pytest.raises(ValueError, match=match):
        export(run, tmp_path / out, **options)
    assert not (tmp_path / out).exists()


def test_files_are_not_overwritten(tmp_path: Path) -> None:
    run = saved_finetuning(tmp_path / "run.ckpt", trained_classifier(HeadConfig(outputs=3)))
    for name in ("x.onnx", "y.onnx.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{name} exists"):
            export(run, tmp_path / name.removesuffix(".json"))
        assert (tmp_path / name).read_text() == "mine"


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved_finetuning(tmp_path / "run.ckpt", trained_classifier(HeadConfig(outputs=3)))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    with pytest.raises(ValueError, match=r"needs onnx: install the extra biofame\[onnx\]"):
        export(run, tmp_path / "x.onnx")
