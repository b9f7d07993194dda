"""The verb `bench`: measure how long a training step lasts at each sequence length (spec 2.6, 7b).

The number of tokens is the same at every length. `cost` reads the file that it writes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console, Group
from rich.table import Table

from dataset_decomposition.config import MODEL_SIZES, LossConfig, ModelConfig
from dataset_decomposition.cost import StepTime, fit_step_time
from dataset_decomposition.timings import Timings, save_timings

if TYPE_CHECKING:
    import torch

    from dataset_decomposition.step_timer import StepTimer

Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16"]

PEAK_TOLERANCE = 0.05
"""All lengths have the same tokens, so their peak memory may differ by this share at most."""


def bench(
    out: Path,
    *,
    size: Literal["160m", "410m", "1b", "3b", "7b"] | None = None,
    model: ModelConfig = ModelConfig(),
    loss: LossConfig = LossConfig(),
    lengths: list[int] = [256, 512, 1024, 2048, 4096, 8192],  # noqa: B006 - never changed
    tokens: int = 65_536,
    accumulate: int = 1,
    device: Device = "cuda",
    precision: Precision = "bf16",
    compile: bool = False,
    repeats: int = 10,
) -> None:
    """Measure the time of a training step at each sequence length and fit T(L) = alpha + beta L.

    A step is forward, backward, gradient clipping and AdamW. The clock is wall time on a GPU and
    the CPU time of the process on a CPU, which other programs on the machine disturb less, least
    with OMP_NUM_THREADS=1: threads that wait for each other count as busy.

    Args:
        out: JSON file of the timings, for `cost`.
        size: A published model size, in place of `model`.
        model: Shape and kind of the decoder.
        loss: Weight of the z-loss, and how many logits exist at a time.
        lengths: Sequence lengths, tokens.
        tokens: Tokens of a step, the same at every length.
        accumulate: Micro-batches of a step.
        device: `cuda` or `cpu`.
        precision: `bf16` is autocast.
        compile: Run the decoder through `torch.compile`.
        repeats: Timed steps of each length, after warm-up; the median counts.

    Raises:
        ValueError: An option does not fit, there is no such device, or its memory is too small.
    """
    if size is not None and model != ModelConfig():
        raise ValueError(f"give size or model, not both: got size={size} and {model}")
    if repeats < 1:
        raise ValueError(f"repeats must be >= 1, got {repeats}")
    timer = make_timer(
        model if size is None else MODEL_SIZES[size],
        lengths,
        loss=loss,
        tokens=tokens,
        accumulate=accumulate,
        device=device,
        precision=precision,
        compile=compile,
    )
    timings = measure_timer(timer, lengths, repeats=repeats)
    save_timings(timings, out)
    fit = fit_step_time(timings.milliseconds)
    Console().print(report(timings, fit))
    Console(soft_wrap=True).print(f"timings: {out}", markup=False)


def make_timer(
    model: ModelConfig,
    lengths: Sequence[int],
    *,
    loss: LossConfig = LossConfig(),
    tokens: int,
    accumulate: int = 1,
    device: Device,
    precision: Precision,
    compile: bool = False,
) -> "StepTimer":
    """Build the model on its device; the arguments are those of `bench`.

    Raises:
        ValueError: There is no such device, or the lengths do not fit the tokens.
    """
    import torch

    from dataset_decomposition.step_timer import StepTimer

    _check_lengths(lengths, tokens=tokens, accumulate=accumulate)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no CUDA device; use device=cpu")
    if compile or model.compile:
        _check_graphs(lengths)
    return StepTimer(
        model,
        loss=loss,
        tokens=tokens,
        accumulate=accumulate,
        device=torch.device(device),
        precision=precision,
        compile=compile or model.compile,
    )


def measure_timer(timer: "StepTimer", lengths: Sequence[int], *, repeats: int) -> Timings:
    """Time the steps.

    Raises:
        ValueError: The device's memory is too small.
    """
    from dataset_decomposition.step_timer import measure

    return Timings(
        tokens=timer.tokens,
        lengths=tuple(measure(timer, lengths, repeats=repeats)),
        clock="wall" if timer.device.type == "cuda" else "cpu",
        model=timer.decoder.config,
        device=_device_name(timer.device),
        precision=timer.precision,
        compile=timer.compiled,
        accumulate=timer.accumulate,
    )


def _check_lengths(lengths: Sequence[int], *, tokens: int, accumulate: int) -> None:
    if len(set(lengths)) < max(len(lengths), 2) or min(lengths) < 1:
        raise ValueError(f"lengths must be two or more different numbers >= 1, got {lengths}")
    for name, value in (("tokens", tokens), ("accumulate", accumulate)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    for length in lengths:
        if tokens % (length * accumulate):
            raise ValueError(
                f"tokens={tokens} must be a multiple of accumulate * length = {accumulate} * "
                f"{length}; choose other lengths or tokens"
            )


def _check_graphs(lengths: Sequence[int]) -> None:
    """Refuse more lengths than torch keeps graphs for: the others would run uncompiled."""
    from torch._dynamo import config

    if len(lengths) > config.recompile_limit:
        raise ValueError(
            f"torch.compile keeps {config.recompile_limit} graphs of a model, got "
            f"{len(lengths)} lengths; measure fewer at once"
        )


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, threads: {torch.get_num_threads()}"


def report(timings: Timings, fit: StepTime) -> Group:
    """Lay out measured and fitted times, and warn where the peak memory differs by length."""
    table = Table(title=f"{timings.device}, {timings.precision}, {timings.tokens:,} tokens a step")
    for heading in ("length", "ms", "fastest", "slowest", "fit", "tokens/s", "peak GiB"):
        table.add_column(heading, justify="right")
    for entry in timings.lengths:
        times = (entry.ms, entry.fastest_ms, entry.slowest_ms, fit(entry.length))
        peak = "-" if entry.peak_gib is None else f"{entry.peak_gib:.2f}"
        speed = f"{timings.tokens / entry.ms * 1e3:,.0f}"
        table.add_row(f"{entry.length:,}", *(f"{ms:.1f}" for ms in times if ms), speed, peak)
    line = (
        f"T(L) = {fit.alpha_ms:.5g} + {fit.beta_ms:.4g} L ms, R2 {fit.r2:.4f}, "
        f"largest residual {fit.max_residual_ms:.3g} ms ({timings.clock} time)"
    )
    return Group(table, line, *_peak_warning(timings))


def _peak_warning(timings: Timings) -> list[str]:
    peaks = [entry.peak_gib for entry in timings.lengths if entry.peak_gib is not None]
    if not peaks or max(peaks) <= min(peaks) * (1 + PEAK_TOLERANCE):
        return []
    span = f"{min(peaks):.2f} to {max(peaks):.2f} GiB"
    return [f"[yellow]warning:[/] the peak memory differs by length: {span}"]
