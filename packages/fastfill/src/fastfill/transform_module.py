"""The training of h: old and new model have spoken before, only h learns (spec 2.2, 2.4).

Not here: the network (`transform.py`), the loss (`objective.py`).
"""

from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import CatMetric, MeanMetric

from fastfill.card import TransformCard, probe_of, vector_stats
from fastfill.config import ObjectiveConfig, TransformConfig
from fastfill.evaluation.calibration import spearman
from fastfill.evaluation.metrics import retrieval
from fastfill.feature_cache import FeatureCache
from fastfill.initial_weights import start_from
from fastfill.objective import ObjectiveTerms, check_labels, class_means, fastfill_loss
from fastfill.pair_data import PairBatch, PairData
from fastfill.transform import Transformation, of_item
from fastfill.weights import load_transformation
from tenfold.optim import OptimConfig, configure
from tenfold.plain_configs import plain

STATISTICS_ROWS = 65536
"""Old embeddings that the card's statistics are taken of."""


class TransformModule(lightning.LightningModule):
    """h with its uncertainty, trained on cached features.

    Args:
        model: The network.
        loss: The objective.
        optim: Optimiser and schedule.
    """

    unit = "pairs"
    head: Tensor | None

    def __init__(
        self,
        model: TransformConfig = TransformConfig(),
        loss: ObjectiveConfig = ObjectiveConfig(),
        optim: OptimConfig = OptimConfig(lr=5e-4, total_steps=1, name="adam"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(plain(model=model, loss=loss, optim=optim))
        self.model_config, self.loss_config, self.optim_config = model, loss, optim
        self.network: Transformation | None = None
        self.card: TransformCard | None = None
        # The new model's head is frozen and not h's to keep: out of the checkpoint.
        self.register_buffer("head", None, persistent=False)
        self.mean_loss = MeanMetric()
        self.transformed, self.log_variances, self.item_losses = (CatMetric() for _ in range(3))

    def setup(self, stage: str) -> None:
        """Make the network for the widths of the features and take the new model's head.

        Raises:
            ValueError: Labels, head or initial weights do not fit.
        """
        data = self._data()
        cards = data.cache.cards
        if self.network is None:
            self.network = Transformation(
                cards.old.dim,
                cards.new.dim,
                side_dim=0 if cards.side is None else cards.side.dim,
                inner=self.model_config.inner,
                per_dimension=self.model_config.per_dimension,
            )
            self._load_initial(stage)
            if not self.loss_config.uncertainty:
                without_uncertainty(self.network)
        if self.loss_config.mu_disc:
            self.head = frozen_head(data.cache, self.loss_config).to(self.device)
        self.card = card_of(data, self.model_config)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser over h and its schedule."""
        return configure(self, self.optim_config)

    def on_train_batch_start(self, batch: PairBatch, batch_idx: int) -> None:
        """Freeze the batch statistics from `model.eval_from` on (`switch_mode_to_eval`)."""
        first_frozen = self.model_config.eval_from * self.optim_config.total_steps
        self.h.train(self.model_config.eval_from == 1 or self.global_step < first_frozen)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Return the objective of a batch."""
        terms = self._terms(batch)[0]
        self.log("train/loss", terms.total, batch_size=self.count_units(batch))
        for name, value in named(terms).items():
            self.log(f"train/{name}", value, batch_size=self.count_units(batch))
        return terms.total

    def count_units(self, batch: PairBatch) -> int:
        """Return the number of items of a micro-batch."""
        return len(batch["old"])

    @property
    def h(self) -> Transformation:
        """The network, once the widths are known."""
        assert self.network is not None
        return self.network

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's held-out items."""
        self._forget()

    def on_test_epoch_start(self) -> None:
        """Forget earlier held-out items."""
        self._forget()

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Collect what h makes of held-out items."""
        self._score(batch)

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Collect what h makes of held-out items."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_scores("test")

    def predict_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return transformed vectors `[B, d_n]`, their log-variances `[B]`, and ids."""
        out = self.h(batch["old"], batch.get("side"))
        return {"z": out.z, "s": of_item(out.s), "keys": batch["keys"]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the card beside the weights."""
        assert self.card is not None
        checkpoint["transform_card"] = self.card.to_json()

    def _terms(self, batch: PairBatch) -> tuple[ObjectiveTerms, Tensor, Tensor]:
        out = self.h(batch["old"], batch.get("side"))
        terms = fastfill_loss(
            out.z, out.s, batch["new"], batch["label"], self.head, self.loss_config
        )
        return terms, out.z, out.s

    def _score(self, batch: PairBatch) -> None:
        terms, z, s = self._terms(batch)
        self.mean_loss.update(terms.total, weight=self.count_units(batch))
        self.transformed.update(z)
        self.log_variances.update(of_item(s))
        self.item_losses.update(terms.per_item)

    def _log_scores(self, stage: str) -> None:
        z, s, per_item = (self._gathered(metric) for metric in self._collected)
        scores = {f"{stage}/loss": self.mean_loss.compute()}
        if self.loss_config.uncertainty:
            scores[f"{stage}/spearman"] = torch.tensor(spearman(s, per_item))
        cache, rows = self._data().val, np.arange(len(s))
        labels = cache.labels[rows]
        if (np.bincount(labels[labels >= 0]) > 1).any():
            found = retrieval(
                cache.rows(rows).new,
                z.reshape(len(s), self.h.new_dim),
                labels,
                labels,
                metric=cache.cards.new.metric,
                self_rows=rows,
            )
            scores[f"{stage}/map"] = torch.tensor(found.map)
        self.log_dict(scores, prog_bar=True, rank_zero_only=True)

    @property
    def _collected(self) -> tuple[CatMetric, CatMetric, CatMetric]:
        return self.transformed, self.log_variances, self.item_losses

    def _gathered(self, metric: CatMetric) -> NDArray[np.float32]:
        """Return one rank's values: all ranks have measured the same items."""
        values = metric.compute()
        return values[: len(values) // self.trainer.world_size].float().cpu().numpy()

    def _forget(self) -> None:
        for metric in (self.mean_loss, *self._collected):
            metric.reset()

    def _data(self) -> PairData:
        data = getattr(self.trainer, "datamodule", None)
        assert isinstance(data, PairData)
        return data

    def _load_initial(self, stage: str) -> None:
        path = self.model_config.init_from
        if stage == "fit" and path is not None:
            loaded, _ = load_transformation(path)
            start_from(self.h, loaded, path=path)


def without_uncertainty(h: Transformation) -> None:
    """Let h say s = 0 of every item, as closed forms do: what nothing trains must rank nothing."""
    for parameter in h.log_variance.parameters():
        torch.nn.init.zeros_(parameter).requires_grad_(False)


def named(terms: ObjectiveTerms) -> dict[str, Tensor]:
    """Return the terms that are on, by the names they are logged with."""
    values = {
        "loss_similarity": terms.similarity,
        "loss_disc": terms.disc,
        "log_variance": terms.log_variance,
    }
    return {name: value for name, value in values.items() if value is not None}


def frozen_head(cache: FeatureCache, config: ObjectiveConfig) -> Tensor:
    """Return the classifier `[K, d_n]` that z must satisfy: the new model's, or class means.

    Raises:
        ValueError: The new model has none, or labels are no rows of it.
    """
    labels = torch.from_numpy(cache.labels)
    if config.labels == "means":
        return class_means(torch.from_numpy(cache.new()), labels, int(labels.max()) + 1)
    if cache.head is None:
        raise ValueError(
            f"{cache.cards.new.name} has no classifier; set loss.mu_disc to 0 or loss.labels to "
            "means"
        )
    if config.labels == "given":
        check_labels(labels, len(cache.head))
    return torch.from_numpy(cache.head)


def card_of(data: PairData, model: TransformConfig) -> TransformCard:
    """Return the card of an h that these features train."""
    cards = data.cache.cards
    old = data.cache.rows(np.arange(min(len(data.cache), STATISTICS_ROWS))).old
    return TransformCard(
        old=cards.old,
        new=cards.new,
        side=cards.side,
        inner=model.inner,
        per_dimension=model.per_dimension,
        old_stats=vector_stats(old),
        probe=probe_of(old),
        training_data=str(data.path),
    )
