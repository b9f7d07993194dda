"""Published parameter counts, our small families, heads, weights from files, bad options."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dataset_reinforcement.config import (
    CurriculumConfig,
    LossConfig,
    ModelConfig,
    ResolutionConfig,
)
from dataset_reinforcement.model import SmallNet, build_model
from dataset_reinforcement.weights import read_weights, start_from
from tenfold import checkpoints
from tenfold.ema_config import EmaConfig

PUBLISHED_MILLIONS = {
    "resnet50": 25.6,
    "vit_base_patch16_224": 86.6,
    "swin_tiny_patch4_window7_224": 28.3,
    "mobilenetv3_large_100": 5.5,
    "resnext101_32x8d": 88.8,
}


@pytest.mark.parametrize(("name", "millions"), PUBLISHED_MILLIONS.items())
def test_parameters_of_timm_models_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = build_model(name, num_classes=1000, image_size=224)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("image_size", "channels"),
    [(8, [12, 24]), (32, [12, 24, 48]), (224, [12 << n for n in range(5)])],
)
def test_depth_follows_the_image_size(image_size: int, channels: list[int]) -> None:
    network = build_model("conv12", num_classes=7, image_size=image_size)
    assert isinstance(network, SmallNet)
    assert len(network.stages) == len(channels)
    assert network.get_classifier().in_features == channels[-1]
    network.eval()
    for size in (image_size, image_size + 4):
        assert network(torch.rand(2, 3, size, size)).shape == (2, 7)


def test_parameters_of_the_small_models() -> None:
    conv = build_model("conv4", num_classes=3, image_size=8)
    stem, same = 27 * 4 + 8, 2 * (9 * 16 + 8)
    wider = 9 * 4 * 8 + 9 * 64 + 4 * 8 + 3 * 16
    assert sum(p.numel() for p in conv.parameters()) == stem + same + wider + 8 * 3 + 3
    separable = build_model("separable4", num_classes=3, image_size=8)
    first = 2 * (9 * 4 + 8 + 4 * 4 + 8)
    second = (9 * 4 + 8) + (4 * 8 + 16) + (9 * 8 + 16) + (64 + 16)
    second += 4 * 8 + 16  # its shortcut
    assert sum(p.numel() for p in separable.parameters()) == stem + first + second + 8 * 3 + 3


def test_a_transformer_takes_other_sizes() -> None:
    with torch.device("meta"):
        network = build_model("vit_tiny_patch16_224", num_classes=5, image_size=64)
        for size in (64, 96):
            assert network(torch.rand(1, 3, size, size)).shape == (1, 5)


def test_an_unknown_model_is_named_with_its_neighbours() -> None:
    with pytest.raises(ValueError, match=r"no model 'resnet5O'; nearest: resnet"):
        build_model("resnet5O", num_classes=10, image_size=32)
    for name, message in (
        ("conv0", "no model 'conv0'; nearest: conv<width> such as conv8"),
        ("swin", "no model 'swin'; nearest: swin_"),
        ("resnet50.a1_in2k", r"resnet50 has no weights 'a1_in2k'; nearest: resnet50\.a1_in1k"),
    ):
        with pytest.raises(ValueError, match=message):
            build_model(name, num_classes=10, image_size=32)


def small(classes: int, name: str = "conv4") -> nn.Module:
    return build_model(name, num_classes=classes, image_size=8)


def test_a_new_head_on_a_saved_body(tmp_path: Path) -> None:
    saved, network = small(5), small(3)
    checkpoints.save_weights(tmp_path / "w.safetensors", saved.state_dict(), {})
    head = network.head.weight.clone()
    start_from(network, tmp_path / "w.safetensors")
    for name, tensor in saved.stages.state_dict().items():
        assert torch.equal(network.stages.state_dict()[name], tensor)
    assert torch.equal(network.head.weight, head)
    with pytest.raises(ValueError, match=r"does not fit the model: .* first stages"):
        start_from(small(3, "separable4"), tmp_path / "w.safetensors")


def test_weights_of_a_run_of_a_torch_file_and_of_none(tmp_path: Path) -> None:
    network = small(3)
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {f"ema.module.{name}": 2 * tensor for name, tensor in network.state_dict().items()}
    checkpoints.save(tmp_path / "step.ckpt", {"state_dict": state, "global_step": 3})
    torch.save({"model": network.state_dict()}, tmp_path / "w.pt")
    weight = network.head.weight
    assert torch.equal(read_weights(tmp_path / "step.ckpt")["head.weight"], weight)
    assert torch.equal(read_weights(tmp_path / "step.ckpt", ema=True)["head.weight"], 2 * weight)
    assert torch.equal(read_weights(tmp_path / "w.pt")["head.weight"], weight)
    with pytest.raises(ValueError, match="has no moving average"):
        read_weights(tmp_path / "w.pt", ema=True)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_weights(tmp_path / "absent.pt")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_a_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Hostile()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt cannot be read safely"):
        read_weights(tmp_path / "bad.pt")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"classes": 1}, r"model\.classes must be >= 2, got 1"),
        (ModelConfig, {"image_size": 0}, r"model\.image_size must be >= 1"),
        (ModelConfig, {"std": (0.0, 1.0, 1.0)}, r"model\.std must be three numbers > 0"),
        (LossConfig, {"mode": "ce"}, r"loss\.mode must be one of erm, kd, dr, got ce"),
        (LossConfig, {"label_smoothing": 1.0}, r"loss\.label_smoothing must lie in \[0, 1\)"),
        (LossConfig, {"mixup_alpha": 0.2}, r"loss\.mixup_alpha must be 0 for dr"),
        (LossConfig, {"temperature": 2.0}, r"loss\.temperature is of kd only"),
        (LossConfig, {"mode": "erm", "ce_weight": 1.0}, r"loss\.ce_weight is of kd only"),
        (LossConfig, {"mode": "kd", "temperature": float("nan")}, r"loss\.temperature must be"),
        (EmaConfig, {"momentum": 1.5}, r"ema\.momentum must lie in 0\.\.1"),
        (CurriculumConfig, {"order": "hard"}, r"curriculum\.order must be one of"),
        (CurriculumConfig, {"start": 0.0}, r"curriculum\.start must lie in \(0, 1\]"),
        (CurriculumConfig, {"band": (0.5, 0.5)}, r"curriculum\.band must be two rising"),
        (ResolutionConfig, {"low": 320, "high": 128}, r"resolution must be two rising sides"),
        (ResolutionConfig, {"scales": 0}, r"resolution\.scales must lie in 1\.\.16"),
    ],
)
def test_bad_options(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)
