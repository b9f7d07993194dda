"""The training of backbones: alone or tied to an old one, which stays as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_files import make_images

from fastfill.backbone import Backbone
from fastfill.backbone_module import BackboneModule, shared_classes
from fastfill.compat_losses import bct_loss, ract_loss
from fastfill.config import BackboneConfig, CompatConfig
from fastfill.evaluation.metrics import retrieval
from fastfill.image_data import ImageData
from fastfill.models import build_backbone
from fastfill.weights import backbone_card, load_backbone, save_backbone
from tenfold.bare_trainer import bare_trainer
from tenfold.optim import OptimConfig

MODEL = BackboneConfig(arch="tiny_mlp", dim=16, num_classes=3)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An old backbone of three rows, of which it has seen two."""
    torch.manual_seed(7)
    backbone = build_backbone(MODEL)
    save_backbone(tmp_path / "old.safetensors", backbone, backbone_card(backbone, name="old"))
    return tmp_path / "old.safetensors"


def train(
    images: Path, compat: CompatConfig | None = None, *, steps: int = 4, **model: Any
) -> BackboneModule:
    torch.manual_seed(0)
    config = BackboneConfig(**{"arch": "tiny_mlp", "dim": 16, "num_classes": 3, **model})
    optim = OptimConfig(lr=0.1, total_steps=steps, name="sgd")
    module = BackboneModule(config, compat or CompatConfig(), optim)
    data = ImageData(str(images), augment="none", batch_size=8)
    bare_trainer(steps).fit(module, datamodule=data)
    return module


def test_shared_classes_are_those_the_old_model_has_seen() -> None:
    head = build_backbone(BackboneConfig(arch="tiny_mlp", dim=2, num_classes=3))
    assert shared_classes(5, head, 2).tolist() == [0, 1, -1, -1, -1]
    assert shared_classes(5, head, 0).tolist() == [0, 1, 2, -1, -1]
    assert shared_classes(2, head, 3).tolist() == [0, 1]
    with pytest.raises(ValueError, match="old_classes 4 are more than the 3 rows of the old head"):
        shared_classes(5, head, 4)


@pytest.mark.parametrize("method", ["bct", "lwf", "ract", "bct_ract", "triplet", "l2"])
def test_a_compatible_training_moves_the_new_model_alone(
    tmp_path: Path, old: Path, method: Any
) -> None:
    images = make_images(tmp_path / "images")
    compat = CompatConfig(method=method, old=old, old_classes=2, weight=3.0)
    tied, alone = train(images, compat), train(images)
    (kept,) = tied._old
    state = load_backbone(old)[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in kept.state_dict().items())
    assert not kept.training
    assert all(p.grad is None and not p.requires_grad for p in kept.parameters())
    assert set(tied.state_dict()) == set(alone.state_dict())
    first = [next(iter(m.network.parameters())) for m in (tied, alone)]
    assert not torch.equal(*first)


def logged(module: BackboneModule, batch: Any) -> dict[str, torch.Tensor]:
    """Return what one training step would log."""
    values: dict[str, torch.Tensor] = {}
    module.log = lambda name, value, **_: values.update({name: value})  # type: ignore[method-assign]
    module.training_step(batch, 0)
    return values


def expected_term(method: str, new: torch.Tensor, kept: Backbone, batch: Any) -> torch.Tensor:
    if method == "ract":
        said = kept.embed_uint8(batch["image"])
        return ract_loss(new, said, batch["label"], temperature=0.5, hardest=2)
    seen = batch["label"] < 2
    return F.cross_entropy(new[seen] @ kept.head.weight.T, batch["label"][seen])


@pytest.mark.parametrize("method", ["bct", "ract"])
def test_the_loss_is_cross_entropy_and_the_weighted_term(
    tmp_path: Path, old: Path, method: Any
) -> None:
    """BCT's term is that of images of shared classes alone, here by hand."""
    images = make_images(tmp_path / "images")
    compat = CompatConfig(
        method=method, old=old, old_classes=2, weight=3.0, temperature=0.5, hardest=2
    )
    module = train(images, compat, steps=1)
    pixels = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(1))
    batch = {"image": pixels, "label": torch.arange(9) % 3, "keys": [], "bad": []}
    values = logged(module, batch)
    new = module.network.embed_uint8(pixels)
    classes = F.cross_entropy(module.network.head(new), batch["label"], label_smoothing=0.1)
    term = expected_term(method, new, load_backbone(old)[0], batch)
    torch.testing.assert_close(values["train/loss_classes"], classes)
    torch.testing.assert_close(values["train/loss_compat"], term)
    torch.testing.assert_close(values["train/loss"], classes + 3 * term)


def test_an_image_of_a_new_class_has_no_part_in_bct() -> None:
    torch.manual_seed(0)
    new, head = torch.randn(4, 5), torch.randn(3, 5)
    class_map, labels = torch.tensor([0, 1, -1]), torch.tensor([2, 0, 2, 1])
    moved = new + torch.tensor([9.0, 0, 9.0, 0])[:, None]
    assert torch.equal(
        bct_loss(new, head, labels, class_map), bct_loss(moved, head, labels, class_map)
    )


def test_validation_measures_retrieval_among_the_held_out_images(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    data = ImageData(str(images), augment="none", batch_size=10)
    module = BackboneModule(MODEL, optim=OptimConfig(lr=0.1, total_steps=4, name="sgd"))
    trainer = bare_trainer(4, limit_val_batches=1.0)
    trainer.fit(module, datamodule=data)
    (measured,) = trainer.validate(module, datamodule=data, verbose=False)
    source = data.held_out
    pixels = torch.stack([torch.from_numpy(np.array(source.load(id))) for id in source.ids()])
    with torch.no_grad():
        network = module.network.eval()
        found = network.embed_uint8(pixels.permute(0, 3, 1, 2)[:, :1])
        logits = network.head(found)
    labels = torch.from_numpy(source.labels)
    rows = np.arange(len(labels))
    score = retrieval(found.numpy(), found.numpy(), source.labels, source.labels, self_rows=rows)
    expected = {
        "val/map": score.map,
        "val/accuracy": float((logits.argmax(1) == labels).float().mean()),
        "val/loss": float(F.cross_entropy(logits, labels)),
    }
    assert measured == pytest.approx(expected, abs=1e-5)


def test_a_new_run_starts_from_weights_that_fit(tmp_path: Path, old: Path) -> None:
    images = make_images(tmp_path / "images")
    trainer, module = (
        bare_trainer(0),
        BackboneModule(BackboneConfig(arch="tiny_mlp", dim=16, num_classes=3, init_from=old)),
    )
    trainer.fit(module, datamodule=ImageData(str(images), augment="none", batch_size=8))
    state = load_backbone(old)[0].state_dict()
    assert all(torch.equal(v, state[n]) for n, v in module.network.state_dict().items())
    with pytest.raises(ValueError, match=r"init_from .* does not fit the options: .* expected"):
        train(images, dim=15, init_from=old)
    with pytest.raises(ValueError, match="is of another architecture"):
        train(make_images(tmp_path / "large", size=32), arch="tiny_conv", init_from=old)
