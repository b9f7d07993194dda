"""Mask R-CNN on a tiny generated data set in COCO's format."""

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from dataset_reinforcement.coco import CocoImages, decode_mask, mirrored
from dataset_reinforcement.config import ModelConfig
from dataset_reinforcement.detection import DetectionModule
from dataset_reinforcement.detection_data import DetectionData
from dataset_reinforcement.features import Features
from dataset_reinforcement.image_order import Draw, EndlessBatches, rank_batches
from dataset_reinforcement.model import build_model
from dataset_reinforcement.transfer_config import (
    BackboneConfig,
    DetectionConfig,
    TransferOptimConfig,
)
from tenfold import checkpoints
from tenfold.bare_trainer import bare_trainer
from tenfold.ema_config import EmaConfig

CATEGORIES = [{"id": 7, "name": "disk"}, {"id": 90, "name": "square"}]
TINY = BackboneConfig(name="resnet18")


def rectangle(number: int, image: int, x: int, y: int, w: int, h: int, **more: object) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": 90,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        **more,
    }


def run_lengths(mask: np.ndarray) -> dict:
    code = coco_masks.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of 48 x 64 pixels: polygons, run lengths, a crowd, one image without objects."""
    folder = tmp_path_factory.mktemp("coco")
    crowd = np.zeros((48, 64), np.uint8)
    crowd[:5] = 1
    annotations = [
        rectangle(1, 3, 10, 8, 20, 16),
        rectangle(2, 3, 30, 30, 0, 5),
        rectangle(3, 5, 4, 4, 12, 30, category_id=7),
        rectangle(4, 9, 0, 0, 64, 5, iscrowd=1, segmentation=run_lengths(crowd)),
        rectangle(5, 12, 40, 20, 20, 20),
        rectangle(6, 12, 5, 20, 20, 20, category_id=7),
    ]
    images = [
        {"id": n, "file_name": f"{n:03d}.png", "height": 48, "width": 64} for n in (12, 9, 5, 3, 1)
    ]
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        (folder / split).mkdir()
        for image in images:
            pixels = np.full((48, 64, 3), 40, np.uint8)
            for each in annotations:
                if each["image_id"] == image["id"]:
                    x, y, w, h = each["bbox"]
                    pixels[y : y + h, x : x + w] = (200, each["category_id"], 60)
            Image.fromarray(pixels).save(folder / split / image["file_name"])
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def test_evaluation_reads_everything(place: Path) -> None:
    images = CocoImages(place, "val")
    assert images.classes == ("disk", "square")
    assert [images[n]["key"] for n in range(5)] == [f"{n:03d}.png" for n in (1, 3, 5, 9, 12)]
    empty = images[0]["objects"]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 48, 64)
    two = images[4]["objects"]
    assert two["labels"].tolist() == [2, 1]
    assert two["boxes"].tolist() == [[40, 20, 60, 40], [5, 20, 25, 40]]
    assert two["masks"].sum((1, 2)).tolist() == [400, 400]
    assert two["masks"][0, 20:40, 40:60].min() == 1
    assert images[3]["objects"]["iscrowd"].tolist() == [1]
    assert images[3]["objects"]["masks"][0, :5].min() == 1


def test_training_leaves_out_crowds_and_empty_boxes(place: Path) -> None:
    images = CocoImages(place, "train", train=True)
    assert [images[n]["key"] for n in range(len(images))] == ["003.png", "005.png", "012.png"]
    assert images[0]["objects"]["boxes"].tolist() == [[10, 8, 30, 24]]


def test_the_three_forms_of_a_mask_agree() -> None:
    expected = np.zeros((6, 8), np.uint8)
    expected[1:4, 2:5] = 1
    polygon = [[2, 1, 5, 1, 5, 4, 2, 4]]
    plain = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 20]}
    for code in (polygon, plain, run_lengths(expected)):
        np.testing.assert_array_equal(decode_mask(code, 6, 8), expected)


def test_mirroring_is_keyed_and_moves_boxes_with_masks(place: Path) -> None:
    images = CocoImages(place, "train", train=True, flip=0.5, seed=3)
    straight = images[2]
    turned = mirrored(straight)
    assert turned["objects"]["boxes"].tolist() == [[4, 20, 24, 40], [39, 20, 59, 40]]
    assert turned["objects"]["masks"][0, 20:40, 4:24].min() == 1
    assert torch.equal(turned["image"], straight["image"].flip(2))
    assert torch.equal(mirrored(turned)["objects"]["boxes"], straight["objects"]["boxes"])
    draws = [images[Draw(epoch, 2)]["image"] for epoch in range(16)]
    kept = [torch.equal(image, straight["image"]) for image in draws]
    assert kept == [torch.equal(images[Draw(e, 2)]["image"], straight["image"]) for e in range(16)]
    assert 2 <= sum(kept) <= 14


def fit(place: Path, module: lightning.LightningModule, **options: object) -> lightning.Trainer:
    data = DetectionData(
        place, train="train", val="val", batch_size=2, val_batch_size=2, workers=0, seed=1
    )
    trainer = bare_trainer(
        2, limit_val_batches=1.0, num_sanity_val_steps=0, val_check_interval=2, **options
    )
    trainer.fit(module, datamodule=data)
    return trainer


def save_classifier(folder: Path, **changes: object) -> Path:
    config = ModelConfig(**{"name": "resnet18", "classes": 5, "image_size": 32, **changes})
    torch.manual_seed(11)
    network = build_model(config.name, num_classes=5, image_size=32)
    path = folder / "step-00000009.ckpt"
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    plain = json.loads(json.dumps(asdict(config), default=str))
    checkpoints.save(path, {"hyper_parameters": {"model": plain}, "state_dict": weights})
    return path


class Average(lightning.Callback):
    """Follow the first weights of the trunk with momentum 0.25 from where the run starts."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.expected = pl_module.features.trunk.conv1.weight.detach().clone()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        weight = pl_module.features.trunk.conv1.weight.detach()
        self.expected = 0.75 * self.expected + 0.25 * weight


