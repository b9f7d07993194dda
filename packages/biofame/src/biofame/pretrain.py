"""Pre-training: masked autoencoding in the latent space (paper §3.3; spec 2.4).

Not here: the autoencoder and its loss (`mae.py`), contrastive pre-training (`baselines/`).
"""

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.data import SignalData, WindowBatch, subjects_seen, windows_of
from biofame.heads import average
from biofame.mae import Losses, MaskedAutoencoder, Reconstruction, channel_errors
from biofame.masked_error import MaskedError
from biofame.masking import Partition, draw_partition
from biofame.tokenizer import patchify
from tenfold import keyed
from tenfold.optim import OptimConfig, configure
from tenfold.plain_configs import plain


class PretrainModule(lightning.LightningModule):
    """A network with the decoders that it is trained with.

    Args:
        model: The network that is kept.
        decoder: Decoders, thrown away afterwards.
        loss: What is masked and predicted.
        optim: Optimiser and schedule.
    """

    unit = "windows"

    def __init__(
        self,
        model: ModelConfig = ModelConfig(),
        decoder: DecoderConfig = DecoderConfig(),
        loss: LossConfig = LossConfig(),
        optim: OptimConfig = OptimConfig(
            lr=1e-3, min_lr=1e-3, total_steps=1, name="adam", weight_decay=1e-4, decay_all=True
        ),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(plain(model=model, decoder=decoder, loss=loss, optim=optim))
        self.model_config, self.loss_config, self.optim_config = model, loss, optim
        self.autoencoder = MaskedAutoencoder(model, decoder, loss)
        self.mean_loss = MeanMetric()
        self.masked_error = MaskedError(len(model.channels))

    def setup(self, stage: str) -> None:
        """Check that the data are what the model is for.

        Raises:
            ValueError: Channels or rate differ, or windows have more patches than the model has
                positions.
        """
        data = windows_of(self.trainer)
        if data is not None:
            check_data(data, self.model_config)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser over network and decoders, and its schedule."""
        return configure(self, self.optim_config)

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        """Return the loss over the masked patches."""
        losses = self._losses(self._reconstruct(batch), batch)
        self.log("train/loss", losses.total, batch_size=self.count_units(batch))
        return losses.total

    def count_units(self, batch: WindowBatch) -> int:
        """Return the number of windows of a micro-batch."""
        return len(batch["samples"])

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """Measure what is reconstructed of held-out windows."""
        self._score(batch)

    def test_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """Measure what is reconstructed of held-out windows."""
        self._score(batch)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._forget()

    def on_test_epoch_start(self) -> None:
        """Forget earlier measurements."""
        self._forget()

    def on_validation_epoch_end(self) -> None:
        """Log the errors."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the errors."""
        self._log_scores("test")

    def predict_step(self, batch: WindowBatch, batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return the mean of each window's tokens `[B, D]`, labels `[B]` and keys."""
        present = batch.get("present")
        tokens = self.autoencoder.network(
            batch["samples"], channels=batch["channels"], rate=batch["rate"], present_BC=present
        )
        embedding = average(tokens, present).float()
        return {"embedding": embedding, "label": batch["label"], "keys": batch["keys"]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whom the network has seen; fine-tuning warns if it is tested on them."""
        checkpoint["subjects"] = subjects_seen(self.trainer)

    def _reconstruct(
        self, batch: WindowBatch, partition: Partition | None = None
    ) -> Reconstruction:
        return self.autoencoder(
            batch["samples"],
            rate=batch["rate"],
            present_BC=batch.get("present"),
            partition=partition,
        )

    def _losses(self, made: Reconstruction, batch: WindowBatch) -> Losses:
        return self.autoencoder.loss(made, present_BC=batch.get("present"))

    def _score(self, batch: WindowBatch) -> None:
        model, samples = self.model_config, batch["samples"]
        partition = fixed_partition(
            batch["keys"],
            len(model.channels),
            patchify(samples[:1], model.patch, tail=model.tail).shape[2],
            ratio=self.loss_config.mask_ratio,
            device=samples.device,
        )
        made = self._reconstruct(batch, partition)
        self.mean_loss.update(self._losses(made, batch).total, weight=self.count_units(batch))
        self.masked_error.update(made.predicted, made.target, batch.get("present"))

    def _log_scores(self, stage: str) -> None:
        # Flat again: torchmetrics makes a scalar of the value of a single channel.
        errors = self.masked_error.compute().reshape(-1)
        mean = errors.nanmean()
        scores = {f"{stage}/loss": self.mean_loss.compute(), f"{stage}/masked_error": mean}
        for name, error in channel_errors(self.model_config.channels, errors).items():
            if not error.isnan():
                scores[f"{stage}/masked_error_{name}"] = error
        # The metrics have been joined over ranks: all have the same values.
        self.log_dict(scores, rank_zero_only=True)

    def _forget(self) -> None:
        self.mean_loss.reset()
        self.masked_error.reset()


def fixed_partition(
    keys: Sequence[str], channels: int, tokens: int, *, ratio: float, device: torch.device
) -> Partition:
    """Return the masks of held-out windows: each is a function of the window's key alone.

    They are the same in every validation, batch size and number of ranks, and leave torch's
    generator as it was.

    Raises:
        ValueError: No token would be masked, or none be visible.
    """
    cpu = torch.device("cpu")
    drawn: list[Partition] = []
    with torch.random.fork_rng(devices=[]):
        for key in keys:
            seed = int(keyed.generator("validation mask", key).integers(2**63))
            torch.default_generator.manual_seed(seed)  # not torch's own, which reseeds a GPU too
            drawn.append(draw_partition(1, channels, tokens, ratio=ratio, device=cpu))
    return Partition(*(torch.cat(parts).to(device) for parts in zip(*drawn, strict=True)))


def check_data(data: SignalData, model: ModelConfig) -> None:
    """Check that a model can be pre-trained on data.

    Raises:
        ValueError: Channels or rate differ, sequences are asked for, or windows have more patches
            than there are positions.
    """
    if data.context > 1:
        raise ValueError(f"data.context is of staging, leave it at 1 here, got {data.context}")
    if data.channels != model.channels:
        raise ValueError(
            f"the data's channels are {', '.join(data.channels)}, the model's "
            f"{', '.join(model.channels)}: set model.channels, or choose with data.channels"
        )
    if data.store.info.rate != model.rate:
        raise ValueError(
            f"{data.path} has {data.store.info.rate:g} samples per second, model.rate is "
            f"{model.rate:g}: set model.rate"
        )
    data.check_patch(model.patch)
    length = int(data.store.lengths.max())
    patches = -(-length // model.patch) if model.tail == "pad" else length // model.patch
    if patches > model.tokens:
        raise ValueError(
            f"windows of {data.path} have up to {patches} patches, model.tokens is {model.tokens}: "
            f"set model.tokens to {patches}"
        )
