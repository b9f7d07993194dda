"""DeepLabv3 on a backbone that was trained with `fit`.

torchvision's head and auxiliary head over timm's dilated feature maps. The measure is the mean
intersection over union of a whole data set, at the masks' own size. Not here: reading images and
masks (`segmentation_data`).

Shapes: B images, C classes, S pixels.
"""

from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from dataset_reinforcement.class_count import check_classes
from dataset_reinforcement.features import Features
from dataset_reinforcement.segmentation_data import SegmentationBatch
from dataset_reinforcement.segmentation_images import IGNORED
from dataset_reinforcement.transfer_config import (
    BackboneConfig,
    SegmentationConfig,
    TransferOptimConfig,
)
from dataset_reinforcement.transfer_optim import configure_transfer
from tenfold.ema import moving_average
from tenfold.ema_config import EmaConfig
from tenfold.plain_configs import plain

ATROUS_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
"""Rates of the head by the trunk's stride (Chen et al. 2017, arXiv 1706.05587)."""


class DeepLab(nn.Module):
    """A dilated trunk with a head on its last map and an auxiliary one on the map before.

    Args:
        backbone: The trunk.
        config: Classes and stride.
    """

    def __init__(self, backbone: BackboneConfig, config: SegmentationConfig) -> None:
        super().__init__()
        self.features = Features(backbone, count=2, output_stride=config.output_stride)
        if backbone.freeze_norm:
            self.features.freeze_norm()
        before, last = self.features.channels
        self.head = DeepLabHead(last, config.classes, ATROUS_RATES[config.output_stride])
        self.auxiliary = FCNHead(before, config.classes)

    def forward(self, image_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[B, C, s, s]` of head and auxiliary head, s the size of the maps."""
        before, last = self.features(image_B3SS)
        return self.head(last), self.auxiliary(before)


class SegmentationModule(lightning.LightningModule):
    """Classification of pixels.

    Args:
        backbone: The trunk and where its weights come from.
        model: Classes, stride and auxiliary loss.
        optim: Rates and schedule.
        ema: Moving average of the weights.
    """

    unit = "images"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),
        model: SegmentationConfig = SegmentationConfig(),
        optim: TransferOptimConfig = TransferOptimConfig(lr=0.02, total_steps=1),
        ema: EmaConfig = EmaConfig(),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(plain(backbone=backbone, model=model, optim=optim, ema=ema))
        self.model_config = model
        self.optim_config = optim
        self.backbone_config = backbone
        self.network = DeepLab(backbone, model)
        self.ema = moving_average(self.network, momentum=ema.momentum) if ema.momentum else None
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.iou = MulticlassJaccardIndex(model.classes, ignore_index=IGNORED)
        self.iou_ema = MulticlassJaccardIndex(model.classes, ignore_index=IGNORED)

    def setup(self, stage: str) -> None:
        """Compare the head with the data's classes and, to train, load `backbone.init_from`."""
        check_classes(self, self.model_config.classes)
        if stage == "fit":
            self.network.features.start()
            if self.ema is not None:
                self.ema.set(self.network)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return SGD with a smaller rate for the trunk."""
        return configure_transfer(self.network.features, self.network, self.optim_config)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the moving average follow; micro-batches do not count."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.network)

    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of the pixels that have a class."""
        mask = torch.stack(batch["mask"])
        main, auxiliary = (
            pixel_loss(self._enlarged(logits, mask.shape[1:]), mask)
            for logits in self.network(self._normalise(batch["image"]))
        )
        loss = main + self.model_config.aux_weight * auxiliary
        terms = {"loss": loss, "loss_main": main, "loss_auxiliary": auxiliary}
        for name, term in terms.items():
            self.log(f"train/{name}", term, batch_size=self.count_units(batch))
        return loss

    def count_units(self, batch: SegmentationBatch) -> int:
        """Return the number of images of a micro-batch."""
        return len(batch["mask"])

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, C, s, s]` in float32 of uint8 images `[B, 3, S, S]`."""
        return self.network(self._normalise(image))[0].float()

    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Measure the intersection over union, of the moving average too."""
        self._score("val", batch)

    def test_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Measure what `validation_step` measures."""
        self._score("test", batch)

    def _score(self, stage: str, batch: SegmentationBatch) -> None:
        size = self.count_units(batch)
        self._compare(self.iou, self(batch["image"]), batch)
        self.log(f"{stage}/miou", self.iou, prog_bar=True, batch_size=size)
        if self.ema is not None:
            averaged, _ = self.ema(self._normalise(batch["image"]))
            self._compare(self.iou_ema, averaged, batch)
            self.log(f"{stage}/miou_ema", self.iou_ema, batch_size=size)

    def _compare(
        self, iou: MulticlassJaccardIndex, answers: Tensor, batch: SegmentationBatch
    ) -> None:
        for logits, mask in zip(answers, batch["mask"], strict=True):
            iou.update(self._enlarged(logits[None], mask.shape), mask[None])

    def _normalise(self, image: Tensor) -> Tensor:
        return (image / 255 - self.mean) / self.std

    @staticmethod
    def _enlarged(logits: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)


def pixel_loss(logits_BCSS: Tensor, mask_BSS: Tensor) -> Tensor:
    """Return the mean cross-entropy of the pixels that have a class, 0 without any."""
    losses = F.cross_entropy(logits_BCSS, mask_BSS, ignore_index=IGNORED, reduction="sum")
    return losses / (mask_BSS != IGNORED).sum().clamp_min(1)
