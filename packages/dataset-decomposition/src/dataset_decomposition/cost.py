"""What a mixture of sequence lengths costs: step times and FLOPs (spec 2.6; paper Fig. 7, Table 1).

At a constant number of tokens a step lasts `T(L) = alpha + beta * L`: everything but attention does
not depend on the length, attention costs a token in proportion to it. The verb is
in `predict_cost`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isclose, isfinite

import numpy as np

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.decompose import bucket_length
from dataset_decomposition.stats import average_context_length


@dataclass(frozen=True)
class StepTime:
    """Time of one step by sequence length; call it with a length.

    Attributes:
        alpha_ms: Part that does not depend on the length, milliseconds.
        beta_ms: Milliseconds per token of sequence length.
        r2: Coefficient of determination of the fit, 1 for a formula.
        max_residual_ms: Largest distance of a measured time from the line.
    """

    alpha_ms: float
    beta_ms: float
    r2: float = 1.0
    max_residual_ms: float = 0.0

    def __call__(self, length: float) -> float:
        """Return the milliseconds of a step whose sequences have `length` tokens."""
        return self.alpha_ms + self.beta_ms * length

    def at_context(self, average_context: float) -> float:
        """Return the expected milliseconds of a mixture with this average context length.

        The token-weighted mean length is `2 * average_context + 1`, which is all that counts.
        """
        return self(2 * average_context + 1)

    def scaled(self, factor: float) -> "StepTime":
        """Return the step time for `factor` times as many tokens a step."""
        return StepTime(
            self.alpha_ms * factor, self.beta_ms * factor, self.r2, self.max_residual_ms * factor
        )


def fit_step_time(milliseconds: Mapping[int, float]) -> StepTime:
    """Fit `alpha + beta * L` to measured step times by least squares.

    Args:
        milliseconds: Time of a step by sequence length, all at the same number of tokens.

    Raises:
        ValueError: Fewer than two lengths, or a length or time that is not positive and finite.
    """
    if len(milliseconds) < 2:
        raise ValueError(
            f"a fit of T(L) needs two or more lengths, got {sorted(milliseconds)}; measure more"
        )
    for length, ms in milliseconds.items():
        if length < 1 or not 0 < ms < float("inf"):
            raise ValueError(f"lengths and times must be positive, got {ms} ms at length {length}")
    lengths = np.array(list(milliseconds), dtype=np.float64)
    times = np.array(list(milliseconds.values()), dtype=np.float64)
    centred = lengths - lengths.mean()
    beta = float(centred @ times / (centred @ centred))
    alpha = float(times.mean() - beta * lengths.mean())
    residuals = times - (alpha + beta * lengths)
    spread = float(np.square(times - times.mean()).sum())
    r2 = 1.0 - float(np.square(residuals).sum()) / spread if spread else 1.0
    return StepTime(alpha, beta, r2, float(np.abs(residuals).max()))


def step_time_of_model(
    model: ModelConfig, *, tokens: int, peak_tflops: float, mfu: float
) -> StepTime:
    """Derive the step time of one device from its speed instead of a measurement.

    Args:
        model: Shape of the decoder.
        tokens: Tokens of a step on the device.
        peak_tflops: The device's dense peak in TFLOP/s at the training precision.
        mfu: Share of the peak that training reaches, in (0, 1].

    Raises:
        ValueError: A number is out of its range.
    """
    if not (isfinite(peak_tflops) and peak_tflops > 0):
        raise ValueError(f"peak_tflops must be > 0, got {peak_tflops}")
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu must lie in (0, 1], got {mfu}; it is a share of the peak")
    if tokens < 1:
        raise ValueError(f"tokens must be >= 1, got {tokens}")
    ms_per_flop = 1e3 / (peak_tflops * 1e12 * mfu)
    alpha = tokens * ms_per_flop * flops_per_token(model, 0)
    return StepTime(alpha, tokens * ms_per_flop * flops_per_token(model, 1) - alpha)


def flops_per_token(model: ModelConfig, length: int) -> float:
    """Return the FLOPs of one token, forward and backward: `6 N + 6 layers dim L`.

    N leaves out the input embedding, which is a look-up; the head is a product and counts. With
    that N the published ratios of DD to 8k come out for every model size.
    """
    return 6.0 * _multiplied_parameters(model) + 6.0 * model.layers * model.dim * length


def causal_flops_per_token(model: ModelConfig, average_context: float) -> float:
    """Return the FLOPs of one token by the exact causal form: `6 N + 12 layers dim context`.

    The average context, tokens before a token, is what `stats.average_context_length` returns.
    """
    return 6.0 * _multiplied_parameters(model) + 12.0 * model.layers * model.dim * average_context


def mixture_flops_per_token(
    model: ModelConfig, tokens_per_bucket: Mapping[int, float], *, causal: bool = False
) -> float:
    """Return the mean FLOPs of a mixture's token, given tokens by bucket exponent.

    Raises:
        ValueError: There are no tokens, or a negative number of them.
    """
    if causal:
        return causal_flops_per_token(model, average_context_length(tokens_per_bucket))
    return expected_step(tokens_per_bucket, lambda length: flops_per_token(model, length))


def expected_step(tokens_per_bucket: Mapping[int, float], step_ms: Callable[[int], float]) -> float:
    """Return the expected time of a mixture's step when all ranks take the same bucket.

    Args:
        tokens_per_bucket: Tokens, or shares of them, by bucket exponent.
        step_ms: Time of a step by length: a `StepTime`, or a measured table's `__getitem__`.

    Raises:
        ValueError: There are no tokens, or a negative number of them.
    """
    shares = _shares(tokens_per_bucket)
    return sum(share * step_ms(bucket_length(k)) for k, share in shares.items() if share)


def expected_slowest(
    tokens_per_bucket: Mapping[int, float], step_ms: Callable[[int], float], ranks: int
) -> float:
    """Return the expected time of a step when each rank draws its own bucket.

    The step lasts as long as the slowest rank. With F the distribution of one rank's time, the
    maximum of `ranks` draws has the distribution F^ranks, so this is exact and no simulation.

    Raises:
        ValueError: `ranks` is not positive, there are no tokens, or a negative number of them.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be >= 1, got {ranks}")
    shares = _shares(tokens_per_bucket)
    times = sorted((step_ms(bucket_length(k)), share) for k, share in shares.items() if share)
    expected = below = reached = 0.0
    for ms, share in times:
        reached = min(reached + share, 1.0)
        expected += ms * (reached**ranks - below**ranks)
        below = reached
    assert isclose(below, 1.0), shares
    return expected


def saving(
    tokens_per_bucket: Mapping[int, float], step_ms: Callable[[int], float], baseline_length: int
) -> float:
    """Return the share of time saved against the same tokens in rows of `baseline_length`.

    Raises:
        ValueError: There are no tokens, or a negative number of them.
    """
    return 1.0 - expected_step(tokens_per_bucket, step_ms) / step_ms(baseline_length)


def bucket_hours(
    steps_per_bucket: Mapping[int, int], step_ms: Callable[[int], float]
) -> dict[int, float]:
    """Return the hours that each bucket's steps take, by exponent."""
    return {
        k: steps * step_ms(bucket_length(k)) / 3.6e6 if steps else 0.0
        for k, steps in steps_per_bucket.items()
    }


def _shares(tokens_per_bucket: Mapping[int, float]) -> dict[int, float]:
    average_context_length(tokens_per_bucket)  # refuses what is no mixture
    total = sum(tokens_per_bucket.values())
    return {k: tokens / total for k, tokens in tokens_per_bucket.items()}


def _multiplied_parameters(model: ModelConfig) -> int:
    return model.num_parameters - model.vocab_size * model.dim
