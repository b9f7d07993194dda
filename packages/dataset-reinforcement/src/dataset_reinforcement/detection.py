"""Mask R-CNN on a backbone that was trained with `fit`.

torchvision's detector with a feature pyramid over timm's feature maps; mean average precision of
boxes and masks is pycocotools', through torchmetrics. Images are scaled to a square as in CVNets'
recipe. Not here: reading COCO (`coco`), batches (`detection_data`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypedDict, cast

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import MaskRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from dataset_reinforcement.class_count import check_classes
from dataset_reinforcement.coco import Objects, masks_of_pycocotools
from dataset_reinforcement.features import PYRAMID_STRIDES, Features
from dataset_reinforcement.transfer_config import (
    BackboneConfig,
    DetectionConfig,
    TransferOptimConfig,
)
from dataset_reinforcement.transfer_optim import configure_transfer
from tenfold.ema import moving_average
from tenfold.ema_config import EmaConfig
from tenfold.plain_configs import plain

PYRAMID_CHANNELS = 256
MASK_THRESHOLD = 0.5
MEASURES = ("map", "map_50", "map_75")


class DetectionBatch(TypedDict):
    """Images uint8 `[3, H, W]` of any size, the objects of each, file names."""

    image: list[Tensor]
    objects: list[Objects]
    keys: list[str]


class Pyramid(nn.Module):
    """A trunk under a feature pyramid, as torchvision's detectors take it.

    Args:
        features: A trunk with maps at strides 4, 8, 16 and 32.

    Raises:
        ValueError: Its maps have other strides.
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        if tuple(features.strides) != PYRAMID_STRIDES:
            raise ValueError(
                f"backbone.name {features.config.name} has feature maps of strides "
                f"{features.strides}, a pyramid needs {list(PYRAMID_STRIDES)}"
            )
        self.features = features
        self.pyramid = FeaturePyramidNetwork(
            features.channels, PYRAMID_CHANNELS, extra_blocks=LastLevelMaxPool()
        )
        self.out_channels = PYRAMID_CHANNELS

    def forward(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        """Return maps `[B, 256, H / stride, W / stride]` by level, `0` the finest."""
        maps = self.features(image_BCHW)
        return self.pyramid(OrderedDict((str(level), each) for level, each in enumerate(maps)))


class DetectionModule(lightning.LightningModule):
    """Mask R-CNN.

    Args:
        backbone: The trunk and where its weights come from.
        model: Classes and image size.
        optim: Rates and schedule.
        ema: Moving average of the weights.
    """

    unit = "images"

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),
        model: DetectionConfig = DetectionConfig(),
        optim: TransferOptimConfig = TransferOptimConfig(
            lr=0.1, total_steps=1, milestones=(0.6, 0.84)
        ),
        ema: EmaConfig = EmaConfig(),
    ) -> None:
        super().__init__()
        masks_of_pycocotools()
        self.save_hyperparameters(plain(backbone=backbone, model=model, optim=optim, ema=ema))
        self.model_config = model
        self.optim_config = optim
        self.backbone_config = backbone
        features = Features(backbone, count=len(PYRAMID_STRIDES))
        if backbone.freeze_norm:
            features.freeze_norm()
        size = model.image_size
        self.detector = MaskRCNN(
            Pyramid(features),
            model.classes + 1,
            image_mean=list(backbone.mean),
            image_std=list(backbone.std),
            fixed_size=(size, size),
        )
        self.ema = moving_average(self.detector, momentum=ema.momentum) if ema.momentum else None
        self.precision_of = MeanAveragePrecision(iou_type=("bbox", "segm"))
        self.precision_of_ema = MeanAveragePrecision(iou_type=("bbox", "segm"))

    @property
    def features(self) -> Features:
        """The trunk."""
        return self.detector.backbone.features  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]

    def setup(self, stage: str) -> None:
        """Compare the head with the data's classes and, to train, load `backbone.init_from`."""
        check_classes(self, self.model_config.classes)
        if stage == "fit":
            self.features.start()
            if self.ema is not None:
                self.ema.set(self.detector)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return SGD with a smaller rate for the trunk."""
        return configure_transfer(self.features, self.detector, self.optim_config)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the moving average follow; micro-batches do not count."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.detector)

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Return the sum of the losses of proposals, boxes, classes and masks."""
        terms = self.detector([image / 255 for image in batch["image"]], batch["objects"])
        for name, term in terms.items():
            self.log(f"train/{_term(name)}", term, batch_size=self.count_units(batch))
        loss = torch.stack(list(terms.values())).sum()
        self.log("train/loss", loss, batch_size=self.count_units(batch))
        return loss

    def count_units(self, batch: DetectionBatch) -> int:
        """Return the number of images of a micro-batch."""
        return len(batch["image"])

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Return boxes, labels, scores and masks `[N, 1, H, W]` in 0..1 of uint8 images."""
        return self.detector([image / 255 for image in images])

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Note what was found, by the moving average too."""
        _compare(self.precision_of, self(batch["image"]), batch["objects"])
        if self.ema is not None:
            averaged = self.ema([image / 255 for image in batch["image"]])
            _compare(self.precision_of_ema, averaged, batch["objects"])

    def test_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Note what was found."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the mean average precision."""
        self._log_precision("val")

    def on_test_epoch_end(self) -> None:
        """Log the mean average precision."""
        self._log_precision("test")

    def _log_precision(self, stage: str) -> None:
        self._log_measures(stage, self.precision_of, MEASURES)
        if self.ema is not None:
            self._log_measures(stage, self.precision_of_ema, MEASURES[:1], ending="_ema")

    def _log_measures(
        self, stage: str, precision: MeanAveragePrecision, names: Sequence[str], ending: str = ""
    ) -> None:
        measured = precision.compute()
        precision.reset()
        for ours, theirs in (("box", "bbox"), ("mask", "segm")):
            for name in names:
                value = measured[f"{theirs}_{name}"].to(self.device)
                shown = name == "map" and not ending
                self.log(f"{stage}/{ours}_{name}{ending}", value, prog_bar=shown, sync_dist=True)


def _compare(
    precision: MeanAveragePrecision, found: list[dict[str, Tensor]], objects: list[Objects]
) -> None:
    for each in found:
        each["masks"] = each["masks"][:, 0] > MASK_THRESHOLD
    precision.update(found, cast(list[dict[str, Tensor]], objects))


def _term(name: str) -> str:
    return f"loss_{name.removeprefix('loss_')}"
