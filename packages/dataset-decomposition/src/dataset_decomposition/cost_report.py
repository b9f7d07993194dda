"""What a planned run costs, as figures and as tables for a terminal (spec 2.6)."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Group
from rich.table import Table

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.cost import (
    StepTime,
    bucket_hours,
    expected_slowest,
    expected_step,
    flops_per_token,
    mixture_flops_per_token,
)
from dataset_decomposition.manifest import bucket_folder
from dataset_decomposition.plan import steps_per_cycle
from tenfold.bucketing import BucketPlan, BucketStats

ACCEPTED_R2 = 0.95


class Speed(NamedTuple):
    """Step time of one rank of the run, and where it comes from.

    `clock` is that of `Timings`; `measured` are the lengths it rests on, empty for a formula.
    """

    step: StepTime
    model: ModelConfig | None
    clock: Literal["wall", "cpu"]
    measured: tuple[int, ...]


def cost_figures(
    plan: BucketPlan, speed: Speed, *, ranks: int, baseline_length: int = 0
) -> dict[str, Any]:
    """Gather what a plan costs, as JSON values.

    Args:
        plan: The plan.
        speed: Step time of one rank.
        ranks: Data-parallel processes.
        baseline_length: Row length to compare with; 0 is the longest bucket that the plan uses.
    """
    taken = {
        bucket.item_cost.bit_length() - 1: stats
        for bucket, stats in zip(plan.buckets, plan.stats().values(), strict=True)
    }
    tokens = {k: stats.cost for k, stats in taken.items()}
    used = [1 << k for k, stats in taken.items() if stats.steps]
    baseline = baseline_length or max(used)
    step_ms, baseline_ms = expected_step(tokens, speed.step), speed.step(baseline)
    slowest_ms = expected_slowest(tokens, speed.step, ranks)
    hours = step_ms * len(plan) / 3.6e6
    cycle_hours = steps_per_cycle(plan) @ [speed.step(1 << k) / 3.6e6 for k in taken]
    return {
        "steps": len(plan),
        "tokens": sum(tokens.values()),
        "ranks": ranks,
        "clock": speed.clock,
        "step_time": {**asdict(speed.step), "measured_lengths": list(speed.measured)},
        "step_ms": step_ms,
        "hours": hours,
        "rank_hours": hours * ranks,
        "hours_at_cycle_end": np.cumsum(cycle_hours).tolist(),
        "baseline": {
            "length": baseline,
            "step_ms": baseline_ms,
            "hours": baseline_ms * len(plan) / 3.6e6,
        },
        "saving": 1 - step_ms / baseline_ms,
        "independent_draws": {"step_ms": slowest_ms, "saving": 1 - slowest_ms / baseline_ms},
        "flops": _flops(speed.model, tokens, baseline),
        "buckets": _buckets(taken, speed.step),
        "warnings": list(_warnings(speed, [*used, baseline])),
    }


def _buckets(taken: Mapping[int, BucketStats], step: StepTime) -> dict[str, dict[str, float]]:
    hours = bucket_hours({k: stats.steps for k, stats in taken.items()}, step)
    return {
        bucket_folder(k): {
            "steps": stats.steps,
            "tokens": stats.cost,
            "step_ms": step(1 << k),
            "hours": hours[k],
            "share_of_time": hours[k] / sum(hours.values()),
        }
        for k, stats in taken.items()
    }


def _flops(
    model: ModelConfig | None, tokens: Mapping[int, int], baseline_length: int
) -> dict[str, float] | None:
    if model is None:
        return None
    total = sum(tokens.values())
    ours = mixture_flops_per_token(model, tokens) * total
    causal = mixture_flops_per_token(model, tokens, causal=True) * total
    baseline = flops_per_token(model, baseline_length) * total
    return {
        "total": ours,
        "causal_total": causal,
        "baseline": baseline,
        "saving": 1 - ours / baseline,
    }


def _warnings(speed: Speed, lengths: list[int]) -> Iterator[str]:
    if speed.step.r2 < ACCEPTED_R2:
        yield (
            f"the timings fit a line badly (R2 {speed.step.r2:.3f}, residual "
            f"{speed.step.max_residual_ms:.3g} ms); measure again with more repeats"
        )
    if speed.step.alpha_ms <= 0 or speed.step.beta_ms < 0:
        yield "the fitted line has a negative part; measure again with more repeats and lengths"
    if speed.measured:
        shortest, longest = speed.measured[0], speed.measured[-1]
        outside = sorted({length for length in lengths if not shortest <= length <= longest})
        if outside:
            yield f"lengths {outside} lie outside the measured {shortest} to {longest}"


def cost_tables(figures: Mapping[str, Any]) -> Group:
    """Lay out `cost_figures` as tables."""
    unit = "CPU hours" if figures["clock"] == "cpu" else "hours"
    fit = figures["step_time"]
    table = Table(title=f"T(L) = {fit['alpha_ms']:.4g} + {fit['beta_ms']:.4g} L ms a step")
    for heading in ("bucket", "steps", "tokens", "ms a step", unit, "share of time"):
        table.add_column(heading, justify="right")
    for key, bucket in figures["buckets"].items():
        counts = (f"{bucket[name]:,}" for name in ("steps", "tokens"))
        times = f"{bucket['step_ms']:.1f}", f"{bucket['hours']:.3g}"
        table.add_row(key, *counts, *times, f"{bucket['share_of_time']:.1%}")
    warnings = (f"[yellow]warning:[/] {text}" for text in figures["warnings"])
    return Group(table, *_lines(figures, unit), *warnings)


def _lines(figures: Mapping[str, Any], unit: str) -> Iterator[str]:
    baseline, drawn, flops = (figures[key] for key in ("baseline", "independent_draws", "flops"))
    yield (
        f"{figures['hours']:.4g} {unit}, times ranks {figures['rank_hours']:.4g}; "
        f"{figures['step_ms']:.4g} ms a step"
    )
    yield (
        f"{baseline['length']:,} tokens a row: {baseline['hours']:.4g} {unit}, "
        f"{baseline['step_ms']:.4g} ms; {figures['saving']:.1%} saved"
    )
    if figures["ranks"] > 1:
        yield f"each rank its own bucket: {drawn['step_ms']:.4g} ms; {drawn['saving']:.1%} saved"
    if flops is not None:
        yield f"{flops['total']:.3e} FLOPs; {flops['saving']:.1%} saved"
    at_end = ", ".join(f"{hours:.3g}" for hours in figures["hours_at_cycle_end"])
    yield f"{unit} at the end of each cycle: {at_end}"
