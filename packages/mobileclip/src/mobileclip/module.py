"""The training step: contrastive, beside live teachers, or on stored knowledge (spec 2.2).

One image forward and one text forward a step, and one loss: live teachers only make the embeddings
that stored data bring along. Images arrive as uint8 and are scaled to 0..1 on the device.

Shapes: N pairs, D embedding width, W columns of all teachers, L tokens.
"""

from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from mobileclip.config import LossConfig, ModelConfig, RangeAugmentConfig
from mobileclip.generate.teacher_config import TeacherEnsembleConfig
from mobileclip.generate.teachers import Teachers, build_teachers
from mobileclip.gradient_cache import encode_in_micro_batches
from mobileclip.models.clip import MobileCLIP, build_model
from mobileclip.models.keymap import load_weights
from mobileclip.pair_recall import PairRecallMetric
from mobileclip.range_augment import RangeAugment, squared_error
from mobileclip.reader import PairBatch
from mobileclip.reinforced_loss import LossTerms, TeacherEmbeddings, reinforced_loss
from mobileclip.teacher_columns import TeacherColumns, live_columns, split_columns
from tenfold.ema import moving_average
from tenfold.ema_config import EmaConfig
from tenfold.optim import OptimConfig, configure
from tenfold.plain_configs import plain

CAPTION_KEYS = {
    "real": ("tokens",),
    "mix": ("tokens",),  # the data have mixed them
    "synthetic": ("synthetic_tokens",),
    "both": ("tokens", "synthetic_tokens"),
}
TEACHER_KEYS = {"tokens": "teacher_text", "synthetic_tokens": "teacher_synthetic"}


