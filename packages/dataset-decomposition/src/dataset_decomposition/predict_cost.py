"""The verb `cost`: hours, FLOPs and saving of a planned run, before it is trained (spec 2.6)."""

import json as json_library
from pathlib import Path
from typing import Literal

from rich.console import Console

from dataset_decomposition.config import MODEL_SIZES, ModelConfig
from dataset_decomposition.cost import fit_step_time, step_time_of_model
from dataset_decomposition.cost_report import Speed, cost_figures, cost_tables
from dataset_decomposition.mixture import Mixture
from dataset_decomposition.plan import build_plan, read_buckets, steps_of
from dataset_decomposition.timings import Timings, load_timings
from tenfold.bucketing import Curriculum

Size = Literal["160m", "410m", "1b", "3b", "7b"]


def cost(
    data: Path,
    *,
    tokens: float,
    tokens_per_step: int = 524_288,
    ranks: int = 1,
    curriculum: str = "grow_p2",
    cycles: int = 8,
    odds_mode: Literal["per_batch", "times_size"] = "per_batch",
    mixture: Mixture = "equal",
    seed: int = 42,
    repeat: Literal["error", "reshuffle"] = "error",
    timings: Path | None = None,
    size: Size | None = None,
    peak_tflops: float | None = None,
    mfu: float = 0.4,
    baseline_length: int = 0,
    json: bool = False,
) -> None:
    """Predict hours, FLOPs and saving of a training run, and the time of each bucket.

    The step time comes from a file of `bench`, or from model size, peak and MFU. A measured time is
    scaled to the tokens that a rank has in a step; communication is in it only if it was measured.

    Args:
        data: Folder that `prepare` made, or one of official text shards.
        tokens: Trained tokens of the run, such as 28.8e9.
        tokens_per_step: As in `fit`: over all ranks and micro-batches.
        ranks: Data-parallel processes, usually GPUs.
        curriculum: As in `fit`; with the cycles it decides how far the time is at each cycle's end.
        cycles: As in `fit`.
        odds_mode: As in `fit`.
        mixture: As in `fit`.
        seed: As in `fit`.
        repeat: As in `fit`.
        timings: File that `bench` wrote.
        size: Model size, for the FLOPs, and for the time when there are no timings.
        peak_tflops: Dense peak of one device in TFLOP/s, in place of timings.
        mfu: Share of the peak that training reaches.
        baseline_length: Row length of the concat-and-chunk run to compare with; 0 is the longest
            bucket.
        json: Print one JSON object instead of tables.

    Raises:
        FileNotFoundError: There is no finished data set, or no timings file.
        ValueError: The buckets cannot give what is asked, or an option does not fit.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be >= 1, got {ranks}")
    if baseline_length < 0:
        raise ValueError(f"baseline_length must be >= 0, got {baseline_length}; 0 is the longest")
    total_steps = steps_of(tokens, tokens_per_step)
    speed = _speed(timings, size, peak_tflops, mfu=mfu, tokens=tokens_per_step // ranks)
    plan = build_plan(
        read_buckets(data),
        total_steps=total_steps,
        tokens_per_step=tokens_per_step,
        curriculum=Curriculum.named(curriculum, cycles=cycles, mode=odds_mode),
        mixture=mixture,
        seed=seed,
        divisor=ranks,
        repeat=repeat,
    )
    figures = cost_figures(plan, speed, ranks=ranks, baseline_length=baseline_length)
    if json:
        text = json_library.dumps(figures, indent=2, sort_keys=True)
        Console(soft_wrap=True).print(text, markup=False, highlight=False)
    else:
        Console().print(cost_tables(figures))


def _speed(
    timings: Path | None, size: Size | None, peak_tflops: float | None, *, mfu: float, tokens: int
) -> Speed:
    if (timings is None) == (peak_tflops is None):
        raise ValueError(
            "give either timings, a file that bench wrote, or peak_tflops with size and mfu"
        )
    model = None if size is None else MODEL_SIZES[size]
    if timings is not None:
        return _measured_speed(load_timings(timings), model, tokens)
    if model is None:
        raise ValueError("peak_tflops needs size: without timings the time follows from the FLOPs")
    assert peak_tflops is not None
    step = step_time_of_model(model, tokens=tokens, peak_tflops=peak_tflops, mfu=mfu)
    return Speed(step, model, "wall", ())


def _measured_speed(measured: Timings, model: ModelConfig | None, tokens: int) -> Speed:
    fit = fit_step_time(measured.milliseconds).scaled(tokens / measured.tokens)
    lengths = tuple(sorted(measured.milliseconds))
    return Speed(fit, model or measured.model, measured.clock, lengths)
