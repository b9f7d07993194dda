"""Models from checkpoints, run folders and weights of every layout."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mobileclip.checkpoint import load_model, recognise
from mobileclip.config import ModelConfig
from mobileclip.models.clip import MobileCLIP, build_model
from mobileclip.models.fold import fold, is_folded
from mobileclip.models.keymap import save_weights, to_layout
from mobileclip.module import MobileCLIPModule
from tenfold import checkpoints
from tenfold.ema_config import EmaConfig


def answers(model: MobileCLIP) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, model.image_size, model.image_size, generator=generator)
    tokens = torch.randint(1, 1000, (2, model.context_length), generator=generator)
    with torch.inference_mode():
        return torch.cat(model(image, tokens))


def saved_module(folder: Path, *, momentum: float) -> MobileCLIPModule:
    """Save a checkpoint as `fit` does, with an average that differs from the weights."""
    torch.manual_seed(0)
    module = MobileCLIPModule(
        ModelConfig(name="tiny", image_size=40), ema=EmaConfig(momentum=momentum)
    )
    if module.ema is not None:
        with torch.no_grad():
            module.ema.module.image_tower.head.fc.weight.mul_(-1)
    state = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    checkpoints.save(folder / "checkpoints" / "step-000004.ckpt", {**state, "global_step": 4})
    return module.eval()


def test_a_run_gives_its_average_or_its_last_weights(tmp_path: Path) -> None:
    module = saved_module(tmp_path, momentum=0.5)
    path = tmp_path / "checkpoints" / "step-000004.ckpt"
    for source in (tmp_path, path):
        averaged, last = load_model(source), load_model(source, ema=False)
        assert (averaged.name, averaged.image_size, averaged.training) == ("tiny", 40, False)
        assert torch.equal(answers(averaged), answers(module.ema.module.eval()))
        assert torch.equal(answers(last), answers(module.network))
        assert not torch.equal(answers(averaged), answers(last))


def test_a_run_without_average_gives_its_weights(tmp_path: Path) -> None:
    module = saved_module(tmp_path, momentum=0.0)
    assert torch.equal(answers(load_model(tmp_path)), answers(module.network))


@pytest.mark.parametrize("layout", ["ours", "official", "open_clip"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_every_layout(layout, suffix: str, tmp_path: Path) -> None:
    model = build_model("tiny").eval()
    save_weights(model, tmp_path / f"w{suffix}", layout=layout)
    assert torch.equal(answers(load_model(tmp_path / f"w{suffix}")), answers(model))


def test_folded_weights_make_a_folded_model(tmp_path: Path) -> None:
    model = fold(build_model("tiny").eval())
    save_weights(model, tmp_path / "folded.safetensors", layout="ours")
    loaded = load_model(tmp_path / "folded.safetensors")
    assert is_folded(loaded)
    assert torch.equal(answers(loaded), answers(model))


def test_an_image_tower_alone_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build_model("tiny").eval()
    save_weights(model, tmp_path / "image.pt", layout="timm")
    image = torch.rand(1, 3, 32, 32)
    loaded = load_model(tmp_path / "image.pt")
    assert torch.equal(loaded.encode_image(image), model.encode_image(image))
    assert "holds an image tower alone" in caplog.text


@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [("s0", 0, 0), ("s1", 0, 0), ("s2", 0, 0), ("b", 0, 224), ("b", 256, 256), ("tiny", 0, 0)],
)
def test_models_are_recognised_in_every_layout(name: str, image_size: int, expected: int) -> None:
    with torch.device("meta"):
        model = build_model(name, image_size=image_size)
        states = [to_layout(model, layout) for layout in ("ours", "official", "open_clip", "timm")]
    for state in states:
        assert recognise(state, source="weights") == (name, expected)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_model(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match=r"no step-\*.ckpt"):
        load_model(tmp_path)
    checkpoints.save(tmp_path / "step-1.ckpt", {"state_dict": {}, "global_step": 1})
    with pytest.raises(ValueError, match="no checkpoint of `fit`"):
        load_model(tmp_path / "step-1.ckpt")
    other = {"image_tower.stages.0.mlp.fc1.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="tower of 1 blocks; our models have s0 20"):
        recognise(other, source="weights")
