"""The training step: next-token cross-entropy and z-loss of one bucket's batch (spec 2.2, 2.8).

The same module trains every method; only the batches differ. Where rows hold several documents,
attention stays within them, and the first token of a document and padding are no targets. Such a
batch is divided by the number of targets that one of its bucket has on average: a constant, so
that micro-batches and ranks add up to exactly the gradient of one large batch, and every target of
the data weighs the same. Shapes: B rows, L positions.
"""

import math
from dataclasses import asdict
from typing import Any, NotRequired, TypedDict

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from dataset_decomposition.config import LossConfig, ModelConfig
from dataset_decomposition.llama import LlamaDecoder
from dataset_decomposition.losses import (
    TokenLoss,
    TokenScores,
    chunked_scores,
    document_sums,
    mean_loss,
    token_scores,
    valid_targets,
)
from dataset_decomposition.model import Decoder
from dataset_decomposition.out_of_memory import StepSize, explain_out_of_memory, out_of_memory
from tenfold.attention import DocumentMask, document_mask
from tenfold.optim import OptimConfig, configure

GRAPHED_LENGTHS = 25
"""As many as there can be buckets, D_0 to D_24."""


class TrainBatch(TypedDict):
    """One micro-batch of one bucket; `tokens` is int64 `[B, L + 1]`.

    Only buckets whose rows hold several documents come with `documents`, their numbers, int32
    `[B, L + 1]`, negative for padding, and `mean_targets`: how many targets such a batch has on
    average.
    """

    tokens: Tensor
    keys: list[str]
    documents: NotRequired[Tensor]
    mean_targets: NotRequired[float]


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
        model: Shape and kind of the decoder.
        loss: Weight of the z-loss, and how many logits exist at a time.
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
        self.decoder = build_decoder(model)
        if model.compile:
            allow_many_graphs()
            self.decoder.compile(dynamic=False)
        # A diverged document must spoil the mean, not leave it; "disable" would forget the weights.
        self.nll_per_token = MeanMetric(nan_strategy=math.inf)
        self.nll_per_document = MeanMetric(nan_strategy=math.inf)

    def setup(self, stage: str) -> None:
        """Check that every token id of the data has a row in the embedding.

        Raises:
            ValueError: The data's vocabulary is larger than the model's.
        """
        needed = self.trainer.datamodule.vocab_size  # type: ignore[attr-defined]
        if needed is not None and needed > self.decoder.config.vocab_size:
            raise ValueError(
                f"model.vocab_size is {self.decoder.config.vocab_size}, the data's tokenizer has "
                f"{needed} ids; set model.vocab_size to at least that"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with linear warm-up and one cosine."""
        return configure(self, self.optim_config)

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Return the mean loss over the batch's targets.

        Raises:
            ValueError: The device's memory ran out.
        """
        rows, length = batch["tokens"].shape[0], batch["tokens"].shape[1] - 1
        self._step_size = self._measure(rows, length)
        with explain_out_of_memory(self._step_size):
            nll, z = self._train_loss(batch)
        loss = nll + self.loss_config.z_loss * z
        self.log("train/loss", loss, batch_size=rows)
        self.log("train/loss_nll", nll, batch_size=rows)
        self.log("train/loss_z", z, batch_size=rows)
        # Lightning logs the last value of each: the newest loss of every bucket.
        self.log(f"train/nll_d_{length.bit_length() - 1}", nll, batch_size=rows)
        self.log("train/sequence_length", float(length), batch_size=rows)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go backward.

        Raises:
            ValueError: The device's memory ran out.
        """
        with explain_out_of_memory(self._step_size):
            super().backward(loss, *args, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step; its closure trains the micro-batch first.

        Raises:
            ValueError: The device's memory ran out.
        """
        try:
            super().optimizer_step(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(self._step_size, updating=True) from error

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all shards; Lightning refuses to clip FSDP's by norm."""
        wrapped = self.trainer.strategy.model
        if isinstance(wrapped, FullyShardedDataParallel) and gradient_clip_val:
            wrapped.clip_grad_norm_(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def count_units(self, batch: TrainBatch) -> int:
        """Return the number of trained tokens of a micro-batch, where it varies their mean."""
        rows, width = batch["tokens"].shape
        return round(batch.get("mean_targets", rows * (width - 1)))

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
        # Each batch of documents has a length of its own, and would be compiled for it.
        with torch.compiler.set_stance("force_eager"):
            nll_BL = self._token_scores(batch["tokens"], None).nll_BL
        return document_sums(nll_BL, batch["lengths"])

    def _train_loss(self, batch: TrainBatch) -> TokenLoss:
        documents = batch.get("documents")
        if documents is None:
            return mean_loss(self._token_scores(batch["tokens"], None))
        # Translated here, once for all blocks and outside of torch.compile.
        mask = document_mask(documents[:, :-1])
        return mean_loss(
            self._token_scores(batch["tokens"], mask),
            valid_targets(documents),
            num_targets=batch.get("mean_targets"),
        )

    def _token_scores(self, tokens: Tensor, mask: DocumentMask | None) -> TokenScores:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        chunk_tokens = self.loss_config.chunk_tokens
        if not chunk_tokens:
            return token_scores(self.decoder(inputs, mask), targets)
        hidden = self.decoder(inputs, mask, project=False)
        return chunked_scores(hidden, self.decoder.head.weight, targets, chunk_tokens=chunk_tokens)

    def _measure(self, rows: int, length: int) -> StepSize:
        plan = getattr(getattr(self.trainer, "datamodule", None), "plan", None)
        return StepSize(
            rows=rows,
            length=length,
            longest=max((bucket.item_cost for bucket in plan.buckets), default=length)
            if plan
            else length,
            accumulation=self.trainer.accumulate_grad_batches,
            chunk_tokens=self.loss_config.chunk_tokens,
        )


def allow_many_graphs() -> None:
    """Let torch.compile keep a graph for each length, and fail rather than run others uncompiled.

    A length may need a second graph for batches with a document mask and a third for padding.
    """
    config = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
    config.recompile_limit = max(config.recompile_limit, 3 * GRAPHED_LENGTHS)
    config.fail_on_recompile_limit_hit = True


def build_decoder(config: ModelConfig) -> Decoder | LlamaDecoder:
    """Build the body that `config.body` names.

    Raises:
        ModuleNotFoundError: It needs an extra that is not installed.
    """
    return LlamaDecoder(config) if config.body == "llama" else Decoder(config)


def load_decoder(checkpoint: dict[str, Any]) -> Decoder | LlamaDecoder:
    """Build the decoder that a checkpoint (`tenfold.checkpoints.load`) holds, in eval mode.

    Raises:
        ValueError: The checkpoint is of another kind of model.
    """
    shape = checkpoint.get("hyper_parameters", {}).get("model")
    if not isinstance(shape, dict) or "rope_theta" not in shape:
        raise ValueError("the checkpoint holds no dataset-decomposition model")
    decoder = build_decoder(ModelConfig(**{**shape, "compile": False}))
    prefix = "decoder."
    state = {
        name.removeprefix(prefix).replace("_orig_mod.", ""): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix) and isinstance(tensor, torch.Tensor)
    }
    decoder.load_state_dict(state)
    return decoder.eval()
