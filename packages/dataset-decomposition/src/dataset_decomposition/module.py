"""The training step: next-token cross-entropy and z-loss of one bucket's batch (spec 2.2, 2.8).

The same module trains every method; only the batches differ. Shapes: B rows, L positions.
"""

from dataclasses import asdict
from typing import Any, TypedDict

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from dataset_decomposition.config import LossConfig, ModelConfig
from dataset_decomposition.losses import document_nll, token_loss
from dataset_decomposition.model import Decoder
from tenfold.optim import OptimConfig, configure


class TrainBatch(TypedDict):
    """One micro-batch of one bucket; `tokens` is int64 `[B, L + 1]`."""

    tokens: Tensor
    keys: list[str]


class DocumentBatch(TypedDict):
    """Whole documents, padded on the right; `tokens` is int64 `[B, L + 1]`.

    `lengths` `[B]` counts the targets of each document, `documents` `[B]` its number.
    """

    tokens: Tensor
    lengths: Tensor
    documents: Tensor


class DecompositionModule(lightning.LightningModule):
    """Language-model pre-training with batches of one length at a time.

    Args:
        model: Shape of the decoder.
        loss: Weight of the z-loss.
        optim: AdamW and its schedule, one cosine over the whole run.
    """

    unit = "tokens"

    def __init__(
        self,
        model: ModelConfig = ModelConfig(),
        loss: LossConfig = LossConfig(),
        optim: OptimConfig = OptimConfig(lr=3e-3, total_steps=1),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            {"model": asdict(model), "loss": asdict(loss), "optim": asdict(optim)}
        )
        self.loss_config = loss
        self.optim_config = optim
        self.decoder = Decoder(model)
        if model.compile:
            self.decoder.compile(dynamic=False)
        self.nll_per_token = MeanMetric()
        self.nll_per_document = MeanMetric()

    def setup(self, stage: str) -> None:
        """Check that every token id of the data has a row in the embedding.

        Raises:
            ValueError: The data's vocabulary is larger than the model's.
        """
        needed = self.trainer.datamodule.vocab_size  # type: ignore[attr-defined]
        if needed > self.decoder.config.vocab_size:
            raise ValueError(
                f"model.vocab_size is {self.decoder.config.vocab_size}, the data's tokenizer has "
                f"{needed} ids; set model.vocab_size to at least that"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with linear warm-up and one cosine."""
        return configure(self, self.optim_config)

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Return the mean loss over the batch's `B * L` targets."""
        tokens = batch["tokens"]
        nll, z = token_loss(self.decoder(tokens[:, :-1]), tokens[:, 1:])
        loss = nll + self.loss_config.z_loss * z
        rows, length = tokens.shape[0], float(tokens.shape[1] - 1)
        self.log("train/loss", loss, prog_bar=True, batch_size=rows)
        self.log("train/loss_nll", nll, batch_size=rows)
        self.log("train/loss_z", z, batch_size=rows)
        self.log("train/sequence_length", length, prog_bar=True, batch_size=rows)
        return loss

    def count_units(self, batch: TrainBatch) -> int:
        """Return the number of trained tokens of a micro-batch."""
        rows, width = batch["tokens"].shape
        return rows * (width - 1)

    def validation_step(self, batch: DocumentBatch, batch_idx: int) -> None:
        """Score each held-out document alone."""
        self._score("val", batch)

    def test_step(self, batch: DocumentBatch, batch_idx: int) -> None:
        """Score each held-out document alone."""
        self._score("test", batch)

    def predict_step(self, batch: DocumentBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return number, summed loss in nats and number of targets of each document, all `[B]`."""
        return {
            "document": batch["documents"],
            "nll": self._document_nll(batch),
            "targets": batch["lengths"],
        }

    def _score(self, stage: str, batch: DocumentBatch) -> None:
        nll, lengths = self._document_nll(batch), batch["lengths"]
        self.nll_per_token.update(nll / lengths, lengths)
        self.nll_per_document.update(nll / lengths)
        self.log(f"{stage}/nll_per_token", self.nll_per_token, prog_bar=True, batch_size=1)
        self.log(f"{stage}/nll_per_document", self.nll_per_document, batch_size=1)

    def _document_nll(self, batch: DocumentBatch) -> Tensor:
        tokens = batch["tokens"]
        return document_nll(self.decoder(tokens[:, :-1]), tokens[:, 1:], batch["lengths"])


def load_decoder(checkpoint: dict[str, Any]) -> Decoder:
    """Build the decoder that a checkpoint (`tenfold.checkpoints.load`) holds, in eval mode.

    Raises:
        ValueError: The checkpoint is of another kind of model.
    """
    shape = checkpoint.get("hyper_parameters", {}).get("model")
    if not isinstance(shape, dict) or "rope_theta" not in shape:
        raise ValueError("the checkpoint holds no dataset-decomposition model")
    decoder = Decoder(ModelConfig(**{**shape, "compile": False}))
    prefix = "decoder."
    state = {
        name.removeprefix(prefix).replace("_orig_mod.", ""): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix) and isinstance(tensor, torch.Tensor)
    }
    decoder.load_state_dict(state)
    return decoder.eval()
