"""Schedule of a million steps against the naive loop of Algorithm 1, and the sampler's time a step.

Targets (spec 10): a million steps in under a second and 50 MB, the sampler under 50 us a step.
Run: `python schedule.py [--steps N]`.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from statistics import median

import numpy as np

from dataset_decomposition.plan import build_plan
from tenfold.bucketing import BucketBatchSampler, BucketPlan, Curriculum
from tenfold.results import this_machine

CYCLES = 8
LENGTHS = {f"D_{k}": 1 << k for k in range(8, 14)}


def main() -> None:
    """Print time, memory and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--naive_steps", type=int, default=30_000)
    parser.add_argument("--sampled_steps", type=int, default=2_000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=4)
    parser.add_argument("--tokens_per_step", type=int, default=524_288)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{this_machine()}; medians of {options.repeats}, CPU time")
    print(f"D_8 .. D_13 in equal parts, grow_p2, {CYCLES} cycles")
    _compare_schedules(options)
    _time_sampler(options)


def _compare_schedules(options: argparse.Namespace) -> None:
    tokens = options.tokens_per_step
    fast_s = _median_seconds(lambda: plan_of(options.steps, tokens), options.repeats)
    small_s = _median_seconds(lambda: plan_of(options.naive_steps, tokens), options.repeats)
    naive_s = _median_seconds(lambda: naive_schedule(options.naive_steps), options.repeats)
    fast_mib = _peak_mib(lambda: plan_of(options.steps, tokens))
    naive_mib = _peak_mib(lambda: naive_schedule(options.naive_steps))
    print(f"{'':>12} {'steps':>10} {'seconds':>9} {'us/step':>8} {'peak MiB':>9}")
    for name, steps, seconds, mib in (
        ("vectorised", options.steps, fast_s, fast_mib),
        ("naive loop", options.naive_steps, naive_s, naive_mib),
    ):
        row = f"{name:>12} {steps:>10,} {seconds:>9.3f} {1e6 * seconds / steps:>8.3f}"
        print(f"{row} {mib:>9.1f}")
    ratio = naive_s / options.naive_steps / (fast_s / options.steps)
    print(f"naive / vectorised: {ratio:.0f} a step, {naive_s / small_s:.0f} at the same steps")


def _time_sampler(options: argparse.Namespace) -> None:
    plan = plan_of(options.sampled_steps, options.tokens_per_step)

    def read_rows() -> None:
        for step in range(len(plan)):
            plan.rows(step, 0, options.ranks)

    def read_sampler() -> None:
        for _ in BucketBatchSampler(plan, 0, options.ranks, options.accumulate):
            pass

    print(f"sampler, one of {options.ranks} ranks, {options.accumulate} micro-batches a step:")
    for name, run in (("rows as an array", read_rows), ("lists of pairs", read_sampler)):
        seconds = _median_seconds(run, options.repeats)
        print(f"{name:>18}: {1e6 * seconds / len(plan):.1f} us a step")


def plan_of(steps: int, tokens_per_step: int) -> BucketPlan:
    """Plan a run of equal parts of D_8 to D_13."""
    buckets = {key: (length, steps * tokens_per_step // length) for key, length in LENGTHS.items()}
    return build_plan(
        buckets,
        total_steps=steps,
        tokens_per_step=tokens_per_step,
        curriculum=Curriculum.named("grow_p2", cycles=CYCLES),
        mixture="equal",
    )


def naive_schedule(steps: int) -> list[int]:
    """Algorithm 1 as printed: draw a bucket by the odds of those that are not empty, one step."""
    rng = np.random.Generator(np.random.Philox(key=42))
    odds = np.array([32.0, 16.0, 8.0, 4.0, 2.0, 1.0])
    drawn = []
    for _ in range(CYCLES):
        left = np.full(len(odds), steps // CYCLES // len(odds))
        while left.any():
            weights = np.where(left > 0, odds, 0.0)
            bucket = int(rng.choice(len(odds), p=weights / weights.sum()))
            left[bucket] -= 1
            drawn.append(bucket)
    return drawn


def _median_seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return median(times)


def _peak_mib(run: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    main()
