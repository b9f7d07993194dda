import dataclasses
import json

import numpy as np
import pytest
import torch

from fastfill.card import ModelCard, TransformCard, VectorStats
from fastfill.closed_form import fit_linear
from fastfill.config import BackboneConfig, TransformConfig
from fastfill.models import build_backbone
from fastfill.transform import Transformation
from fastfill.weights import (
    CARD_KEY,
    backbone_card,
    load_backbone,
    load_transformation,
    save_backbone,
    save_transformation,
)
from tenfold import checkpoints
from tenfold.checkpoints import CheckpointError
from tenfold.plain_configs import plain

OLD = ModelCard("old", 3, "l2", "ab" * 32)
NEW = ModelCard("new", 5, "l2", "cd" * 32, num_classes=4)


def card(**changes):
    values = {"old": OLD, "new": NEW, "inner": 8, "old_stats": VectorStats(1.0, 0.5, [0.0] * 3)}
    return TransformCard(**(values | changes))


def tiny(**options):
    torch.manual_seed(0)
    h = Transformation(3, 5, inner=8, **options)
    h(torch.randn(9, 3), torch.randn(9, options["side_dim"]) if options else None)
    return h.eval()


def same_state(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in one.state_dict().items())


def test_h_and_its_card_survive_a_file(tmp_path):
    for side in (None, ModelCard("side", 2, "cosine", "v1")):
        h = tiny(**({} if side is None else {"side_dim": 2, "per_dimension": True}))
        own = card(side=side, per_dimension=side is not None)
        save_transformation(tmp_path / "h.safetensors", h, own)
        again, found = load_transformation(tmp_path / "h.safetensors")
        assert found == own
        assert not again.training
        same_state(h, again)


@pytest.mark.parametrize("kind", ["linear", "ridge", "procrustes"])
def test_a_closed_form_survives_a_file(kind, tmp_path):
    old = np.random.Generator(np.random.Philox(0)).standard_normal((20, 3))
    fitted = fit_linear(old, old @ np.ones((3, 5)), kind=kind)
    save_transformation(tmp_path / "h.safetensors", fitted, card(kind=kind, inner=0))
    again, found = load_transformation(tmp_path / "h.safetensors")
    assert found.kind == kind
    same_state(fitted, again)


def checkpoint_of(network, **content):
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    return {"state_dict": state | {"new_head": torch.zeros(2)}, "global_step": 7} | content


def test_h_is_read_from_a_run_folder(tmp_path):
    h = tiny()
    content = checkpoint_of(
        h,
        hyper_parameters=plain(model=TransformConfig(inner=8)),
        **{CARD_KEY: card().to_json()},
    )
    path = tmp_path / "run" / "checkpoints" / "step-0000007.ckpt"
    checkpoints.save(path, content)
    for place in (tmp_path / "run", path):
        again, found = load_transformation(place)
        assert found == card()
        same_state(h, again)


def backbone(**options):
    torch.manual_seed(0)
    values = {"arch": "tiny_conv", "dim": 8, "num_classes": 4} | options
    return build_backbone(BackboneConfig(**values)).eval()


@pytest.mark.parametrize("arch", ["tiny_conv", "tiny_mlp", "timm:test_resnet"])
def test_a_backbone_and_its_card_survive_a_file(arch, tmp_path):
    network = backbone(arch=arch)
    own = backbone_card(network, name="first", metric="cosine")
    save_backbone(tmp_path / "b.safetensors", network, own)
    again, found = load_backbone(tmp_path / "b.safetensors")
    assert found == own
    assert again.config == network.config
    assert not again.training
    same_state(network, again)


def test_a_backbone_is_read_from_a_run_folder_with_a_card_of_its_weights(tmp_path):
    network = backbone()
    content = checkpoint_of(network, hyper_parameters=plain(model=network.config))
    checkpoints.save(tmp_path / "run" / "checkpoints" / "step-0000007.ckpt", content)
    again, found = load_backbone(tmp_path / "run")
    same_state(network, again)
    assert found == backbone_card(network, name="run")