class MobileCLIPModule(lightning.LightningModule):
    """CLIP training with or without reinforcement.

    Args:
        model: The student.
        loss: Way of training and its terms.
        optim: Optimiser and its schedule.
        ema: Moving average of the weights.
        range_augment: Learned augmentation of the student's images; none for none.
        teachers: The ensemble; for mode `online` only.
    """

    unit = "pairs"

    def __init__(
        self,
        model: ModelConfig = ModelConfig(),
        loss: LossConfig = LossConfig(),
        optim: OptimConfig = OptimConfig(lr=1e-3, total_steps=1, weight_decay=0.2),
        ema: EmaConfig = EmaConfig(),
        range_augment: RangeAugmentConfig | None = None,
        teachers: TeacherEnsembleConfig | None = None,
    ) -> None:
        super().__init__()
        if (loss.mode == "online") != (teachers is not None):
            raise ValueError(
                f"teachers must be given for loss.mode online alone, mode is {loss.mode}"
            )
        self.save_hyperparameters(plain(model=model, loss=loss, optim=optim, ema=ema))
        self.model_config, self.loss_config, self.optim_config = model, loss, optim
        self.teachers_config = teachers
        self.network = build_model(model.name, image_size=model.image_size)
        self.network.set_grad_checkpointing(model.grad_checkpointing)
        self.ema = moving_average(self.network, momentum=ema.momentum) if ema.momentum else None
        self.range_augment = RangeAugment(range_augment) if range_augment else None
        self.columns: TeacherColumns | None = None
        # In a list, so that it is no submodule: out of checkpoint, optimiser and `train()`.
        self._teachers: list[Teachers] = []
        self.mean_loss, self.mean_loss_ema = MeanMetric(), MeanMetric()
        self.recall, self.recall_ema = PairRecallMetric(), PairRecallMetric()

    def setup(self, stage: str) -> None:
        """Take the teachers' widths and scales from the data and, to train, load `init_from`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The weights do not fit the model.
        """
        info = getattr(getattr(self.trainer, "datamodule", None), "info", None)
        if self.loss_config.mode == "dr" and info is not None:
            self.columns = TeacherColumns(info.dims, info.scales)
        if stage == "fit" and self.model_config.init_from is not None:
            load_weights(self.network, self.model_config.init_from)
            if self.ema is not None:
                self.ema.set(self.network)

    def on_fit_start(self) -> None:
        """Build live teachers on this rank's device."""
        if self.teachers_config is not None:
            teachers = build_teachers(self.teachers_config, device=self.device)
            self._teachers = [teachers]
            self.columns = TeacherColumns(teachers.dims, teachers.scales)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW over student and augmentation, and the schedule."""
        return configure(self, self.optim_config)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, clamp the scale, and let the average follow; micro-batches do not count."""
        super().optimizer_step(*args, **kwargs)
        self.network.clamp_scale_()
        if self.ema is not None:
            self.ema.update(self.network)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch over all ranks, of this rank's rows with `local_loss`."""
        teachers = self._teacher_embeddings(batch)
        image_ND, likeness = self._encode_images(batch["image"])
        terms = reinforced_loss(
            image_ND,
            *self._encode_captions(batch),
            teachers,
            logit_scale=self.network.scale(),
            teacher_scales=self._scales() if teachers else (),
            distill_weight=self.loss_config.distill_weight if teachers else 0.0,
            local_loss=self.loss_config.local_loss,
            column_chunk=self.loss_config.column_chunk,
        )
        total = terms.total if likeness is None else terms.total + likeness
        self._log_terms(total, terms, likeness, batch_size=self.count_units(batch))
        return total

    def count_units(self, batch: PairBatch) -> int:
        """Return the number of pairs of a micro-batch."""
        return len(batch["image"])

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Collect losses and embeddings of held-out pairs, with the moving average's."""
        self._score(batch)

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Collect what `validation_step` collects."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log contrastive loss (mean over batches) and recall at 1 over all held-out pairs."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log what `on_validation_epoch_end` logs."""
        self._log_scores("test")

    def predict_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return embeddings `[N, D]` of images and captions, of the moving average if there is."""
        network = self.network if self.ema is None else self.ema.module
        image_ND, text_ND = network(as_float(batch["image"]), batch["tokens"])
        return {"image": image_ND, "text": text_ND}

    def forward(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit embeddings of uint8 or float images and of texts."""
        return self.network(as_float(image), tokens)

    def _encode_images(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return embeddings, and the augmentation's own loss if there is augmentation."""
        image_ND, *errors = encode_in_micro_batches(
            self._encode_micro_batch,
            image,
            size=self.loss_config.micro_batch,
            network=self.network,
        )
        if self.range_augment is None:
            return image_ND, None
        progress = self.trainer.global_step / self.optim_config.total_steps
        return image_ND, self.range_augment.likeness_loss(errors[0], progress=progress)

    def _encode_micro_batch(self, image: Tensor) -> tuple[Tensor, ...]:
        pixels = as_float(image)
        if self.range_augment is None:
            return (self.network.encode_image(pixels),)
        with torch.autocast(pixels.device.type, enabled=False):
            augmented = self.range_augment(pixels)
            error_N = squared_error(augmented, pixels)
        return self.network.encode_image(augmented), error_N

    def _encode_captions(self, batch: PairBatch) -> tuple[Tensor | None, Tensor | None]:
        """Return embeddings of real and synthetic captions, of one forward pass."""
        keys = self._caption_keys(batch)
        tokens = torch.cat([batch[key] for key in keys])
        (both,) = encode_in_micro_batches(
            lambda part: (self.network.encode_text(part),),
            tokens,
            size=self.loss_config.micro_batch * len(keys),
            network=self.network,
        )
        found = dict(zip(keys, both.chunk(len(keys)), strict=True))
        return found.get("tokens"), found.get("synthetic_tokens")

    def _caption_keys(self, batch: PairBatch) -> tuple[str, ...]:
        keys = CAPTION_KEYS[self.loss_config.captions]
        for key in keys:
            if key not in batch:
                raise ValueError(
                    f"loss.captions {self.loss_config.captions} got a batch without {key}; set "
                    f"data.captions to {self.loss_config.captions}"
                )
        return keys

    def _teacher_embeddings(self, batch: PairBatch) -> list[TeacherEmbeddings]:
        """Return one entry a teacher, none in mode `clip`."""
        mode = self.loss_config.mode
        if mode == "clip":
            return []
        names = ["teacher_image", *(TEACHER_KEYS[key] for key in self._caption_keys(batch))]
        if mode == "online":
            batch = live_columns(self._teachers[0], batch, names)
        for name in names:
            if name not in batch:
                raise ValueError(
                    f"loss.mode dr got a batch without {name}; set data.mode to dr and "
                    "data.captions to loss.captions"
                )
        if self.columns is None:
            raise ValueError("loss.mode dr needs data that name their teachers (data.info)")
        return split_columns({name: batch[name] for name in names}, self.columns.dims)

    def _scales(self) -> tuple[float, ...]:
        assert self.columns is not None
        return self.loss_config.teacher_scales or self.columns.scales

    def _log_terms(
        self, total: Tensor, terms: LossTerms, likeness: Tensor | None, *, batch_size: int
    ) -> None:
        values = {"loss": total, "loss_clip": terms.clip, "logit_scale": self.network.scale()}
        if self.loss_config.mode != "clip":
            values |= {"loss_distill_ce": terms.distill_ce, "loss_distill_kl": terms.distill_kl}
        if likeness is not None:
            values["loss_range_augment"] = likeness
        for name, value in values.items():
            self.log(f"train/{name}", value.detach(), batch_size=batch_size)

    def _score(self, batch: PairBatch) -> None:
        networks = [(self.network, self.mean_loss, self.recall)]
        if self.ema is not None:
            networks.append((self.ema.module, self.mean_loss_ema, self.recall_ema))
        for network, mean_loss, recall in networks:
            image_ND, text_ND = network(as_float(batch["image"]), batch["tokens"])
            mean_loss.update(_contrast(network, image_ND, text_ND), len(image_ND))
            recall.update(image_ND, text_ND, batch["tokens"])

    def _log_scores(self, stage: str) -> None:
        scores = [("", self.mean_loss, self.recall)]
        if self.ema is not None:
            scores.append(("_ema", self.mean_loss_ema, self.recall_ema))
        for ending, mean_loss, recall in scores:
            found = recall.compute()
            values = {
                "loss": mean_loss.compute(),
                "image_to_text_r1": found.image_to_text,
                "text_to_image_r1": found.text_to_image,
            }
            for name, value in values.items():
                # All ranks have the same values already; Lightning warns unless it may check.
                self.log(f"{stage}/{name}{ending}", value, sync_dist=True)
            mean_loss.reset()
            recall.reset()


def as_float(image: Tensor) -> Tensor:
    """Return uint8 images in 0..1, others as they are."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def _contrast(network: MobileCLIP, image_ND: Tensor, text_ND: Tensor) -> Tensor:
    """Return the contrastive loss within a batch; ranks may have batches of other sizes."""
    logits = network.scale() * image_ND @ text_ND.T
    label = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2
