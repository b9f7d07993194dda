"""How a plan is shown: figures as JSON values, tables for a terminal, and a plot of the lengths."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from dataset_decomposition.openlm_plan import OpenLMPlan
from tenfold import atomic
from tenfold.bucketing import BucketPlan


def plan_figures(
    plan: BucketPlan, per_cycle: NDArray[np.int64], *, asked: int, divisor: int
) -> dict[str, Any]:
    """Gather what a plan takes from each bucket.

    Args:
        plan: The plan.
        per_cycle: Steps by cycle and bucket, int64 `[cycles, buckets]`.
        asked: Tokens that were asked for.
        divisor: Parts that each batch splits into: ranks x accumulation.
    """
    tokens = len(plan) * plan.cost_per_step
    buckets = {
        bucket.key: {
            "sequence_length": bucket.item_cost,
            "sequences": bucket.num_items,
            "sequences_per_batch": taken.items_per_step,
            "sequences_per_micro_batch": taken.items_per_step // divisor,
            "steps": taken.steps,
            "tokens": taken.cost,
            "share": taken.share,
            "passes": taken.passes,
            "unused_sequences": taken.unused_items,
            "steps_per_cycle": per_cycle[:, index].tolist(),
        }
        for index, (bucket, taken) in enumerate(
            zip(plan.buckets, plan.stats().values(), strict=True)
        )
    }
    return {
        "steps": len(plan),
        "tokens": tokens,
        "tokens_per_step": plan.cost_per_step,
        "tokens_asked": asked,
        "cycles": plan.curriculum.cycles,
        "fingerprint": plan.fingerprint,
        "buckets": buckets,
        "warnings": list(_warnings(buckets, tokens=tokens, asked=asked)),
    }


def _warnings(
    buckets: Mapping[str, Mapping[str, Any]], *, tokens: int, asked: int
) -> Iterator[str]:
    if tokens != asked:
        yield f"{asked:,} tokens are no whole number of steps; the run trains {tokens:,}"
    for key, bucket in buckets.items():
        have, need = bucket["sequences"], bucket["sequences_per_batch"]
        if bucket["passes"] > 1:
            yield f"{key} is passed over {bucket['passes']:.2f} times, reshuffled each time"
        if bucket["steps"] and not min(bucket["steps_per_cycle"]):
            yield f"{key} has only {bucket['steps']} steps: some cycles lack it"
        if have and not bucket["steps"]:
            few = f", fewer than one batch of {need:,}" if have < need else ""
            yield f"{key} is not used: it has {have:,} sequences{few}"


def batches_tables(figures: Mapping[str, Any]) -> Group:
    """Lay out `plan_figures` as tables."""
    return Group(_bucket_table(figures), _cycle_table(figures), *_warning_lines(figures))


def _bucket_table(figures: Mapping[str, Any]) -> Table:
    steps, tokens = figures["steps"], figures["tokens"]
    table = Table(title=f"{steps:,} steps of {figures['tokens_per_step']:,}: {tokens:,} tokens")
    for heading in ("bucket", "batch", "micro", "steps", "tokens", "passes", "unused"):
        table.add_column(heading, justify="right")
    for key, bucket in figures["buckets"].items():
        names = ("sequences_per_batch", "sequences_per_micro_batch", "steps", "tokens")
        counts = (f"{bucket[name]:,}" for name in names)
        table.add_row(key, *counts, f"{bucket['passes']:.2f}", f"{bucket['unused_sequences']:,}")
    return table


def _cycle_table(figures: Mapping[str, Any]) -> Table:
    table = Table("cycle", title="Steps by cycle")
    for key in figures["buckets"]:
        table.add_column(key, justify="right")
    table.add_column("tokens", justify="right")
    columns = (bucket["steps_per_cycle"] for bucket in figures["buckets"].values())
    for cycle, steps in enumerate(zip(*columns, strict=True), start=1):
        tokens = sum(steps) * figures["tokens_per_step"]
        table.add_row(str(cycle), *(f"{count:,}" for count in steps), f"{tokens:,}")
    return table


def _warning_lines(figures: Mapping[str, Any]) -> list[str]:
    return [f"[yellow]warning:[/] {text}" for text in figures["warnings"]]


def openlm_figures(made: OpenLMPlan) -> dict[str, Any]:
    """Gather the official planner's numbers as JSON values."""
    return {**asdict(made), "tokens": made.tokens}


def openlm_table(made: OpenLMPlan) -> Group:
    """Lay out the official planner's numbers and its arguments."""
    table = Table(
        title=f"{made.cycles} cycles of {made.tokens_per_cycle:,}: {made.tokens:,} tokens"
    )
    for heading in ("bucket", "factor", "sequences a cycle", "weight", "passes"):
        table.add_column(heading, justify="right")
    for k, factor in made.factors.items():
        counts = f"{made.sequences_per_cycle[k]:,}", str(made.weights[k])
        table.add_row(f"D_{k}", str(factor), *counts, f"{made.passes[k]:.2f}")
    sequences = " ".join(map(str, made.sequences_per_cycle.values()))
    arguments = [
        f"--epochs {made.cycles}",
        f"--train-num-samples {made.tokens_per_cycle}",
        f"--source-num-seq-per-epoch {sequences}",
        f"--train-data-mix-weights {' '.join(map(str, made.weights.values()))}",
    ]
    return Group(table, *arguments, *_warning_lines({"warnings": made.warnings}))


def save_plot(plan: BucketPlan, per_cycle: NDArray[np.int64], path: Path) -> None:
    """Draw the sequence length of every step and its running mean, a line where each cycle ends."""
    from matplotlib.figure import Figure

    lengths = np.array([bucket.item_cost for bucket in plan.buckets])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    drawn = lengths[plan.steps]
    window = max(len(plan) // 200, 1)
    totals = np.concatenate([[0], np.cumsum(drawn)])
    means = (totals[window:] - totals[:-window]) / window
    axes.plot(drawn, ",", color="tab:blue")
    axes.plot(np.arange(means.size) + window / 2, means, color="tab:orange")
    axes.set_title("length of each step, and its running mean")
    for end in np.cumsum(per_cycle.sum(axis=1))[:-1]:
        axes.axvline(end - 0.5, color="0.7", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.set_yticks(lengths, map(str, lengths.tolist()))
    axes.set(xlabel="step", ylabel="sequence length", xlim=(-0.5, len(plan) - 0.5))
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)