def test_two_steps_from_a_checkpoint_of_fit(place: Path, tmp_path: Path) -> None:
    path = save_classifier(tmp_path)
    lightning.seed_everything(0, verbose=False)
    module = DetectionModule(
        BackboneConfig(name="resnet18", init_from=path),
        DetectionConfig(classes=2, image_size=64),
        TransferOptimConfig(lr=1e-3, total_steps=2, warmup_steps=0),
        EmaConfig(momentum=0.25),
    )
    # The masks of 100 detections and the losses of 512 boxes take seconds.
    for detector in (module.detector, module.ema.module):
        detector.roi_heads.detections_per_img = 4
    module.detector.roi_heads.fg_bg_sampler.batch_size_per_image = 32
    before = module.features.trunk.conv1.weight.clone()
    watch = Average()
    trainer = fit(place, module, callbacks=[watch])
    averaged = module.ema.module.backbone.features.trunk.conv1.weight
    torch.testing.assert_close(averaged, watch.expected)
    saved = checkpoints.load(path)["state_dict"]["network.conv1.weight"]
    after = module.features.trunk.conv1.weight
    assert trainer.global_step == 2
    assert not torch.allclose(before, saved)
    # The trunk began at the checkpoint and has moved a little, the heads ten times as fast.
    assert 0 < (after - saved).abs().max() < 0.02
    rates = {g["name"]: g["initial_lr"] for g in trainer.optimizers[0].param_groups}
    assert rates["trunk_decay"] == pytest.approx(0.1 * rates["heads_decay"])
    measures = trainer.callback_metrics
    terms = {name for name in measures if name.startswith("train/loss_")}
    assert terms == {
        f"train/loss_{t}" for t in ("classifier", "box_reg", "mask", "objectness", "rpn_box_reg")
    }
    assert torch.isfinite(measures["train/loss"])
    assert 0 <= measures["val/box_map"] <= 1
    assert 0 <= measures["val/mask_map"] <= 1
    assert {"val/box_map_ema", "val/mask_map_ema"} <= set(measures)
    assert "val/box_map_50_ema" not in measures


def test_perfect_answers_have_full_precision(place: Path) -> None:
    """What a step feeds to the metric: boxes, masks and labels in the data's own numbering."""
    module = DetectionModule(TINY, DetectionConfig(classes=2, image_size=64))
    batch = DetectionData.collate([CocoImages(place, "val")[n] for n in range(5)])

    def answer(images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [
            {
                "boxes": o["boxes"],
                "labels": o["labels"],
                "scores": torch.ones(len(o["labels"])),
                "masks": o["masks"][:, None].float(),
            }
            for o in batch["objects"]
        ]

    module.forward = answer  # type: ignore[method-assign]
    batch["objects"][1] = {k: v[:1] for k, v in batch["objects"][1].items()}  # type: ignore[assignment]
    module.validation_step(batch, 0)
    measured = module.precision_of.compute()
    assert measured["bbox_map"] == pytest.approx(1, abs=1e-6)
    assert measured["segm_map"] == pytest.approx(1, abs=1e-6)


def test_frozen_norms_take_the_checkpoint_and_stay(tmp_path: Path) -> None:
    path = save_classifier(tmp_path)
    features = Features(BackboneConfig(name="resnet18", init_from=path, freeze_norm=True), count=4)
    features.freeze_norm()
    features.start()
    saved = checkpoints.load(path)["state_dict"]
    torch.testing.assert_close(features.trunk.bn1.weight, saved["network.bn1.weight"])
    mean = features.trunk.bn1.running_mean.clone()
    features.train()(torch.randn(2, 3, 64, 64))
    assert torch.equal(features.trunk.bn1.running_mean, mean)
    assert not any("bn" in name for name, _ in features.named_parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet34"}, "was trained with resnet18"),
        ({"mean": (0.5, 0.5, 0.5)}, r"backbone.mean is \(0.5, 0.5, 0.5\)"),
    ],
)
def test_a_trunk_of_another_model_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = save_classifier(tmp_path)
    config = BackboneConfig(**{"name": "resnet18", "init_from": path, **changes})
    with pytest.raises(ValueError, match=message):
        Features(config, count=4).start()


