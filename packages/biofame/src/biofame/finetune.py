"""Fine-tuning on labelled windows, of a pre-trained network or of random weights (spec 2.5).

Not here: the head (`heads.py`), losses (`losses.py`), scores (`metrics.py`).
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from biofame.augment import mix_windows
from biofame.config import HeadConfig, InitConfig, ModelConfig
from biofame.data import SignalData, WindowBatch, windows_of
from biofame.heads import Classifier
from biofame.losses import class_loss, label_loss, number_loss, one_hot
from biofame.metrics import WindowScores
from biofame.model import BioFame
from biofame.weights import check_same, fit_channels, load_network
from tenfold import checkpoints
from tenfold.optim import OptimConfig, configure
from tenfold.plain_configs import plain

logger = logging.getLogger(__name__)

NAMED_AT_MOST = 5
CLASSES = ("classification", "staging")


class FinetuneModule(lightning.LightningModule):
    """A network with a head, trained on the data's channels, length and rate.

    The network is made in `setup`, when the data's channels are known. MixUp and CutMix are for
    classification with the whole network trained; a frozen network is probed without.

    Args:
        init: What to start from.
        head: Task and head.
        optim: Optimiser and schedule.
        model: The network of `init.scratch`, whose channels and rate follow the data; of `init.run`
            only compared.
    """

    unit = "windows"
    classifier: Classifier

    def __init__(
        self,
        init: InitConfig,
        head: HeadConfig = HeadConfig(),
        optim: OptimConfig = OptimConfig(
            lr=1e-3, min_lr=1e-3, total_steps=1, name="adam", weight_decay=1e-4, decay_all=True
        ),
        model: ModelConfig | None = None,
    ) -> None:
        super().__init__()
        configs = {"init": init, "head": head, "optim": optim}
        self.save_hyperparameters(plain(**configs, **({"model": model} if model else {})))
        self.init_config, self.head_config, self.optim_config = init, head, optim
        self.model_config = model
        self.output_names: tuple[str, ...] = ()
        self.mean_loss = MeanMetric()
        self.scores = WindowScores(head.task, head.outputs)

    def setup(self, stage: str) -> None:
        """Make the network for the data; of a checkpoint it is made when that is read.

        Raises:
            CheckpointError: There is nothing to start from.
            ValueError: The checkpoint holds another model, or the data do not fit the head.
        """
        data = self._data()
        self.output_names = names_of_outputs(data, self.head_config)
        if stage != "fit" or "classifier" in self._modules:
            return
        network = self._initial_network(data)
        data.check_patch(network.config.patch)
        self._build(network)
        if self.head_config.task == "regression":
            assert data.store.targets is not None
            targets = torch.from_numpy(data.store.targets[data.training_rows])
            self.classifier.standardise_targets(targets)
        self.classifier.train()
        warn_of_missing_classes(data, self.head_config, self.output_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network that the checkpoint has weights of."""
        if "classifier" not in self._modules:
            values = checkpoint["hyper_parameters"]["model"]
            self._build(BioFame(ModelConfig(**values | {"channels": tuple(values["channels"])})))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the names of classes, labels or numbers beside the weights."""
        checkpoint["classes"] = list(self.output_names)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser over what is trained, and its schedule."""
        return configure(self, self.optim_config)

    def on_train_start(self) -> None:
        """Let a frozen network be what it will be in evaluation, without dropout."""
        if self.head_config.freeze:
            self.classifier.network.eval()

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, of mixed windows where that is on."""
        loss = self._mixed_loss(batch) if self._mixes else self._loss(self._outputs(batch), batch)
        self.log("train/loss", loss, batch_size=self.count_units(batch))
        return loss

    def count_units(self, batch: WindowBatch) -> int:
        """Return the number of windows of a micro-batch."""
        return batch["label"].numel()

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """Collect what is said of held-out windows."""
        self._score(batch)

    def test_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """Collect what is said of held-out windows."""
        self._score(batch)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._forget()

    def on_test_epoch_start(self) -> None:
        """Forget earlier measurements."""
        self._forget()

    def on_validation_epoch_end(self) -> None:
        """Log loss and scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log loss and scores."""
        self._log_scores("test")

    def predict_step(self, batch: WindowBatch, batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return for each window `probabilities` `[B, K]`, or `numbers` of a regression, and truth.

        The truth is `label` `[B]`, or `target` `[B, K]`. Windows of sequences come one by one.
        """
        outputs, task = self._outputs(batch).float(), self.head_config.task
        name, answers = "probabilities", outputs.flatten(0, -2)
        if task == "regression":
            name = "numbers"
        else:
            answers = answers.softmax(dim=-1) if task in CLASSES else answers.sigmoid()
        truth = "label" if task in CLASSES else "target"
        known = self._truth(batch)
        flat = known.flatten() if task in CLASSES else known
        return {name: answers, truth: flat, "keys": batch["keys"]}

    @property
    def _mixes(self) -> bool:
        head = self.head_config
        is_on = bool(head.mixup or head.cutmix)
        return is_on and head.task == "classification" and not head.freeze

    def _mixed_loss(self, batch: WindowBatch) -> Tensor:
        head = self.head_config
        mixed = mix_windows(
            batch["samples"],
            one_hot(batch["label"], head.outputs),
            mixup=head.mixup,
            cutmix=head.cutmix,
            present_BC=batch.get("present"),
        )
        logits = self.classifier(
            mixed.samples, channels=batch["channels"], rate=batch["rate"], present=mixed.present
        )
        return class_loss(logits, mixed.targets, label_smoothing=head.label_smoothing)

    def _outputs(self, batch: WindowBatch) -> Tensor:
        return self.classifier(
            batch["samples"],
            channels=batch["channels"],
            rate=batch["rate"],
            present=batch.get("present"),
        )

    def _loss(self, outputs: Tensor, batch: WindowBatch) -> Tensor:
        head, truth = self.head_config, self._truth(batch)
        if head.task == "multilabel":
            return label_loss(outputs, truth)
        if head.task == "regression":
            return number_loss(outputs, truth, scale=self.classifier.scale)
        targets = one_hot(truth, head.outputs)
        return class_loss(outputs, targets, label_smoothing=head.label_smoothing)

    def _truth(self, batch: WindowBatch) -> Tensor:
        if self.head_config.task in CLASSES:
            return batch["label"]
        assert "target" in batch  # `setup` has looked
        return batch["target"]

    def _score(self, batch: WindowBatch) -> None:
        outputs = self._outputs(batch)
        truth = self._truth(batch)
        known = (truth >= 0 if self.head_config.task in CLASSES else ~truth.isnan()).sum()
        if known:  # the loss is a mean over these
            self.mean_loss.update(self._loss(outputs, batch), weight=known)
        self.scores.update(outputs, truth)

    def _log_scores(self, stage: str) -> None:
        found = {"loss": self.mean_loss.compute(), **self.scores.compute()}
        # NaN are scores that nothing is left for, such as the AUROC of a split of one class.
        known = {f"{stage}/{name}": value for name, value in found.items() if not value.isnan()}
        # The metrics have been joined over ranks: all have the same values.
        self.log_dict(known, rank_zero_only=True)

    def _forget(self) -> None:
        self.mean_loss.reset()
        self.scores.reset()

    def _initial_network(self, data: SignalData) -> BioFame:
        run = self.init_config.run
        if run is None:
            model = self.model_config or ModelConfig()
            return BioFame(replace(model, channels=data.channels, rate=data.store.info.rate))
        network = load_network(run)
        if self.model_config is not None:
            check_same(network.config, self.model_config, source=run)
        warn_of_overlap(run, data)
        return fit_channels(network, data.channels)

    def _build(self, network: BioFame) -> None:
        self.hparams.update(plain(model=network.config))
        self.classifier = Classifier(network, self.head_config).to(self.device)

    def _data(self) -> SignalData:
        data = windows_of(self.trainer)
        assert data is not None
        return data