def test_a_card_changes_with_the_weights():
    network = backbone()
    before = backbone_card(network, name="a")
    with torch.no_grad():
        network.head.weight[0, 0] += 1e-6
    assert backbone_card(network, name="a").weights_sha256 != before.weights_sha256


def test_a_card_of_other_weights_is_not_written(tmp_path):
    network = backbone()
    wrong = dataclasses.replace(backbone_card(network, name="a"), weights_sha256="ef" * 32)
    with pytest.raises(ValueError, match=r"the card: expected a .* their weights differ"):
        save_backbone(tmp_path / "b.safetensors", network, wrong)
    with pytest.raises(ValueError, match=r"the map: .* its card describes"):
        save_transformation(tmp_path / "h.safetensors", tiny(), card(inner=9))
    assert not list(tmp_path.iterdir())


def altered(path, *, metadata=None, drop=None, change=None):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        kept = dict(file.metadata())
    state = checkpoints.load_weights(path)
    if drop:
        del state[drop]
    if change:
        state[change] = state[change] + 1
    checkpoints.save_weights(path, state, kept | (metadata or {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"format": "other"}}, r"is no file of format fastfill-transform-1 \(it says"),
        ({"metadata": {"card": "{"}}, "a TransformCard is not JSON"),
        ({"metadata": {"card": "{}"}}, "a TransformCard lacks inner"),
        ({"metadata": {"card": json.dumps(card(inner=9).to_json())}}, r"mixer.0.weight is \[8, 20"),
        ({"metadata": {"card": json.dumps(card(kind="linear").to_json())}}, "lacks weight"),
        ({"drop": "mixer.6.bias"}, r"lacks mixer\.6\.bias"),
    ],
)
def test_a_file_that_is_not_what_its_card_describes_is_refused(change, message, tmp_path):
    path = tmp_path / "h.safetensors"
    save_transformation(path, tiny(), card())
    altered(path, **change)
    with pytest.raises(ValueError, match=message):
        load_transformation(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"change": "head.weight"}, "their weights differ"),
        ({"metadata": {"config": "{"}}, "a description that is not JSON"),
        ({"metadata": {"config": "{}"}}, "does not name its architecture"),
        ({"metadata": {"config": '{"arch": "tiny_conv", "dim": "x"}'}}, "damaged description"),
        ({"metadata": {"config": '{"arch": "vgg"}'}}, "model.arch must be one of"),
        ({"drop": "head.weight"}, "lacks head.weight"),
    ],
)
def test_a_backbone_that_was_altered_is_refused(change, message, tmp_path):
    path, network = tmp_path / "b.safetensors", backbone()
    save_backbone(path, network, backbone_card(network, name="a"))
    altered(path, **change)
    with pytest.raises(ValueError, match=message):
        load_backbone(path)


@pytest.mark.parametrize("load", [load_backbone, load_transformation])
def test_what_is_missing_or_damaged_is_named(load, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"no such checkpoint: .*x\.safetensors"):
        load(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be read"):
        load(path)
    checkpoints.save_weights(path, {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"is no file of format .* \(it says nothing\)"):
        load(path)
    other = tmp_path / "step-1.ckpt"
    checkpoints.save(other, {"state_dict": {}, "hyper_parameters": {}})
    with pytest.raises(
        ValueError, match=r"does not name its architecture|is no checkpoint of `fit`"
    ):
        load(other)


def test_each_loader_refuses_the_others_file(tmp_path):
    network = backbone()
    save_backbone(tmp_path / "b.safetensors", network, backbone_card(network, name="a"))
    with pytest.raises(ValueError, match=r"fastfill-transform-1 \(it says fastfill-backbone-1\)"):
        load_transformation(tmp_path / "b.safetensors")
