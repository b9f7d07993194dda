"""The training of a backbone: alone, or so that it stays comparable with an old one (2.4, 2.7).

Not here: the networks (`models.py`), the compatibility terms (`compat_losses.py`).
"""

from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import CatMetric, MeanMetric

from fastfill.backbone import Backbone, frozen
from fastfill.compat_losses import CompatLoss
from fastfill.config import BackboneConfig, CompatConfig
from fastfill.evaluation.metrics import retrieval
from fastfill.image_data import ImageBatch
from fastfill.initial_weights import start_from
from fastfill.models import build_backbone
from fastfill.weights import load_backbone
from tenfold.optim import OptimConfig, configure
from tenfold.plain_configs import plain


class BackboneModule(lightning.LightningModule):
    """Cross-entropy over the classes and, with `compat.method`, a tie to an old model.

    Args:
        model: The backbone.
        compat: Compatibility with an old model.
        optim: Optimiser and schedule.
    """

    unit = "images"

    def __init__(
        self,
        model: BackboneConfig = BackboneConfig(),
        compat: CompatConfig = CompatConfig(),
        optim: OptimConfig = OptimConfig(lr=1.024, total_steps=1, name="sgd"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(plain(model=model, compat=compat, optim=optim))
        self.model_config, self.compat_config, self.optim_config = model, compat, optim
        self.network = build_backbone(model)
        # In lists, so that they are no submodules: out of checkpoint, optimiser and `train()`.
        self._old: list[Backbone] = []
        self._compat: list[CompatLoss] = []
        self.mean_loss, self.mean_accuracy = MeanMetric(), MeanMetric()
        self.embeddings, self.labels = CatMetric(), CatMetric()

    def setup(self, stage: str) -> None:
        """Load the weights that a new run starts from, and the old model.

        Raises:
            ValueError: Weights do not fit.
        """
        if stage != "fit":
            return
        if self.model_config.init_from is not None:
            loaded, _ = load_backbone(self.model_config.init_from)
            start_from(self.network, loaded, path=self.model_config.init_from)
        if self.compat_config.old is not None:
            old, _ = load_backbone(self.compat_config.old)
            self._old = [frozen(old)]
            config = self.compat_config
            shared = shared_classes(self.model_config.num_classes, old, config.old_classes)
            self._compat = [CompatLoss(config, old_head=old.head.weight, class_map=shared)]

    def on_fit_start(self) -> None:
        """Bring the old model to this rank's device."""
        for each in (*self._old, *self._compat):
            each.to(self.device)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser over the backbone and its schedule."""
        return configure(self, self.optim_config)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        embedding_BD = self.network.embed_uint8(batch["image"])
        logits_BK = self.network.head(embedding_BD)
        smoothing = self.compat_config.label_smoothing
        loss = F.cross_entropy(logits_BK.float(), batch["label"], label_smoothing=smoothing)
        terms = {"loss_classes": loss}
        if self._compat:
            with torch.no_grad():
                old_BD = self._old[0].embed_uint8(batch["image"])
            term = self._compat[0](embedding_BD, old_BD, batch["label"], logits_BK)
            terms["loss_compat"] = term
            loss = loss + self.compat_config.weight * term
        self.log("train/loss", loss, batch_size=self.count_units(batch))
        for name, value in terms.items():
            self.log(f"train/{name}", value, batch_size=self.count_units(batch))
        return loss

    def count_units(self, batch: ImageBatch) -> int:
        """Return the number of images of a micro-batch."""
        return len(batch["image"])

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's held-out images."""
        self._forget()

    def on_test_epoch_start(self) -> None:
        """Forget earlier held-out images."""
        self._forget()

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Collect embeddings of held-out images."""
        self._score(batch)

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Collect embeddings of held-out images."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_scores("test")

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return embeddings `[B, dim]`, classes `[B]`, and ids."""
        embedding_BD = self.network.embed_uint8(batch["image"])
        return {"embedding": embedding_BD, "label": batch["label"], "keys": batch["keys"]}

    def _score(self, batch: ImageBatch) -> None:
        embedding_BD = self.network.embed_uint8(batch["image"])
        logits = self.network.head(embedding_BD).float()
        size = self.count_units(batch)
        self.mean_loss.update(F.cross_entropy(logits, batch["label"]), weight=size)
        right = (logits.argmax(dim=1) == batch["label"]).float().mean()
        self.mean_accuracy.update(right, weight=size)
        self.embeddings.update(embedding_BD.float())
        self.labels.update(batch["label"].float())

    def _log_scores(self, stage: str) -> None:
        embeddings = self.embeddings.compute().reshape(-1, self.network.dim).cpu().numpy()
        labels = self.labels.compute().long().cpu().numpy()
        scores: dict[str, Any] = {
            f"{stage}/loss": self.mean_loss.compute(),
            f"{stage}/accuracy": self.mean_accuracy.compute(),
        }
        if len(set(labels.tolist())) < len(labels):
            itself = torch.arange(len(labels)).numpy()
            found = retrieval(embeddings, embeddings, labels, labels, self_rows=itself)
            scores[f"{stage}/map"] = found.map
        self.log_dict(scores, prog_bar=True, rank_zero_only=True)

    def _forget(self) -> None:
        for metric in (self.mean_loss, self.mean_accuracy, self.embeddings, self.labels):
            metric.reset()


def shared_classes(num_classes: int, old: Backbone, old_classes: int) -> Tensor:
    """Return the old head's row of each new class `[K]`, -1 where the old model never saw it.

    Classes have the same numbers in both models, as in the published pairs, where the old model
    saw the first ones and kept a row for each.

    Raises:
        ValueError: The old head has fewer rows than it has seen classes.
    """
    seen = old_classes or old.num_classes
    if seen > old.num_classes:
        raise ValueError(
            f"compat.old_classes {seen} are more than the {old.num_classes} rows of the old head"
        )
    rows = torch.arange(num_classes)
    return torch.where(rows < seen, rows, -1)
