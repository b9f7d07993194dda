"""The training step: hard labels, a teacher beside the student, or stored labels (spec 2.1).

Images arrive as uint8 or as float in 0..1 and are normalised here, on the device. Stored labels
stay K columns wide up to the loss. Shapes: B images, C classes, K stored classes.
"""

from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from dataset_reinforcement.class_count import check_classes
from dataset_reinforcement.class_names import are_numbers, check_same_names
from dataset_reinforcement.config import LossConfig, ModelConfig
from dataset_reinforcement.losses import densify, mix_batch, official_probabilities, whole_label
from dataset_reinforcement.model import build_model
from dataset_reinforcement.replay import ImageBatch, as_float
from dataset_reinforcement.teacher import Teacher, build_teacher
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.weights import CLASSES, start_from
from tenfold.ema import moving_average
from tenfold.ema_config import EmaConfig
from tenfold.losses.distillation import soft_target_loss, sparse_target_loss
from tenfold.optim import OptimConfig, configure
from tenfold.plain_configs import plain

ECE_BINS = 15


class ReinforcementModule(lightning.LightningModule):
    """Classification by empirical risk (`erm`), distillation (`kd`) or reinforcement (`dr`).

    Args:
        model: The student.
        loss: Way of training and its terms.
        optim: Optimiser and its schedule.
        ema: Moving average of the weights.
        teacher: Members of the ensemble; for `kd` only.
    """

    unit = "images"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: ModelConfig = ModelConfig(),
        loss: LossConfig = LossConfig(),
        optim: OptimConfig = OptimConfig(lr=0.4, total_steps=1, name="sgd", weight_decay=1e-4),
        ema: EmaConfig = EmaConfig(),
        teacher: TeacherConfig | None = None,
    ) -> None:
        super().__init__()
        _check_teacher(loss, teacher)
        self.save_hyperparameters(plain(model=model, loss=loss, optim=optim, ema=ema))
        self.model_config, self.loss_config, self.optim_config = model, loss, optim
        self.teacher_config = teacher
        self.network = build_model(
            model.name, num_classes=model.classes, image_size=model.image_size
        )
        self.ema = moving_average(self.network, momentum=ema.momentum) if ema.momentum else None
        for name in ("mean", "std"):
            values = torch.tensor(getattr(model, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        # Lightning's own mean over ranks rounds the number of images a rank to a whole one.
        self.mean_loss = MeanMetric()
        self.top1 = MulticlassAccuracy(model.classes, average="micro")
        self.top5 = MulticlassAccuracy(model.classes, average="micro", top_k=min(5, model.classes))
        self.ece = MulticlassCalibrationError(model.classes, n_bins=ECE_BINS, norm="l1")
        self.top1_ema = MulticlassAccuracy(model.classes, average="micro")
        # In a list, so that it is no submodule: out of checkpoint, optimiser and `train()`.
        self._teacher: list[Teacher] = []
        self.class_names: tuple[str, ...] = ()

    @property
    def prediction_metadata(self) -> dict[str, Any]:
        """What the verb `predict` writes beside the probabilities: the class of each column."""
        return {"classes": list(self.class_names)}

    def setup(self, stage: str) -> None:
        """Compare the model with the data and, to train, load `model.init_from`.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: Data and model have different numbers of classes or image sizes, or the body
                does not fit.
        """
        check_classes(self, self.model_config.classes)
        data = getattr(self.trainer, "datamodule", None)
        self.class_names = tuple(getattr(data, "class_names", ()))
        if stage == "fit":
            _check_image_size(self.model_config, data)
        if stage == "fit" and self.model_config.init_from is not None:
            start_from(self.network, self.model_config.init_from)
            if self.ema is not None:
                self.ema.set(self.network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the names of the classes."""
        checkpoint[CLASSES] = list(self.class_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the names of the classes with the data's, or take them where it has none.

        Raises:
            ValueError: They differ.
        """
        trained = tuple(checkpoint.get(CLASSES, ()))
        check_same_names(trained, self.class_names, "the checkpoint")
        if are_numbers(self.class_names):
            self.class_names = trained or self.class_names

    def on_fit_start(self) -> None:
        """Build the teacher on this rank's device."""
        if self.teacher_config is not None:
            teacher = build_teacher(
                self.teacher_config,
                num_classes=self.model_config.classes,
                classes=self.class_names,
                device=self.device,
            )
            self._teacher = [teacher]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser with linear warm-up and one cosine."""
        return configure(self.network, self.optim_config)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the moving average follow; micro-batches do not count."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.network)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Return the mean loss over the batch's images."""
        losses = {"erm": self._hard_loss, "kd": self._teacher_loss, "dr": self._stored_loss}
        loss = losses[self.loss_config.mode](batch)
        self.log("train/loss", loss, batch_size=self.count_units(batch))
        return loss

    def count_units(self, batch: ImageBatch) -> int:
        """Return the number of images of a micro-batch."""
        return len(batch["label"])

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Measure loss, accuracy and calibration, of the moving average too."""
        self._score("val", batch)

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Measure what `validation_step` measures."""
        self._score("test", batch)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return probabilities `[B, C]`, labels `[B]` and the names of the images."""
        return {
            "probabilities": self(batch["image"]).softmax(-1),
            "label": batch["label"],
            "keys": batch["keys"],
        }

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, C]` in float32 of images `[B, 3, H, W]`, uint8 or float in 0..1."""
        return self.network(self._normalise(as_float(image))).float()

    def _normalise(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def _hard_loss(self, batch: ImageBatch) -> Tensor:
        image, label = self._mixed(batch)
        return self._cross_entropy(self(image), label)

    def _stored_loss(self, batch: ImageBatch) -> Tensor:
        config = self.loss_config
        if "classes" not in batch or "probabilities" not in batch:
            raise ValueError("loss.mode dr got a batch without stored labels; set data.mode to dr")
        logits = self(batch["image"])
        classes, probabilities = batch["classes"], batch["probabilities"]
        if config.compat == "apple":
            probabilities = official_probabilities(
                probabilities, rest=config.rest, reinforced=batch.get("reinforced")
            )
        if config.form == "sparse":
            return sparse_target_loss(logits, classes, probabilities, rest=config.rest)
        target = densify(
            classes, probabilities, num_classes=self.model_config.classes, rest=config.rest
        )
        return soft_target_loss(logits, target, teacher_form="probabilities")

    def _teacher_loss(self, batch: ImageBatch) -> Tensor:
        config = self.loss_config
        image, label = self._mixed(batch)
        logits = self(image)
        target = whole_label(self._teacher[0].probabilities(image))
        soft = soft_target_loss(
            logits, target, teacher_form="probabilities", temperature=config.temperature
        )
        if not config.ce_weight:
            return config.kd_weight * soft
        hard = self._cross_entropy(logits, label)
        for name, term in (("kd", soft), ("ce", hard)):
            self.log(f"train/loss_{name}", term, batch_size=self.count_units(batch))
        return config.kd_weight * soft + config.ce_weight * hard

    def _mixed(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        config = self.loss_config
        if not (config.mixup_alpha or config.cutmix_alpha):
            return batch["image"], batch["label"]
        return mix_batch(
            as_float(batch["image"]),
            batch["label"],
            num_classes=self.model_config.classes,
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
        )

    def _cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, label, label_smoothing=self.loss_config.label_smoothing)

    def _score(self, stage: str, batch: ImageBatch) -> None:
        size = self.count_units(batch)
        if size:  # 0 where all images of a batch are damaged
            self._measure(batch)
        self.log(f"{stage}/loss", self.mean_loss, batch_size=size)
        self.log(f"{stage}/top1", self.top1, prog_bar=True, batch_size=size)
        self.log(f"{stage}/top5", self.top5, batch_size=size)
        self.log(f"{stage}/ece", self.ece, batch_size=size)
        if self.ema is not None:
            self.log(f"{stage}/top1_ema", self.top1_ema, batch_size=size)

    def _measure(self, batch: ImageBatch) -> None:
        logits, label = self(batch["image"]), batch["label"]
        self.top1.update(logits, label)
        self.top5.update(logits, label)
        # torchmetrics would open one more bin for a confidence of exactly 1.
        self.ece.update(logits.softmax(-1).clamp(max=1 - torch.finfo(logits.dtype).eps), label)
        self.mean_loss.update(F.cross_entropy(logits, label), len(label))
        if self.ema is not None:
            averaged = self.ema(self._normalise(as_float(batch["image"])))
            self.top1_ema.update(averaged.float(), label)


def _check_teacher(loss: LossConfig, teacher: TeacherConfig | None) -> None:
    if loss.mode == "kd" and teacher is None:
        raise ValueError(
            "teacher.members must name at least one network for loss.mode kd, such as "
            "[{checkpoint: runs/teacher}] or [{model: resnet50, pretrained: true}]"
        )
    if loss.mode != "kd" and teacher is not None:
        raise ValueError(f"teacher is of loss.mode kd only, got it with loss.mode {loss.mode}")


def _check_image_size(model: ModelConfig, data: Any) -> None:
    size = getattr(getattr(data, "augment", None), "size", model.image_size)
    if size != model.image_size:
        raise ValueError(
            f"model.image_size is {model.image_size}, data.augment.size is {size}: give both the "
            "side of the images"
        )
