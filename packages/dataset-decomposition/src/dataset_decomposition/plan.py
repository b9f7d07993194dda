"""The plan of a training run, made from a data set's counts: the one that `fit` follows.

Steps of each bucket by the mixture, their order by the curriculum (spec 2.2-2.4). `plan` shows it
before anything is trained; `openlm_plan` has the official planner's numbers instead.
"""

import json as json_library
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dataset_decomposition.manifest import bucket_folder, bucket_folders, read_manifest
from dataset_decomposition.mixture import Mixture, mixture_steps
from dataset_decomposition.openlm_plan import OpenLMPlan, openlm_plan
from dataset_decomposition.plan_report import (
    batches_tables,
    openlm_figures,
    openlm_table,
    plan_figures,
    save_plot,
)
from dataset_decomposition.records import DATASET, read_info
from dataset_decomposition.settings import OPENLM_SHARD_TOKENS
from tenfold.bucketing import Bucket, BucketPlan, Curriculum, PassPosition, supply


def build_plan(
    buckets: Mapping[str, tuple[int, int]],
    *,
    total_steps: int,
    tokens_per_step: int,
    curriculum: Curriculum,
    mixture: Mixture = "equal",
    seed: int = 42,
    divisor: int = 1,
    repeat: Literal["error", "reshuffle"] = "error",
    continued: Mapping[str, PassPosition] | None = None,
) -> BucketPlan:
    """Plan a run of a stated length; a pure function of its arguments, the same on every rank.

    Args:
        buckets: Sequence length and number of rows by bucket key.
        total_steps: Optimiser steps of the run.
        tokens_per_step: Trained tokens of a step over all ranks and micro-batches.
        curriculum: Odds, cycles and odds mode.
        mixture: Share of each bucket in the steps.
        seed: Key of schedule and row order.
        divisor: Parts that each batch splits into: ranks x accumulation.
        repeat: What to do when a bucket has less than the run wants.
        continued: What earlier plans have used, by bucket key. With `repeat="error"` the mixture is
            one of the rows that are left.

    Raises:
        ValueError: The buckets cannot give what is asked; the message has the remedy.
    """
    counted = [Bucket(key, length, rows) for key, (length, rows) in buckets.items()]
    _check_tokens_per_step(counted, tokens_per_step, divisor)
    left = supply(counted, continued or {}, repeat)
    steps = mixture_steps(mixture, left, total_steps=total_steps, tokens_per_step=tokens_per_step)
    if repeat == "error":
        _check_supply(left, steps, tokens_per_step)
    return BucketPlan.build(
        counted,
        cost_per_step=tokens_per_step,
        curriculum=curriculum,
        seed=seed,
        divisor=divisor,
        wanted={key: count * tokens_per_step for key, count in steps.items()},
        repeat=repeat,
        continued=continued,
    )


def _check_tokens_per_step(buckets: list[Bucket], tokens_per_step: int, divisor: int) -> None:
    longest = max((b.item_cost for b in buckets if b.num_items), default=1)
    unit = longest * divisor
    if tokens_per_step < 1 or tokens_per_step % unit:
        lower = tokens_per_step // unit * unit
        nearest = [value for value in (lower, lower + unit) if value]
        raise ValueError(
            f"tokens_per_step must be a multiple of longest length x ranks x accumulation = "
            f"{longest} x {divisor}, got {tokens_per_step}; nearest: {', '.join(map(str, nearest))}"
        )


def _check_supply(buckets: list[Bucket], steps: Mapping[str, int], tokens_per_step: int) -> None:
    for bucket in buckets:
        available = bucket.num_items // (tokens_per_step // bucket.item_cost)
        wanted = steps[bucket.key]
        if wanted > available:
            raise ValueError(
                f"the run takes {wanted} steps from {bucket.key}, which has {available}: "
                f"lower the number of steps (these are {wanted / available:.2f} passes), change "
                "mixture, or set repeat to reshuffle"
            )


def read_buckets(data: Path) -> dict[str, tuple[int, int]]:
    """Read sequence length and number of rows by bucket key, shortest first, from the manifests.

    Raises:
        FileNotFoundError: There is no finished data set.
        ValueError: A manifest is malformed.
    """
    folders = bucket_folders(data)
    if (data / DATASET).is_file():
        shortest = read_info(data)["min_bucket"]
    elif folders:
        shortest = min(folders)  # official shards: only manifests
    else:
        raise FileNotFoundError(f"{data} is no prepared data set; make one with prepare")
    return {
        bucket_folder(k): (1 << k, sum(shard.num_sequences for shard in read_manifest(folder)))
        for k, folder in folders.items()
        if k >= shortest
    }


