"""PatchTST pre-trained and fine-tuned on the same windows, by the same rules and scores.

It masks the input, patch by patch and channel by channel, and its encoder attends; the network is
transformers' (`patchtst_networks.py`). Windows are standardised by PatchTST itself.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import lightning
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from biofame.augment import mix_windows
from biofame.baselines.batches import check_windows, fixed_draws
from biofame.baselines.config import PatchTstConfig
from biofame.baselines.patchtst_networks import (
    build_classifier,
    build_pretraining,
    check_same,
    embed,
    freeze,
    load_backbone,
)
from biofame.config import HeadConfig, InitConfig
from biofame.data import SignalData, WindowBatch, subjects_seen, windows_of
from biofame.finetune import names_of_outputs, warn_of_missing_classes, warn_of_overlap
from biofame.losses import class_loss, label_loss, one_hot
from biofame.metrics import WindowScores
from tenfold.optim import OptimConfig, configure
from tenfold.plain_configs import plain

if TYPE_CHECKING:
    from transformers import PatchTSTForClassification

OPTIM = OptimConfig(
    lr=1e-3, min_lr=1e-3, total_steps=1, name="adam", weight_decay=1e-4, decay_all=True
)
"""As bioFAME's own, so that networks are compared."""


class PatchTstPretrainModule(lightning.LightningModule):
    """A PatchTST that predicts masked patches.

    Args:
        model: The network and its masking.
        optim: Optimiser and schedule.
    """

    unit = "windows"

    def __init__(
        self, model: PatchTstConfig = PatchTstConfig(), optim: OptimConfig = OPTIM
    ) -> None:
        super().__init__()
        self.save_hyperparameters(plain(model=model, optim=optim))
        self.model_config, self.optim_config = model, optim
        self.patchtst = build_pretraining(model)
        self.mean_loss = MeanMetric()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser and its schedule."""
        return configure(self, self.optim_config)

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        """Return the mean square error of the masked patches, standardised.

        Raises:
            ValueError: The windows are not the model's.
        """
        loss = self._loss(batch)
        self.log("train/loss", loss.detach(), batch_size=self.count_units(batch))
        return loss

    def count_units(self, batch: WindowBatch) -> int:
        """Return the number of windows of a micro-batch."""
        return len(batch["samples"])

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """Measure the loss of held-out windows, with the same masks in every validation."""
        self._score(batch, batch_idx)

    def test_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """Measure the loss of held-out windows."""
        self._score(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.mean_loss.reset()

    def on_test_epoch_start(self) -> None:
        """Forget earlier measurements."""
        self.mean_loss.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the loss."""
        self.log("val/loss", self.mean_loss.compute(), rank_zero_only=True)

    def on_test_epoch_end(self) -> None:
        """Log the loss."""
        self.log("test/loss", self.mean_loss.compute(), rank_zero_only=True)

    def predict_step(self, batch: WindowBatch, batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return the mean of each window's patches, nothing masked, `[B, D]`, labels and keys."""
        check_windows(batch, self.model_config)
        tokens_BCND = embed(self.patchtst, batch["samples"])
        embedding = tokens_BCND.mean(dim=(1, 2)).float()
        return {"embedding": embedding, "label": batch["label"], "keys": batch["keys"]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whom the network has seen; fine-tuning warns if it is tested on them."""
        checkpoint["subjects"] = subjects_seen(self.trainer)

    def _loss(self, batch: WindowBatch) -> Tensor:
        check_windows(batch, self.model_config)
        return self.patchtst(past_values=batch["samples"].transpose(1, 2)).loss

    def _score(self, batch: WindowBatch, number: int) -> None:
        with fixed_draws(number, self.device):
            loss = self._loss(batch)
        self.mean_loss.update(loss, weight=self.count_units(batch))


class PatchTstFinetuneModule(lightning.LightningModule):
    """A PatchTST that classifies windows of the data's channels and length.

    The network is made in `setup`, when these are known. As in `biofame.finetune` a frozen network
    gets no mixed windows.

    Args:
        init: Run of `pretrain-patchtst` to start from, or `scratch`.
        head: What is said of a window; PatchTST's own head is `cat`, the channels' means.
        optim: Optimiser and schedule.
        model: The network of `init.scratch`, whose channels and length follow the data; of
            `init.run` only compared.

    Raises:
        ValueError: The head is not PatchTST's.
    """

    unit = "windows"
    patchtst: "PatchTSTForClassification"
    model_config: PatchTstConfig

    def __init__(
        self,
        init: InitConfig,
        head: HeadConfig = HeadConfig(pooling="cat"),
        optim: OptimConfig = OPTIM,
        model: PatchTstConfig | None = None,
    ) -> None:
        super().__init__()
        check_head(head)
        configs = {"init": init, "head": head, "optim": optim}
        self.save_hyperparameters(plain(**configs, **({"model": model} if model else {})))
        self.init_config, self.head_config, self.optim_config = init, head, optim
        self.wanted_model = model
        self.output_names: tuple[str, ...] = ()
        self.mean_loss = MeanMetric()
        self.scores = WindowScores(head.task, head.outputs)

    def setup(self, stage: str) -> None:
        """Make the network for the data; of a checkpoint it is made when that is read.

        Raises:
            CheckpointError: There is nothing to start from.
            ValueError: The checkpoint holds another model, or the data do not fit the head.
        """
        data = windows_of(self.trainer)
        assert data is not None
        self.output_names = names_of_outputs(data, self.head_config)
        if stage == "fit" and "patchtst" not in self._modules:
            self._start(data)
            warn_of_missing_classes(data, self.head_config, self.output_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network that the checkpoint has weights of."""
        if "patchtst" not in self._modules:
            values = checkpoint["hyper_parameters"]["model"]
            config = PatchTstConfig(**values | {"channels": tuple(values["channels"])})
            self._adopt(config, build_classifier(config, outputs=self.head_config.outputs))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the names of classes or labels beside the weights."""
        checkpoint["classes"] = list(self.output_names)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser over what is trained, and its schedule."""
        return configure(self, self.optim_config)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen backbone stays in `eval()`."""
        super().train(mode)
        if self.head_config.freeze and "patchtst" in self._modules:
            freeze(self.patchtst)
        return self

    def forward(self, samples_BCL: Tensor) -> Tensor:
        """Return logits `[B, outputs]`."""
        return self.patchtst(past_values=samples_BCL.transpose(1, 2)).prediction_logits

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, of mixed windows where that is on.

        Raises:
            ValueError: The windows are not the model's.
        """
        check_windows(batch, self.model_config)
        head, samples, targets = self.head_config, batch["samples"], self._targets(batch)
        if head.task == "classification" and not head.freeze:
            mixed = mix_windows(samples, targets, mixup=head.mixup, cutmix=head.cutmix)
            samples, targets = mixed.samples, mixed.targets
        loss = self._loss(self(samples), targets)
        self.log("train/loss", loss.detach(), batch_size=self.count_units(batch))
        return loss

    def count_units(self, batch: WindowBatch) -> int:
        """Return the number of windows of a micro-batch."""
        return len(batch["samples"])

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's windows."""
        self._forget()

    def on_test_epoch_start(self) -> None:
        """Forget earlier windows."""
        self._forget()

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """Collect outputs of held-out windows."""
        self._score(batch)

    def test_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """Collect outputs of held-out windows."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log loss and scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log loss and scores."""
        self._log_scores("test")

    def predict_step(self, batch: WindowBatch, batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return of each window `probabilities` `[B, K]`, the truth, and keys."""
        check_windows(batch, self.model_config)
        logits = self(batch["samples"]).float()
        if self.head_config.task == "multilabel":
            return {
                "probabilities": logits.sigmoid(),
                "target": self._targets(batch),
                "keys": batch["keys"],
            }
        found = logits.softmax(dim=-1)
        return {"probabilities": found, "label": batch["label"], "keys": batch["keys"]}

    def _targets(self, batch: WindowBatch) -> Tensor:
        """Return what the loss asks for, `[B, outputs]`."""
        if self.head_config.task == "multilabel":
            assert "target" in batch
            return batch["target"]
        return one_hot(batch["label"], self.head_config.outputs)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.head_config.task == "multilabel":
            return label_loss(logits, targets)
        return class_loss(logits, targets, label_smoothing=self.head_config.label_smoothing)

    def _score(self, batch: WindowBatch) -> None:
        check_windows(batch, self.model_config)
        logits, targets = self(batch["samples"]), self._targets(batch)
        self.mean_loss.update(self._loss(logits, targets), weight=self.count_units(batch))
        is_multilabel = self.head_config.task == "multilabel"
        self.scores.update(logits, targets if is_multilabel else batch["label"])

    def _log_scores(self, stage: str) -> None:
        found = {"loss": self.mean_loss.compute(), **self.scores.compute()}
        # NaN are scores that nothing is left for, such as the AUROC of a split of one class.
        known = {f"{stage}/{name}": value for name, value in found.items() if not value.isnan()}
        # The metrics have been joined over ranks: all have the same values.
        self.log_dict(known, rank_zero_only=True)

    def _forget(self) -> None:
        self.mean_loss.reset()
        self.scores.reset()

    def _start(self, data: SignalData) -> None:
        """Make the network that training begins with."""
        run, outputs = self.init_config.run, self.head_config.outputs
        backbone = None if run is None else load_backbone(run)
        model = self.wanted_model or PatchTstConfig()
        if run is not None and backbone is not None:
            if self.wanted_model is not None:
                check_same(backbone.config, self.wanted_model, source=run)
            warn_of_overlap(run, data)
            model = backbone.config
        length = int(data.store.lengths[data.training_rows].max())
        fitted = replace(model, channels=data.channels, length=length)
        self._adopt(fitted, build_classifier(fitted, outputs=outputs, backbone=backbone))

    def _adopt(self, config: PatchTstConfig, network: "PatchTSTForClassification") -> None:
        self.hparams.update(plain(model=config))
        self.model_config, self.patchtst = config, network
        nn.Module.to(network, self.device)  # transformers' own hides its types
        if self.head_config.freeze:
            freeze(self.patchtst)


def check_head(head: HeadConfig) -> None:
    """Check that PatchTST has such a head.

    Raises:
        ValueError: It has not.
    """
    if head.pooling != "cat":
        raise ValueError(f"head.pooling must be cat, PatchTST's own head, got {head.pooling}")
    if head.task not in ("classification", "multilabel"):
        raise ValueError(
            f"head.task must be classification or multilabel for PatchTST, got {head.task}"
        )
