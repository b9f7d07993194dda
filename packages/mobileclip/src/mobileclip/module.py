"""The training step: cross-entropy of the digit."""

from dataclasses import asdict
from typing import TypedDict

import lightning
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from mobileclip.config import ModelConfig
from mobileclip.model import CLASSES, Classifier
from tenfold.optim import OptimConfig, configure


class DigitBatch(TypedDict):
    """Images `[B, 8, 8]` in 0..1, their digits `[B]`, and the names of the samples."""

    image: Tensor
    digit: Tensor
    keys: list[str]


class MobileclipModule(lightning.LightningModule):
    """Classification of digits.

    Args:
        model: Shape of the classifier.
        optim: Optimiser and schedule.
    """

    unit = "samples"

    def __init__(
        self,
        model: ModelConfig = ModelConfig(),
        optim: OptimConfig = OptimConfig(lr=1e-2, total_steps=1),
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"model": asdict(model), "optim": asdict(optim)})
        self.optim_config = optim
        self.classifier = Classifier(model)
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with linear warm-up and one cosine."""
        return configure(self, self.optim_config)

    def training_step(self, batch: DigitBatch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy."""
        loss = F.cross_entropy(self.classifier(batch["image"]).float(), batch["digit"])
        self.log("train/loss", loss, batch_size=self.count_units(batch))
        return loss

    def count_units(self, batch: DigitBatch) -> int:
        """Return the number of images of a micro-batch."""
        return len(batch["digit"])

    def validation_step(self, batch: DigitBatch, batch_idx: int) -> None:
        """Measure loss and accuracy."""
        self._score("val", batch)

    def test_step(self, batch: DigitBatch, batch_idx: int) -> None:
        """Measure loss and accuracy."""
        self._score("test", batch)

    def predict_step(self, batch: DigitBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the digit that is most likely, and its label, both `[B]`."""
        return {
            "predicted": self.classifier(batch["image"]).argmax(dim=-1),
            "digit": batch["digit"],
        }

    def _score(self, stage: str, batch: DigitBatch) -> None:
        logits = self.classifier(batch["image"]).float()
        loss = F.cross_entropy(logits, batch["digit"])
        self.accuracy.update(logits, batch["digit"])
        self.log(f"{stage}/loss", loss, batch_size=self.count_units(batch), sync_dist=True)
        self.log(f"{stage}/accuracy", self.accuracy, prog_bar=True)
