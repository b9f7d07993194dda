"""What a member's checkpoint tells of its model and input, and what must be given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from dataset_reinforcement.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from dataset_reinforcement.model import build_model
from dataset_reinforcement.teacher import Teacher, build_teacher
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from tenfold import checkpoints
from tenfold.plain_configs import plain

MODEL = ModelConfig(
    name="conv4", classes=4, image_size=12, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.25)
)
GIVEN: dict[str, Any] = {"model": "conv4", "size": 12, "mean": MODEL.mean, "std": MODEL.std}


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_model("conv4", num_classes=4, image_size=12).state_dict()


def write_fit(path: Path, **hyper_parameters: Any) -> Path:
    """Save what `fit` saves of the model."""
    state = {
        "hyper_parameters": hyper_parameters or plain(model=MODEL),
        "state_dict": {f"network.{name}": tensor for name, tensor in weights().items()},
        "global_step": 3,
    }
    checkpoints.save(path, state)
    return path


def build(**options: Any) -> Teacher:
    return build_teacher(TeacherConfig(members=(MemberConfig(**options),)), num_classes=4)


@pytest.mark.parametrize("given", [{}, {"size": 12, "std": MODEL.std}, GIVEN])
def test_a_checkpoint_of_fit_tells_model_and_input(tmp_path: Path, given: dict[str, Any]):
    save_file(weights(), tmp_path / "plain.safetensors")
    told = build(checkpoint=write_fit(tmp_path / "step.ckpt"), **given)
    spelt = build(checkpoint=tmp_path / "plain.safetensors", **GIVEN)
    assert told.describe() == spelt.describe()
    described = told.describe()["members"][0]
    assert [described[name] for name in ("model", "size")] == ["conv4", 12]
    assert [described[name] for name in ("mean", "std")] == [list(MODEL.mean), list(MODEL.std)]
    views = torch.arange(2 * 3 * 12 * 12).reshape(2, 3, 12, 12).remainder(256).to(torch.uint8)
    assert torch.equal(told.probabilities(views), spelt.probabilities(views))


def test_a_copy_without_its_manifest_tells_the_same(tmp_path: Path):
    path = write_fit(tmp_path / "step.ckpt")
    whole = build(checkpoint=path).describe()
    checkpoints.manifest_path(path).unlink()
    assert build(checkpoint=path).describe() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "conv8"}, r"model is conv8, but .*step\.ckpt was trained with model conv4"),
        ({"size": 224}, r"size is 224, but .*step\.ckpt was trained with size 12: leave size out"),
        ({"mean": IMAGENET_MEAN}, r"mean is \(0\.485.* trained with mean \(0\.1, 0\.2, 0\.3\)"),
        ({"std": IMAGENET_STD}, r"std is \(0\.229.* trained with std \(0\.3, 0\.2, 0\.25\)"),
    ],
)
def test_another_input_than_the_checkpoints_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
):
    path = write_fit(tmp_path / "step.ckpt")
    with pytest.raises(ValueError, match=message):
        build(checkpoint=path, **(GIVEN | change))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ([], "size, mean, std"),
        (["size"], "mean, std"),
        (["size", "mean"], "std"),
        (["mean", "std"], "size"),
    ],
)
def test_plain_weights_of_our_models_have_no_default(
    tmp_path: Path, given: list[str], missing: str
):
    save_file(weights(), tmp_path / "plain.safetensors")
    options = {name: GIVEN[name] for name in given}
    with pytest.raises(ValueError, match=rf"conv4 needs its {missing}: .*plain\.safetensors"):
        build(model="conv4", checkpoint=tmp_path / "plain.safetensors", **options)


def test_a_timm_model_without_published_weights_has_no_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    network = timm.create_model("test_resnet", num_classes=4)
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    options: dict[str, Any] = {"model": "test_resnet", "checkpoint": tmp_path / "plain.safetensors"}
    published = timm.get_pretrained_cfg("test_resnet")
    assert published is not None
    assert build(**options).describe()["members"][0]["mean"] == list(published.mean)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: None)
    with pytest.raises(ValueError, match=r"test_resnet needs its size, mean, std"):
        build(**options)
    assert build(**options, size=64, mean=MODEL.mean, std=MODEL.std).members[0].size == 64


def test_weights_that_do_not_tell_their_model_need_it(tmp_path: Path):
    save_file(weights(), tmp_path / "plain.safetensors")
    other = write_fit(tmp_path / "detection.ckpt", model={"classes": 4, "image_size": 12})
    for path in (tmp_path / "plain.safetensors", other):
        with pytest.raises(ValueError, match=r"is no checkpoint of `fit` and .*: give model"):
            build(checkpoint=path, size=12)
    with pytest.raises(ValueError, match=r"neither a model nor a checkpoint"):
        MemberConfig(pretrained=True)


def test_another_number_of_classes_is_named(tmp_path: Path):
    config = MemberConfig(checkpoint=write_fit(tmp_path / "step.ckpt"))
    with pytest.raises(ValueError, match=r"step\.ckpt does not fit conv4 of 7 classes: head\."):
        build_teacher(TeacherConfig(members=(config,)), num_classes=7)
    assert replace(config, size=12).model is None
