"""Step time by sequence length, and whether the fitted line predicts a mixture (spec 7b, 10).

Measures T(L) at a constant number of tokens, fits alpha + beta L, then trains the mixture (equal
parts of all lengths, in a drawn order) and the longest length alone for as many steps, and compares
the mixture's time with the prediction and with the longest length.

On a GPU, with the paper's sizes: `python length_time.py --device cuda --size 1b --compile`.
"""

import argparse
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console

from dataset_decomposition.bench import Precision, make_timer, measure_timer, report
from dataset_decomposition.config import MODEL_SIZES, LossConfig, ModelConfig
from dataset_decomposition.cost import StepTime, expected_step, fit_step_time
from dataset_decomposition.step_timer import StepTimer
from tenfold.results import this_machine


class Defaults(NamedTuple):
    """What a device is measured with when nothing else is asked for."""

    model: ModelConfig
    lengths: tuple[int, ...]
    tokens: int
    precision: Precision
    chunk_tokens: int
    repeats: int
    blocks: int


DEFAULTS = {
    # The small model of `reproduce`.
    "cpu": Defaults(
        model=ModelConfig(vocab_size=1024, dim=96, layers=3, heads=3),
        lengths=(32, 64, 128, 256, 512, 1024),
        tokens=4096,
        precision="fp32",
        chunk_tokens=0,
        repeats=5,
        blocks=3,
    ),
    "cuda": Defaults(
        model=MODEL_SIZES["160m"],
        lengths=(256, 512, 1024, 2048, 4096, 8192),
        tokens=65_536,
        precision="bf16",
        chunk_tokens=8192,
        repeats=20,
        blocks=10,
    ),
}


def main() -> None:
    """Print timings, fit, and measured against predicted times."""
    options = parse()
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    default = DEFAULTS[options.device]
    lengths = options.lengths or list(default.lengths)
    chunk = default.chunk_tokens if options.chunk_tokens is None else options.chunk_tokens
    repeats = options.repeats or default.repeats
    timer = make_timer(
        MODEL_SIZES[options.size] if options.size else default.model,
        lengths,
        loss=LossConfig(chunk_tokens=chunk),
        tokens=options.tokens or default.tokens,
        accumulate=options.accumulate,
        device=options.device,
        precision=options.precision or default.precision,
        compile=options.compile,
    )
    print(f"{this_machine()}; medians of {repeats}")
    timings = measure_timer(timer, lengths, repeats=repeats)
    fit = fit_step_time(timings.milliseconds)
    Console().print(report(timings, fit))
    compare(timer, fit, sorted(lengths), blocks=options.blocks or default.blocks)


def compare(timer: StepTimer, fit: StepTime, lengths: list[int], *, blocks: int) -> None:
    """Time blocks of the mixture and of the longest length in turns, and print the ratios."""
    rng = np.random.Generator(np.random.Philox(key=42))
    mixture_ms, longest_ms = [], []
    for _ in range(blocks):
        mixture_ms.append(mean_step(timer, rng.permutation(np.repeat(lengths, 2)).tolist()))
        longest_ms.append(mean_step(timer, [lengths[-1]] * len(lengths)))
    measured, longest = median(mixture_ms), median(longest_ms)
    predicted = expected_step({length.bit_length() - 1: 1.0 for length in lengths}, fit)
    print(f"mixture of {lengths[0]} to {lengths[-1]} in equal parts, {blocks} blocks:")
    print(f"  measured {measured:.1f} ms a step, predicted {predicted:.1f} ms")
    print(f"  error of the prediction {predicted / measured - 1:+.1%}")
    print(f"  measured ratio to rows of {lengths[-1]}: {measured / longest:.3f}")
    print(f"  predicted ratio: {predicted / fit(lengths[-1]):.3f}")


def mean_step(timer: StepTimer, lengths: list[int]) -> float:
    """Return the mean milliseconds of a step over these lengths, trained without a pause."""
    batches = [timer.batch(length) for length in lengths]
    started = timer.now()
    for tokens in batches:
        timer.train(tokens)
    return 1e3 * (timer.now() - started) / len(lengths)


def parse() -> argparse.Namespace:
    """Read the command line; what is not given follows the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=sorted(DEFAULTS), default="cpu")
    parser.add_argument("--size", choices=sorted(MODEL_SIZES))
    parser.add_argument("--lengths", type=int, nargs="+", help="powers of two")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--chunk_tokens", type=int)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; waiting counts as busy")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--blocks", type=int)
    options = parser.parse_args()
    for length in options.lengths or ():
        if length < 1 or length & (length - 1):
            parser.error(f"lengths must be powers of two, got {length}")
    return options


if __name__ == "__main__":
    main()
