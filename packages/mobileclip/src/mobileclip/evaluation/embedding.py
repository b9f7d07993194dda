"""Images and texts through a model, batch by batch.

Shapes: N images, M texts, L tokens, D embedding width.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mobileclip.evaluation.images import ModelInputs, as_floats
from mobileclip.tokenizer import tokenize


class Encoder(Protocol):
    """What an evaluation needs of a model."""

    context_length: int

    def encode_image(self, image: Tensor, /) -> Tensor:
        """Return unit rows `[N, D]` of float images 0..1."""
        ...

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Return unit rows `[M, D]` of tokens `[M, L]`."""
        ...


class Embedder:
    """A model on its device, asked for embeddings on the CPU.

    Args:
        model: In evaluation mode.
        device: Where it is.
        batch_size: Images or texts at once.
        workers: Processes that decode images.
    """

    def __init__(
        self, model: Encoder, *, device: torch.device, batch_size: int = 256, workers: int = 0
    ) -> None:
        self._model, self._device = model, device
        self._batch_size, self._workers = batch_size, workers

    @torch.inference_mode()
    def images(self, inputs: ModelInputs) -> Tensor:
        """Return float32 `[N, D]`, in order."""
        loader = DataLoader(
            inputs,
            batch_size=self._batch_size,
            num_workers=self._workers,
            # A forked copy of a process with threads and CUDA may hang.
            multiprocessing_context="spawn" if self._workers else None,
        )
        rows = [self._model.encode_image(as_floats(batch.to(self._device))) for batch in loader]
        return torch.cat([row.float().cpu() for row in rows])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return float32 `[M, D]`, in order."""
        tokens = tokenize(list(texts), context_length=self._model.context_length)
        rows = [
            self._model.encode_text(part.to(self._device))
            for part in tokens.split(self._batch_size)
        ]
        return torch.cat([row.float().cpu() for row in rows])
