"""The ensemble: mean of probabilities, inputs of each member, precision, weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from teacher_files import CLASSES, SIZE, make_teacher, write_member
from torch import Tensor, nn

from dataset_reinforcement.model import build_model
from dataset_reinforcement.teacher import Member, Teacher, build_teacher, prepare
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from dataset_reinforcement.top_labels import top_labels
from tenfold.back_off import BackOff
from tenfold.digests import weights_sha256

PLAIN: dict[str, Any] = {"size": None, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def views(count: int = 6, side: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def linear(seed: int, scale: float = 12.0) -> nn.Module:
    torch.manual_seed(seed)
    layer = nn.Linear(3 * SIZE * SIZE, len(CLASSES))
    with torch.no_grad():
        layer.weight *= scale
    return nn.Sequential(nn.Flatten(), layer)


def member(network: nn.Module, **inputs: Any) -> Member:
    return Member(name="test", network=network, **(PLAIN | inputs))


def test_copies_of_one_network_are_that_network(tmp_path: Path):
    config = write_member(tmp_path / "m.safetensors")
    one, three = (
        build_teacher(TeacherConfig(members=(config,) * copies), num_classes=4).probabilities(
            views()
        )
        for copies in (1, 3)
    )
    assert torch.equal(one, three)
    assert one.dtype == torch.float32
    assert one.max() > 0.9


def test_probabilities_are_averaged_not_logits():
    networks = [linear(0), linear(1)]
    found = Teacher([member(network) for network in networks]).probabilities(views())
    images = views().float() / 255
    logits = torch.stack([network(images) for network in networks]).detach()
    torch.testing.assert_close(found, logits.softmax(-1).mean(0))
    assert (found - logits.mean(0).softmax(-1)).abs().max() > 0.05


def test_each_member_resizes_and_normalises_in_its_own_way():
    seen: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return images.mean((2, 3))

    half, mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    members = [member(Recorder(), size=8, mean=mean, std=std), member(Recorder(), mean=half)]
    Teacher(members).probabilities(views())
    images = views().float() / 255
    small = F.interpolate(images, (8, 8), mode="bilinear", antialias=True)
    expected = (small.double() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(seen[0].double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[1], images - torch.tensor(half).view(3, 1, 1))


def test_resizing_is_antialiased():
    stripes = (torch.arange(32) % 2).float().expand(1, 3, 32, 32)
    small = prepare(stripes, size=8, mean=(0, 0, 0), std=(1, 1, 1))
    assert (small - 0.5).abs().max() < 0.1


def test_whole_numbers_and_floats_give_the_same_answer():
    teacher = Teacher([member(linear(0))])
    expected = teacher.probabilities(views())
    assert torch.equal(expected, teacher.probabilities(views().float() / 255))


def test_the_teacher_is_frozen_and_its_answer_may_stand_in_a_loss():
    network = nn.Sequential(nn.BatchNorm2d(3), linear(0), nn.Dropout(0.9)).train()
    teacher = Teacher([member(network)])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    target = teacher.probabilities(views())
    assert torch.equal(target, teacher.probabilities(views()))
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    logits = torch.zeros(6, 4, requires_grad=True)
    F.kl_div(logits.log_softmax(-1), target, reduction="batchmean").backward()
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(-1) - target) / 6)


def test_large_batches_are_split():
    sizes: list[int] = []

    class Counter(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return images.mean((2, 3))

    found = Teacher([member(Counter())], batch=4).probabilities(views(10))
    assert sizes == [4, 4, 2]
    torch.testing.assert_close(found, (views(10).float() / 255).mean((2, 3)).softmax(-1))


def test_half_precision_runs_the_network_only(tmp_path: Path):
    config = write_member(tmp_path / "m.safetensors")
    full, half = (
        build_teacher(TeacherConfig(members=(config,), precision=precision), num_classes=4)
        for precision in ("fp32", "bf16")
    )
    exact, rounded = full.probabilities(views()), half.probabilities(views())
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.2
    torch.testing.assert_close(rounded.sum(-1), torch.ones(6), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_compiled_teacher_gives_the_same_answer(tmp_path: Path):
    config = write_member(tmp_path / "m.safetensors")
    eager, compiled = (
        build_teacher(TeacherConfig(members=(config,), compile=compile), num_classes=4)
        for compile in (False, True)
    )
    back_off = BackOff(compiled.probabilities, batch=4, name="the teacher")
    torch.testing.assert_close(back_off(views(6)), eager.probabilities(views(6)))
    assert compiled.describe()["compile"]


def test_weights_come_from_torch_files_too_and_their_hash_is_that_of_the_tensors(tmp_path: Path):
    config = write_member(tmp_path / "m.safetensors")
    torch.save({"state_dict": load_file(tmp_path / "m.safetensors")}, tmp_path / "m.pth")
    again = replace(config, checkpoint=tmp_path / "m.pth")
    first, second = (
        build_teacher(TeacherConfig(members=(c,)), num_classes=4).describe()["members"][0]
        for c in (config, again)
    )
    assert first == second
    assert (first["model"], first["size"]) == ("conv4", SIZE)
    network = build_model("conv4", num_classes=4, image_size=SIZE)
    network.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert first["weights_sha256"] == weights_sha256(network)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1e-3
    assert first["weights_sha256"] != weights_sha256(network)


def test_a_timm_model_brings_its_own_size_and_normalisation(tmp_path: Path):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=4)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    config = MemberConfig(model="test_vit", checkpoint=tmp_path / "vit.safetensors")
    teacher = build_teacher(TeacherConfig(members=(config,)), num_classes=4)
    known = timm.get_pretrained_cfg("test_vit")
    described = teacher.describe()["members"][0]
    assert described["size"] == known.input_size[-1]
    assert described["mean"] == list(known.mean)
    assert described["std"] == list(known.std)
    size = known.input_size[-1]
    inputs = prepare(views().float() / 255, size=size, mean=known.mean, std=known.std)
    with torch.no_grad():
        expected = network.eval()(inputs).softmax(-1)
    torch.testing.assert_close(teacher.probabilities(views()), expected)


def test_wrong_members_are_refused(tmp_path: Path):
    config = write_member(tmp_path / "m.safetensors")

    def build(member: MemberConfig, num_classes: int = 4) -> None:
        build_teacher(TeacherConfig(members=(member,)), num_classes=num_classes)

    with pytest.raises(ValueError, match=r"m\.safetensors does not fit conv4 of 7 classes: head"):
        build(config, num_classes=7)
    wider = replace(config, model="conv8")
    with pytest.raises(ValueError, match=r"does not fit conv8 of 4 classes: .* is \[4"):
        build(wider)
    with pytest.raises(ValueError, match=r"there is no model 'resnet5'; nearest: .*resnet50"):
        build(MemberConfig(model="resnet5", checkpoint=config.checkpoint))
    with pytest.raises(ValueError, match=r"there is no model 'resnet5'"):
        build(MemberConfig(model="resnet5", pretrained=True))
    with pytest.raises(ValueError, match=r"resnet18 has 1000 classes, the images have 4: choose"):
        build(MemberConfig(model="resnet18", pretrained=True))
    with pytest.raises(ValueError, match=r"conv4 has no published weights"):
        build(MemberConfig(model="conv4", pretrained=True, size=8))
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        build(replace(config, checkpoint=tmp_path / "gone.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"conv4 needs either a checkpoint or pretrained true"),
        ({"pretrained": True, "checkpoint": Path("a")}, r"needs either a checkpoint or pretrained"),
        ({"pretrained": True, "size": 0}, r"conv4: size must be > 0, got 0"),
        ({"pretrained": True, "std": (1.0, 0.0, 1.0)}, r"conv4: std must be > 0"),
    ],
)
def test_impossible_members_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        MemberConfig(model="conv4", **changes)


def test_impossible_teachers_are_refused():
    member = MemberConfig(model="resnet18", pretrained=True)
    with pytest.raises(ValueError, match=r"teacher\.members is empty"):
        TeacherConfig(members=())
    with pytest.raises(ValueError, match=r"precision must be fp32 or bf16, got 'fp16'"):
        TeacherConfig(members=(member,), precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"teacher\.batch must be >= 1, got 0"):
        TeacherConfig(members=(member,), batch=0)


def test_the_largest_probabilities_fall_and_ties_go_by_class():
    probabilities = torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2]])
    found = top_labels(probabilities, 4)
    assert found.classes.tolist() == [[1, 3, 4, 0], [0, 1, 2, 3]]
    assert found.classes.dtype == np.uint16
    expected = torch.topk(probabilities, 4).values
    assert torch.equal(torch.from_numpy(found.probabilities), expected)
    assert found.num_renormalised == 0


def test_a_sum_above_one_is_divided_by_and_counted():
    probabilities = torch.tensor([[0.5, 0.5 + 1e-6], [0.75, 0.25]])
    found = top_labels(probabilities, 2)
    assert found.num_renormalised == 1
    assert found.probabilities.sum(-1).tolist() == pytest.approx([1, 1], abs=1e-7)
    assert found.probabilities[1].tolist() == [0.75, 0.25]


@pytest.mark.parametrize(("top_k", "classes"), [(3, 10), (9, 10), (10, 10), (1, 1)])
def test_the_entropy_is_that_of_the_completed_label(top_k: int, classes: int):
    torch.manual_seed(0)
    found = top_labels((2 * torch.randn(5, classes)).softmax(-1), top_k)
    for row, values in enumerate(found.probabilities.astype(np.float64).tolist()):
        rest = (
            [(1 - sum(values)) / (classes - top_k)] * (classes - top_k) if classes > top_k else []
        )
        naive = -sum(q * np.log(q) for q in values + rest)
        assert float(found.entropy[row]) == pytest.approx(naive, abs=1e-6)


def test_an_ensemble_is_described_in_the_order_of_its_members(tmp_path: Path):
    described = build_teacher(make_teacher(tmp_path, members=3), num_classes=4).describe()
    assert len({entry["weights_sha256"] for entry in described["members"]}) == 3
    assert described["precision"] == "fp32"
