"""Networks from checkpoints and files of weights, and networks for other channels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_runs import MODEL, saved_finetuning, saved_pretraining, trained, trained_classifier

from biofame.config import HeadConfig
from biofame.model import BioFame
from biofame.weights import (
    SavedClassifier,
    check_same,
    fit_channels,
    load_classifier,
    load_either,
    load_network,
    save_classifier,
    save_network,
)
from tenfold import checkpoints
from tenfold.checkpoints import CheckpointError
from tenfold.plain_configs import plain

SAMPLES_BCL = torch.randn(3, 2, 24, generator=torch.Generator().manual_seed(5))


def assert_same(network: BioFame, other: BioFame) -> None:
    assert network.config == other.config
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(SAMPLES_BCL), other(SAMPLES_BCL))


def test_a_run_folder_gives_the_newest_checkpoints_network(tmp_path: Path) -> None:
    network, older = trained(), BioFame(MODEL)
    saved_pretraining(tmp_path / "checkpoints" / "step-00000001.ckpt", older)
    saved_pretraining(tmp_path / "checkpoints" / "step-00000003.ckpt", network)
    assert_same(load_network(tmp_path), network)


def test_contrastive_and_compiled_checkpoints_load(tmp_path: Path) -> None:
    network = trained()
    state = {f"network._orig_mod.{name}": t for name, t in network.state_dict().items()}
    state["projector.weight"] = torch.zeros(2)
    path = tmp_path / "x.ckpt"
    checkpoints.save(path, {"state_dict": state, "hyper_parameters": plain(model=MODEL)})
    assert_same(load_network(path), network)


def test_weights_survive_a_file_of_their_own(tmp_path: Path) -> None:
    network = trained()
    save_network(tmp_path / "network.safetensors", network)
    assert_same(load_network(tmp_path / "network.safetensors"), network)
    with pytest.raises(ValueError, match="holds a network without a head; fine-tune"):
        load_classifier(tmp_path / "network.safetensors")


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(outputs=3, pooling="cls", mixup=0.0),
        HeadConfig(outputs=3, pooling="cat", freeze=True),
        HeadConfig(task="staging", outputs=4, context=3, context_depth=2),
        HeadConfig(task="regression", outputs=2),
    ],
    ids=lambda head: f"{head.task}-{head.pooling}",
)
def test_a_classifier_survives_checkpoints_and_files(tmp_path: Path, head: HeadConfig) -> None:
    classifier = trained_classifier(head)
    run = saved_finetuning(tmp_path / "x.ckpt", classifier, ("low", "high"))
    saved = load_classifier(run)
    save_classifier(tmp_path / "x.safetensors", saved)
    windows = SAMPLES_BCL[None] if head.task == "staging" else SAMPLES_BCL
    with torch.no_grad():
        expected = classifier(windows)
    for path in (run, tmp_path / "x.safetensors"):
        loaded, classes = load_classifier(path)
        assert classes == ("low", "high")
        assert loaded.config == head
        assert not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(windows), expected)
        assert_same(load_network(path), classifier.network)
        assert isinstance(load_either(path), SavedClassifier)
    assert isinstance(load_either(saved_pretraining(run, trained())), BioFame)


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    path = saved_pretraining(tmp_path / "x.ckpt", trained())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fit_channels(load_network(path), ["emg"])
    assert torch.equal(torch.rand(3), expected)


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_network(tmp_path / "absent.ckpt")
    with pytest.raises(CheckpointError, match=r"no step-\*\.ckpt"):
        load_network(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_network(tmp_path / "absent.safetensors")


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = saved_pretraining(tmp_path / "x.ckpt", trained())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="was altered"):
        load_network(path)
    weights = tmp_path / "x.safetensors"
    save_network(weights, trained())
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_network(weights)


def test_checkpoints_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    state = {"network.embedding.weight": torch.zeros(2)}
    checkpoints.save(path, {"state_dict": state, "hyper_parameters": plain(model=MODEL)})
    with pytest.raises(ValueError, match=r"no checkpoint of pretrain.*network\.embedding"):
        load_network(path)
    checkpoints.save(path, {"epoch": 1})
    with pytest.raises(ValueError, match="holds no weights"):
        load_network(path)
    with pytest.raises(ValueError, match=r"biofame finetune --init\.run"):
        load_classifier(saved_pretraining(path, trained()))
    foreign = tmp_path / "foreign.safetensors"
    checkpoints.save_weights(foreign, state, {})
    with pytest.raises(ValueError, match="does not say how its model is set"):
        load_network(foreign)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"patch": 5}, r"projection\.weight is \(8, 4\), should be \(8, 5\)"),
        ({"depth": 3}, r"encoder\.blocks\.2\.filter\.bank_HD2 is missing"),
        ({"depth": 1}, r"encoder\.blocks\.1\.filter\.bank_HD2 is not the model's"),
        ({"channels": ["eeg"]}, r"revin\.weight is \(2,\), should be \(1,\)"),
        ({"wings": 2}, r"options that this version does not know: \['wings'\]"),
        ({"dim": 7}, r"model\.mixer_heads must divide dim 7"),
    ],
)
def test_weights_that_do_not_fit_their_settings_are_refused(
    tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    path = saved_pretraining(tmp_path / "x.ckpt", trained(), **changed)
    with pytest.raises(ValueError, match=match):
        load_network(path)


def test_settings_must_be_recorded(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    state = {f"network.{name}": tensor for name, tensor in trained().state_dict().items()}
    checkpoints.save(path, {"state_dict": state, "hyper_parameters": {"model": None}})
    with pytest.raises(ValueError, match="model is not recorded, got None"):
        load_network(path)


def test_known_channels_keep_their_rows_and_new_ones_say_nothing() -> None:
    network = trained()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = ["emg", "eog", "eeg"]
    fitted = fit_channels(network, names)
    assert fitted.config == replace(MODEL, channels=tuple(names))
    windows = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network(windows, channels=names)
        torch.testing.assert_close(fitted(windows), expected, rtol=0, atol=0)
    own = dict(fitted.named_parameters())
    assert own["revin.weight"][0] == 1
    assert own["revin.bias"][0] == 0
    assert not own["mixer.modality.table_KTD"][0].any()
    assert all(parameter.requires_grad for parameter in own.values())
    with torch.no_grad():
        for parameter in own.values():
            parameter.fill_(7.0)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_fitting_keeps_the_mode_and_checks_the_names() -> None:
    assert fit_channels(BioFame(MODEL).train(), ["eeg"]).training
    assert not fit_channels(BioFame(MODEL).eval(), ["eeg"]).training
    with pytest.raises(ValueError, match="must name each channel once, got eeg"):
        fit_channels(BioFame(MODEL), ["eeg", "eeg"])
    with pytest.raises(ValueError, match="at least one channel"):
        fit_channels(BioFame(MODEL), [])


def test_the_difference_names_every_field() -> None:
    check_same(MODEL, replace(MODEL, channels=("emg",), dropout=0.0), source="x.ckpt")
    other = replace(MODEL, patch=5, dim=16, depth=1, tokens=7)
    with pytest.raises(ValueError, match=r"^x\.ckpt holds another model") as caught:
        check_same(MODEL, other, source="x.ckpt")
    for part in ("patch 4, wanted 5", "dim 8, wanted 16", "depth 2, wanted 1", "tokens 6, wanted"):
        assert f"model.{part}" in str(caught.value)
