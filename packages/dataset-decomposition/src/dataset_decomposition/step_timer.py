"""One training step of the decoder, timed: forward, backward, clipping and AdamW, as `fit` does it.

The data is random ids: the time of a step does not depend on them.
"""

import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from dataset_decomposition.config import LossConfig, ModelConfig
from dataset_decomposition.llama import LlamaDecoder
from dataset_decomposition.losses import chunked_scores, mean_loss, token_scores
from dataset_decomposition.model import Decoder
from dataset_decomposition.timings import LengthTiming
from tenfold.optim import OptimConfig, configure

WARM_UP = 3


class StepTimer:
    """A model with its optimiser, whose steps have any length at a constant number of tokens.

    Args:
        model: Shape and kind of the decoder.
        loss: Weight of the z-loss, and how many logits exist at a time.
        tokens: Tokens of a step.
        accumulate: Micro-batches of a step.
        device: Where it runs.
        precision: `fp32`, or `bf16` for autocast.
        compile: Run the decoder through `torch.compile`, one graph a length.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        loss: LossConfig = LossConfig(),
        tokens: int,
        accumulate: int = 1,
        device: torch.device,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        self.loss = loss
        self.tokens = tokens
        self.accumulate = accumulate
        self.device = device
        self.precision = precision
        self.compiled = compile
        with device:
            self.decoder = LlamaDecoder(model) if model.body == "llama" else Decoder(model)
        if compile:
            self.decoder.compile(dynamic=False)
        optim = OptimConfig(lr=3e-3, total_steps=1, weight_decay=0.033, decay_all=True)
        self.optimizer = configure(self.decoder, optim)["optimizer"]
        self._generator = torch.Generator(device).manual_seed(0)

    def batch(self, length: int) -> Tensor:
        """Draw the ids of one step, int64 `[tokens / length, length + 1]`."""
        shape = (self.tokens // length, length + 1)
        vocabulary = self.decoder.config.vocab_size
        return torch.randint(vocabulary, shape, generator=self._generator, device=self.device)

    def train(self, tokens: Tensor) -> None:
        """Do one optimiser step on the ids of `batch`."""
        for micro in tokens.chunk(self.accumulate):
            (self._loss(micro[:, :-1], micro[:, 1:]) / self.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            if chunk := self.loss.chunk_tokens:
                head = self.decoder.head.weight
                assert isinstance(head, Tensor)
                states = self.decoder(tokens, project=False)
                scores = chunked_scores(states, head, targets, chunk_tokens=chunk)
            else:
                scores = token_scores(self.decoder(tokens), targets)
            nll, z = mean_loss(scores)
        return nll + self.loss.z_loss * z

    def milliseconds(self, length: int) -> float:
        """Return the time of one step: wall time on a GPU, CPU time of the process on a CPU."""
        tokens = self.batch(length)
        started = self.now()
        self.train(tokens)
        return (self.now() - started) * 1e3

    def now(self) -> float:
        """Return seconds on the clock of the device, after all its work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def peak_gib(self, length: int) -> float | None:
        """Return the peak memory of one step; None on a CPU, which does not count it."""
        if self.device.type != "cuda":
            return None
        tokens = self.batch(length)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.train(tokens)
        return torch.cuda.max_memory_allocated(self.device) / 2**30


def measure(timer: StepTimer, lengths: Sequence[int], *, repeats: int) -> list[LengthTiming]:
    """Time every length `repeats` times, in turns, so that a drift of the machine meets all alike.

    Raises:
        ValueError: The device's memory is too small; names the length and the remedy.
    """
    peaks: dict[int, float | None] = {}
    for length in sorted(lengths, reverse=True):
        try:
            for _ in range(WARM_UP):
                timer.milliseconds(length)
            peaks[length] = timer.peak_gib(length)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"a step of {timer.tokens} tokens at length {length} does not fit in the device's "
                f"memory with accumulate={timer.accumulate}, "
                f"loss.chunk_tokens={timer.loss.chunk_tokens}; raise accumulate, set chunk_tokens, "
                "or lower tokens"
            ) from error
    times: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(repeats):
        for length in lengths:
            times[length].append(timer.milliseconds(length))
    return [
        LengthTiming(
            length=length,
            ms=median(each),
            fastest_ms=min(each),
            slowest_ms=max(each),
            peak_gib=peaks[length],
        )
        for length, each in times.items()
    ]
