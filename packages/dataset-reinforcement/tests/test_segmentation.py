"""DeepLabv3 on a tiny generated data set in ADE20K's folders."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from dataset_reinforcement.image_order import Draw
from dataset_reinforcement.segmentation import SegmentationModule, pixel_loss
from dataset_reinforcement.segmentation_data import SegmentationData
from dataset_reinforcement.segmentation_images import IGNORED, SegmentationImages, random_view
from dataset_reinforcement.transfer_config import (
    BackboneConfig,
    SegmentationConfig,
    TransferOptimConfig,
)
from tenfold import keyed
from tenfold.bare_trainer import bare_trainer
from tenfold.ema_config import EmaConfig

SMALL = BackboneConfig(name="resnet18")


def make_images(root: Path, count: int = 3) -> Path:
    """Images 40 x 56: left half class 1, right half class 2, a stripe of grey level 0."""
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            mask = np.ones((40, 56), np.uint8)
            mask[:, 28:] = 2
            mask[:4] = 0
            pixels = np.stack([mask * 80, mask * 40, mask * 10 + number], axis=2)
            Image.fromarray(pixels).save(root / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(root / "annotations" / split / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes."""
    return make_images(tmp_path_factory.mktemp("ade"))


def test_evaluation_scales_the_image_and_keeps_the_mask(place: Path) -> None:
    images = SegmentationImages(place, "validation", classes=2, size=32)
    found = images[1]
    assert found["image"].shape == (3, 32, 32)
    assert found["mask"].shape == (40, 56)
    assert found["mask"][:4].unique().tolist() == [IGNORED]
    assert found["mask"][4:, :28].unique().tolist() == [0]
    assert found["mask"][4:, 28:].unique().tolist() == [1]


def test_grey_levels_may_be_classes_themselves(place: Path) -> None:
    images = SegmentationImages(place, "validation", classes=3, size=32, zero_is_ignored=False)
    assert images[0]["mask"].unique().tolist() == [0, 1, 2]


def test_views_are_keyed_and_move_the_mask_with_the_image(place: Path) -> None:
    images = SegmentationImages(place, "training", classes=2, size=32, seed=5)
    first, again, other = (images[Draw(epoch, 0)] for epoch in (0, 0, 1))
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])
    for epoch in range(12):
        view = images[Draw(epoch, 2)]
        red, mask = view["image"][0].float(), view["mask"]
        assert mask.shape == (32, 32)
        # Away from borders the colour tells the class: 0, 80 or 160 of red.
        for level, label in ((0, IGNORED), (80, 0), (160, 1)):
            assert (mask[red == level] != label).sum() <= 0.03 * (red == level).sum()


def test_small_views_are_padded_with_ignored_pixels() -> None:
    image = torch.full((3, 10, 20), 99, dtype=torch.uint8)
    mask = torch.zeros(10, 20, dtype=torch.uint8)
    rng = keyed.generator("view")
    view, classes = random_view(image, mask, size=16, scale=(0.5, 0.5), rng=rng)
    assert view.shape == (3, 16, 16)
    assert (classes == 0).sum() == 8 * 16
    assert (classes[8:] == IGNORED).all()
    assert (view[:, 8:] == 0).all()
    assert (view[:, :8] == 99).all()


def test_the_loss_is_over_pixels_that_have_a_class() -> None:
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 5.0]]]])
    mask = torch.tensor([[[0, IGNORED]]])
    expected = -torch.tensor([2.0, 0.0]).log_softmax(0)[0]
    torch.testing.assert_close(pixel_loss(logits, mask), expected)
    assert pixel_loss(logits, torch.full((1, 1, 2), IGNORED)) == 0