def test_a_trunk_comes_from_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    path = save_classifier(tmp_path / "run" / "checkpoints")
    features = Features(BackboneConfig(name="resnet18", init_from=tmp_path / "run"), count=4)
    features.start()
    saved = checkpoints.load(path)["state_dict"]
    assert torch.equal(features.trunk.conv1.weight, saved["network.conv1.weight"])


def test_trunks_without_a_pyramid_are_refused() -> None:
    with pytest.raises(ValueError, match="such as resnet50: there is no model 'conv8'"):
        DetectionModule(BackboneConfig(name="conv8"))
    with pytest.raises(ValueError, match="no feature maps down to stride 32; take a ResNet"):
        DetectionModule(BackboneConfig(name="vit_tiny_patch16_224"))


def test_the_head_must_have_the_classes_of_the_data(place: Path) -> None:
    module = DetectionModule(TINY, DetectionConfig(classes=3, image_size=64))
    with pytest.raises(ValueError, match=r"model\.classes is 3, the data has 2 classes"):
        fit(place, module)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c["annotations"].append({"id": 1}), ValueError, "KeyError 'category_id'"),
        (lambda c: c.pop("images"), ValueError, "not in COCO's format: KeyError 'images'"),
        (lambda c: c["images"].clear(), ValueError, "has no image"),
        (lambda c: c["images"][0].update(height=50), ValueError, "its annotation says 50 x 64"),
    ],
)
def test_bad_annotations(place: Path, tmp_path: Path, change, error, message: str) -> None:
    content = json.loads((place / "annotations" / "instances_val.json").read_text())
    change(content)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (tmp_path / "val").symlink_to(place / "val")
    with pytest.raises(error, match=message):
        CocoImages(tmp_path, "val")[4]


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train2017"):
        CocoImages(tmp_path, "train2017")


def test_batches_are_one_order_for_any_number_of_ranks_and_any_start() -> None:
    whole = list(islice(EndlessBatches(7, 4, seed=2), 7))
    epoch = [draw.index for batch in whole for draw in batch if draw.epoch == 1]
    assert sorted(epoch) == list(range(7))
    for rank in (0, 1):
        half = islice(EndlessBatches(7, 4, seed=2, rank=rank, world_size=2), 7)
        assert list(half) == [batch[2 * rank : 2 * rank + 2] for batch in whole]
    micro = list(islice(EndlessBatches(7, 4, seed=2, start=2, accum=2), 4))
    assert [micro[0] + micro[1], micro[2] + micro[3]] == whole[2:4]
    with pytest.raises(ValueError, match="positive multiple of ranks x micro-batches = 3, got 4"):
        EndlessBatches(7, 4, seed=2, world_size=3)


@pytest.mark.parametrize(("count", "size", "ranks"), [(10, 3, 1), (10, 3, 2), (5, 1, 4), (3, 8, 3)])
def test_evaluation_has_every_image_once_in_equally_many_batches(
    count: int, size: int, ranks: int
) -> None:
    shares = [rank_batches(count, size, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    assert all(1 <= len(batch) <= max(size, 2) for batch in batches)


def test_too_few_images_for_the_ranks() -> None:
    with pytest.raises(ValueError, match="2 images are too few for 3 ranks"):
        rank_batches(2, 1, world_size=3)


def test_the_schedule_steps_down_or_is_a_cosine() -> None:
    steps = TransferOptimConfig(lr=1, total_steps=100, milestones=(0.6, 0.84), warmup_steps=4)
    factors = [steps.factor(step) for step in (0, 3, 59, 60, 83, 84, 99)]
    assert factors == pytest.approx([0.25, 1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = TransferOptimConfig(lr=1, total_steps=100, warmup_steps=0)
    assert [cosine.factor(step) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
    raised = TransferOptimConfig(lr=2, total_steps=100, warmup_steps=0, min_lr=0.5)
    assert [2 * raised.factor(step) for step in (0, 50, 100)] == pytest.approx([2, 1.25, 0.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DetectionConfig(image_size=100), "model.image_size must be a multiple of 32"),
        (lambda: TransferOptimConfig(lr=0, total_steps=1), "optim.lr must be > 0"),
        (
            lambda: TransferOptimConfig(lr=1, total_steps=1, milestones=(0.8, 0.6)),
            "optim.milestones must be rising",
        ),
        (
            lambda: TransferOptimConfig(lr=1, total_steps=1, min_lr=2),
            r"optim.min_lr must lie in 0\.\.1, got 2",
        ),
        (lambda: BackboneConfig(ema=True), "backbone.ema needs backbone.init_from"),
        (lambda: DetectionData(Path(), flip=2), "data.flip must be a probability"),
    ],
)
def test_bad_options(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
