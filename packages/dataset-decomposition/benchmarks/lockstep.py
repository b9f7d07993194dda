"""Why all ranks must take the same bucket: lockstep against independent draws (spec 2.6).

Under synchronous data parallelism a step lasts as long as the slowest rank. The exact expectation
is by order statistics; the simulation draws a schedule for each rank as a run without a common plan
would, and takes the slowest rank of every step. Run: `python lockstep.py [--timings t.json]`.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from dataset_decomposition.cost import (
    StepTime,
    expected_slowest,
    expected_step,
    fit_step_time,
)
from dataset_decomposition.plan import build_plan
from dataset_decomposition.timings import load_timings
from tenfold.bucketing import BucketPlan, Curriculum
from tenfold.results import this_machine

# Fit of the paper's Fig. 7: 1B, 8192 tokens a GPU, H100.
PAPER = StepTime(222.2, 0.01006)
TOKENS = 524_288
RANKS = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--timings", type=Path, help="file of `bench` in place of the paper's fit")
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--curriculum", default="uniform")
    parser.add_argument("--cycles", type=int, default=1)
    options = parser.parse_args()
    step_ms = PAPER
    if options.timings is not None:
        step_ms = fit_step_time(load_timings(options.timings).milliseconds)
    started = time.perf_counter()
    plans = [make_plan(options, seed) for seed in range(max(RANKS))]
    tokens = dict.fromkeys(range(8, 14), 1.0)
    lockstep, longest = expected_step(tokens, step_ms), step_ms(8192)
    times = np.stack([step_times(plan, step_ms) for plan in plans])
    print(f"{this_machine()}; D_8 .. D_13 in equal parts, {options.steps:,} steps")
    print(f"T(L) = {step_ms.alpha_ms:.4g} + {step_ms.beta_ms:.4g} L ms; 8k rows {longest:.1f} ms")
    print(
        f"{'ranks':>5} {'lockstep':>9} {'exact':>7} {'simulated':>10} {'ratio':>6} {'saving':>15}"
    )
    for ranks in RANKS:
        exact = expected_slowest(tokens, step_ms, ranks)
        simulated = float(times[:ranks].max(axis=0).mean())
        kept = f"{1 - lockstep / longest:.1%} -> {1 - exact / longest:.1%}"
        row = f"{ranks:>5} {lockstep:>9.1f} {exact:>7.1f} {simulated:>10.1f}"
        print(f"{row} {exact / lockstep:>6.3f} {kept:>15}")
    print(f"simulated in {time.perf_counter() - started:.1f} s")


def make_plan(options: argparse.Namespace, seed: int) -> BucketPlan:
    """Plan a run as one rank with this seed would."""
    buckets = {f"D_{k}": (1 << k, options.steps * TOKENS >> k) for k in range(8, 14)}
    curriculum = Curriculum.named(options.curriculum, cycles=options.cycles)
    return build_plan(
        buckets,
        total_steps=options.steps,
        tokens_per_step=TOKENS,
        curriculum=curriculum,
        mixture="equal",
        seed=seed,
    )


def step_times(plan: BucketPlan, step_ms: StepTime) -> np.ndarray:
    """Return the milliseconds of each step, float64[steps]."""
    return np.array([step_ms(bucket.item_cost) for bucket in plan.buckets])[plan.steps]


if __name__ == "__main__":
    main()