def names_of_outputs(data: SignalData, head: HeadConfig) -> tuple[str, ...]:
    """Return the names of classes, labels or numbers; their places where they have none.

    Raises:
        ValueError: The data's labels or targets are not what the head says.
    """
    info, labels = data.store.info, data.store.labels
    if head.task not in CLASSES:
        if len(info.targets) != head.outputs:
            raise ValueError(
                f"head.outputs is {head.outputs}, {data.path} has {len(info.targets)} targets "
                f"({', '.join(info.targets) or 'none'})"
            )
        return info.targets
    if not (labels >= 0).any():
        raise ValueError(f"{data.path} has no labels, which head.task {head.task} needs")
    highest = int(labels.max())
    if highest >= head.outputs or len(info.classes) not in (0, head.outputs):
        raise ValueError(
            f"head.outputs is {head.outputs}, {data.path} has {len(info.classes) or highest + 1} "
            f"classes ({', '.join(info.classes) or 'without names'})"
        )
    return info.classes or tuple(map(str, range(head.outputs)))


def warn_of_missing_classes(data: SignalData, head: HeadConfig, names: tuple[str, ...]) -> None:
    """Warn of classes that no training window has, as small training sets do (spec 9)."""
    if head.task not in CLASSES:
        return
    there = set(data.training_labels.tolist())
    missing = [name for label, name in enumerate(names) if label not in there]
    if missing:
        logger.warning(
            "no training window of %s has class %s: it cannot be learnt",
            data.path,
            ", ".join(missing),
        )


def warn_of_overlap(run: Path, data: SignalData) -> None:
    """Warn when the network was pre-trained on people whom it is measured on (spec 9)."""
    path = checkpoints.find(run)
    seen: set[str] = set()
    if path.suffix == ".ckpt":
        seen = set(checkpoints.load(path).get("subjects", []))
    held_out = data.store.subjects[data.store.splits != "train"]
    shared = sorted(seen & set(held_out.tolist()))
    if shared:
        logger.warning(
            "SUBJECT OVERLAP: %s was pre-trained on %d subjects that %s holds out (%s%s): results "
            "do not measure transfer to new people",
            run,
            len(shared),
            data.path,
            ", ".join(shared[:NAMED_AT_MOST]),
            ", ..." if len(shared) > NAMED_AT_MOST else "",
        )
