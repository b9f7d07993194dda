"""Losses and greedy continuations of rows of tokens, in batches: what every evaluation stands on.

Rows of a batch are padded on the right. Attention is causal, so no token of a row ever sees the
padding, and a row's result is that of the row alone. Logits exist of some targets at a time only,
so that even a very long document fits. Shapes: B rows, L positions, D width, V vocabulary, N real
targets of all rows.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dataset_decomposition.losses import token_scores

PROJECTED_TOKENS = 2048
"""Targets whose logits exist at a time: 0.4 GB in fp32 with 50,432 ids."""

_log = logging.getLogger(__name__)

Row = NDArray[Any]
"""Integer token ids, 1-D."""


class LanguageModel(Protocol):
    """What evaluation needs of a decoder."""

    @property
    def head(self) -> nn.Module:
        """The projection of states `[..., D]` to logits `[..., V]`."""
        ...

    def __call__(self, tokens_BL: Tensor, *, project: bool) -> Tensor:
        """Return states `[B, L, D]` of integer tokens when not `project`; causal."""
        ...


class RowLosses(NamedTuple):
    """What a model says of one row of `n + 1` tokens.

    Attributes:
        number: Place of the row in what was given.
        nll: float32 `[n]`, negative log-likelihood in nats of each token but the first.
        greedy: bool `[n]`, whether that token is the most likely one.
    """

    number: int
    nll: NDArray[np.float32]
    greedy: NDArray[np.bool_]


class Scorer:
    """A language model for evaluation.

    Args:
        model: The model, in eval mode.
        trained_length: Longest row of the training; longer ones are scored after one warning.
        batch_tokens: Padded tokens of a batch, at most; a longer row is a batch by itself.
        device: Where the model's weights lie.
        bf16: Run the model under bfloat16 autocast; losses stay in fp32.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        trained_length: int,
        batch_tokens: int = 16384,
        device: torch.device = torch.device("cpu"),
        bf16: bool = False,
    ) -> None:
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self.trained_length = trained_length
        self._model = model
        self._batch_tokens = batch_tokens
        self._device = device
        self._bf16 = bf16
        self._has_warned = False

    def losses(self, rows: Sequence[Row]) -> Iterator[RowLosses]:
        """Yield the losses of each row of at least 2 tokens, short rows first.

        Raises:
            ValueError: A loss is not finite.
        """
        lengths = np.array([len(row) - 1 for row in rows], dtype=np.int64)
        for batch in self._batches(lengths):
            nll_N, greedy_N = self._score([rows[number] for number in batch])
            ends = np.cumsum(lengths[batch])
            for number, end in zip(batch.tolist(), ends, strict=True):
                part = slice(end - lengths[number], end)
                if not np.isfinite(nll_N[part]).all():
                    raise ValueError(
                        f"the loss of row {number} is not finite; the checkpoint's weights are "
                        "damaged or diverged: use an earlier checkpoint"
                    )
                yield RowLosses(number, nll_N[part], greedy_N[part])

    def continuations(
        self,
        prompts: Sequence[Row],
        *,
        max_new_tokens: int,
        eot_id: int,
        is_finished: Callable[[Row], bool],
    ) -> list[NDArray[np.int64]]:
        """Return what the model says after each prompt, the most likely token each time.

        Every step runs the model on the whole rows: slow, and the same for any model.

        Args:
            prompts: Rows of at least one token.
            max_new_tokens: Longest continuation.
            eot_id: Ends a continuation and is not part of it.
            is_finished: Told all new tokens of a row, whether they suffice.

        Returns:
            int64 arrays of at most `max_new_tokens`, in the order of `prompts`.
        """
        found: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64) for _ in prompts]
        lengths = np.array([len(prompt) + max_new_tokens for prompt in prompts], dtype=np.int64)
        for batch in self._batches(lengths):
            unfinished = batch.tolist()
            for _ in range(max_new_tokens):
                rows = [np.concatenate((prompts[i], found[i])) for i in unfinished]
                for index, token in zip(unfinished, self._next_tokens(rows), strict=True):
                    found[index] = np.append(found[index], token)
                unfinished = [
                    i for i in unfinished if found[i][-1] != eot_id and not is_finished(found[i])
                ]
                if not unfinished:
                    break
        return [tokens[tokens != eot_id] for tokens in found]

    def _score(self, rows: Sequence[Row]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return losses and whether greedy decoding says them, `[N]`, row after row."""
        tokens_BL = _padded(rows).to(self._device)
        lengths_B = torch.tensor([len(row) - 1 for row in rows], device=self._device)
        real_BL = torch.arange(tokens_BL.shape[1] - 1, device=self._device) < lengths_B[:, None]
        with self._running():
            states_ND = self._states(tokens_BL[:, :-1])[real_BL]
            parts = [
                self._score_part(states, targets)
                for states, targets in zip(
                    states_ND.split(PROJECTED_TOKENS),
                    tokens_BL[:, 1:][real_BL].split(PROJECTED_TOKENS),
                    strict=True,
                )
            ]
        nll_N, greedy_N = (torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True))
        return nll_N, greedy_N

    def _score_part(self, states_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        logits_NV = self._model.head(states_ND)
        nll_N = token_scores(logits_NV, targets_N).nll_BL
        return nll_N, logits_NV.argmax(dim=-1) == targets_N

    def _next_tokens(self, rows: Sequence[Row]) -> list[int]:
        last_B = torch.tensor([len(row) - 1 for row in rows], device=self._device)
        with self._running():
            states_BLD = self._states(_padded(rows).to(self._device))
            states_BD = states_BLD[torch.arange(len(rows), device=self._device), last_B]
            return self._model.head(states_BD).argmax(dim=-1).tolist()

    def _states(self, tokens_BL: Tensor) -> Tensor:
        if tokens_BL.shape[1] > self.trained_length and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "a row of %d tokens is scored, the longest of the training had %d: the rotary "
                "embedding goes on beyond it, but the model never saw those positions",
                tokens_BL.shape[1],
                self.trained_length,
            )
        return self._model(tokens_BL, project=False)

    @contextmanager
    def _running(self) -> Generator[None]:
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16),
        ):
            yield

    def _batches(self, lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield the places of rows of similar length, `batch_tokens` with their padding at most."""
        places = np.flatnonzero(lengths > 0)
        places = places[np.argsort(lengths[places], kind="stable")]
        start = 0
        for end in range(1, places.size):
            if (end + 1 - start) * lengths[places[end]] > self._batch_tokens:
                yield places[start:end]
                start = end
        if places.size:
            yield places[start:]


def _padded(rows: Sequence[Row]) -> Tensor:
    """Return int64 `[B, L]`; the padding is id 0, which nothing looks at."""
    tokens_BL = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for place, row in enumerate(rows):
        tokens_BL[place, : len(row)] = row
    return torch.from_numpy(tokens_BL)