def steps_of(tokens: float, tokens_per_step: int) -> int:
    """Return the whole steps in `tokens`.

    Raises:
        ValueError: A number is no positive whole number, or there is not one step.
    """
    if tokens_per_step < 1:
        raise ValueError(f"tokens_per_step must be >= 1, got {tokens_per_step}")
    if not np.isfinite(tokens) or tokens != int(tokens) or tokens < tokens_per_step:
        raise ValueError(
            f"tokens must be a whole number of at least one step's {tokens_per_step:,}, "
            f"got {tokens:g}"
        )
    return int(tokens) // tokens_per_step


def steps_per_cycle(plan: BucketPlan) -> NDArray[np.int64]:
    """Return the steps of each bucket in each cycle, int64 `[cycles, buckets]`."""
    counts = np.bincount(plan.steps, minlength=len(plan.buckets))
    cycles = plan.curriculum.cycles
    edges = (np.arange(cycles + 1)[:, None] * counts // cycles).sum(axis=1)
    parts = np.split(plan.steps, edges[1:-1])
    return np.stack([np.bincount(part, minlength=len(plan.buckets)) for part in parts])


def plan(
    data: Path,
    *,
    tokens: float,
    tokens_per_step: int = 524_288,
    ranks: int = 1,
    accumulate: int = 1,
    curriculum: str = "grow_p2",
    cycles: int = 8,
    odds_mode: Literal["per_batch", "times_size"] = "per_batch",
    mixture: Mixture = "equal",
    seed: int = 42,
    repeat: Literal["error", "reshuffle"] = "error",
    compat: Literal["batches", "openlm"] = "batches",
    plot: Path | None = None,
    json: bool = False,
) -> None:
    """Show what a training run takes from each bucket, and when, before it starts.

    Args:
        data: Folder that `prepare` made, or one of official text shards.
        tokens: Trained tokens of the run, such as 28.8e9.
        tokens_per_step: As in `fit`: over all ranks and micro-batches.
        ranks: Data-parallel processes, usually GPUs.
        accumulate: Micro-batches of a step on each rank.
        curriculum: As in `fit`.
        cycles: As in `fit`.
        odds_mode: As in `fit`.
        mixture: As in `fit`.
        seed: As in `fit`.
        repeat: As in `fit`.
        compat: `batches` is our plan; `openlm` prints the official planner's arguments, which take
            every bucket by its share of the data whatever `mixture`, `odds_mode` and `seed` say.
        plot: PNG of the sequence length over the steps.
        json: Print one JSON object instead of tables.

    Raises:
        FileNotFoundError: There is no finished data set.
        ValueError: The buckets cannot give what is asked, or an option does not fit.
    """
    steps = steps_of(tokens, tokens_per_step)
    for name, value in (("ranks", ranks), ("accumulate", accumulate)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    buckets = read_buckets(data)
    named = Curriculum.named(curriculum, cycles=cycles, mode=odds_mode)
    if compat == "openlm":
        if plot is not None:
            raise ValueError("plot draws our plan; leave it out with compat=openlm")
        _show_openlm(_as_openlm(buckets, named, tokens=int(tokens), gpus=ranks), json=json)
        return
    made = build_plan(
        buckets,
        total_steps=steps,
        tokens_per_step=tokens_per_step,
        curriculum=named,
        mixture=mixture,
        seed=seed,
        divisor=ranks * accumulate,
        repeat=repeat,
    )
    figures = plan_figures(
        made, steps_per_cycle(made), asked=int(tokens), divisor=ranks * accumulate
    )
    if plot is not None:
        save_plot(made, steps_per_cycle(made), plot)
    if json:
        _print_json(figures)
    else:
        Console().print(batches_tables(figures))


def _as_openlm(
    buckets: Mapping[str, tuple[int, int]], curriculum: Curriculum, *, tokens: int, gpus: int
) -> OpenLMPlan:
    if curriculum.odds == "natural":
        # The official code knows odds times size only: equal odds come nearest to a shuffle.
        curriculum = Curriculum.uniform(cycles=curriculum.cycles)
    odds = curriculum.resolve([Bucket(key, *pair) for key, pair in buckets.items()]).odds
    if not isinstance(odds, Mapping):
        raise ValueError("the official planner has no sequential curriculum; choose one with odds")
    exponents = {key: length.bit_length() - 1 for key, (length, _) in buckets.items()}
    return openlm_plan(
        {
            exponents[key]: rows * length // OPENLM_SHARD_TOKENS
            for key, (length, rows) in buckets.items()
        },
        {exponents[key]: value for key, value in odds.items()},
        tokens=tokens,
        cycles=curriculum.cycles,
        gpus=gpus,
    )


def _show_openlm(made: OpenLMPlan, *, json: bool) -> None:
    if json:
        _print_json(openlm_figures(made))
    else:
        Console().print(openlm_table(made))


def _print_json(figures: Mapping[str, Any]) -> None:
    text = json_library.dumps(figures, indent=2, sort_keys=True)
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