def test_two_steps_and_the_measure(place: Path) -> None:
    lightning.seed_everything(0, verbose=False)
    module = SegmentationModule(
        SMALL,
        SegmentationConfig(classes=2, output_stride=16),
        TransferOptimConfig(lr=1e-3, total_steps=2, warmup_steps=0),
        EmaConfig(momentum=0.25),
    )
    data = SegmentationData(
        place, num_classes=2, size=32, batch_size=2, val_batch_size=2, workers=0
    )
    expected: list[torch.Tensor] = []

    class Average(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args) -> None:
            was = expected[-1] if expected else before
            expected.append(0.75 * was + 0.25 * pl_module.network.head[-1].weight.detach())

    trainer = bare_trainer(
        2,
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
        val_check_interval=2,
        callbacks=[Average()],
    )
    before = module.network.head[-1].weight.detach().clone()
    trainer.fit(module, datamodule=data)
    torch.testing.assert_close(module.ema.module.head[-1].weight, expected[-1])
    assert trainer.global_step == 2
    assert not torch.equal(before, module.network.head[-1].weight)
    measures = trainer.callback_metrics
    for name in ("train/loss", "train/loss_main", "train/loss_auxiliary"):
        assert torch.isfinite(measures[name])
    assert 0 <= measures["val/miou"] <= 1
    assert 0 <= measures["val/miou_ema"] <= 1


def test_the_measure_is_that_of_the_whole_set() -> None:
    """By hand: class 0 has 3 of 5 pixels in common, class 1 has 1 of 3, class 2 is nowhere."""
    module = SegmentationModule(SMALL, SegmentationConfig(classes=3, output_stride=16))
    truth = [torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 1, IGNORED, IGNORED]])]
    answers = [torch.tensor([[0, 0, 0, 0]]), torch.tensor([[1, 1, 2, 0]])]
    for mask, answer in zip(truth, answers, strict=True):
        logits = torch.nn.functional.one_hot(answer, 3).permute(2, 0, 1)[None].float()
        module.iou.update(module._enlarged(logits, mask.shape), mask[None])
    assert module.iou.compute().item() == pytest.approx((3 / 5 + 1 / 3) / 2)


@pytest.mark.parametrize("stride", [8, 16])
def test_the_trunk_keeps_its_stride(stride: int) -> None:
    module = SegmentationModule(SMALL, SegmentationConfig(classes=2, output_stride=stride)).eval()
    with torch.no_grad():
        logits = module(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert logits.shape == (1, 2, 64 // stride, 64 // stride)


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    folder = make_images(tmp_path, count=2)
    (folder / "annotations" / "validation" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png has no .*annotations/validation/1\.png"):
        SegmentationImages(folder, "validation", classes=2, size=32)


def test_unusable_masks_are_named(tmp_path: Path) -> None:
    folder = make_images(tmp_path, count=1)
    images = SegmentationImages(folder, "training", classes=1, size=32)
    with pytest.raises(
        ValueError, match=r"0\.png has class 1 of 1, from 0; is zero_is_ignored=true"
    ):
        images[0]
    path = folder / "annotations" / "training" / "0.png"
    Image.new("RGB", (56, 40)).save(path)
    with pytest.raises(ValueError, match="must be a grey or palette image, its mode is RGB"):
        images[0]
    Image.new("L", (56, 41)).save(path)
    with pytest.raises(ValueError, match=r"has \[41, 56\] pixels, its image \[40, 56\]"):
        images[0]


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        SegmentationImages(tmp_path, "training", classes=2, size=32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SegmentationConfig(output_stride=32), "model.output_stride must be 8 or 16"),
        (lambda: SegmentationConfig(classes=1), "model.classes must be >= 2"),
        (lambda: SegmentationData(Path(), scale=(2, 1)), "data.scale must be two rising numbers"),
    ],
)
def test_bad_options(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_trunk_that_cannot_be_dilated_is_refused() -> None:
    with pytest.raises(ValueError, match="down to stride 8; take a ResNet"):
        SegmentationModule(BackboneConfig(name="vit_tiny_patch16_224"))
