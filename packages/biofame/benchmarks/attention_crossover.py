"""Filter block against attention block of equal width, by the number of tokens (spec 7b, 10).

Forward and backward of one encoder block, feed-forward layer included. The filter costs n log n,
attention n squared; both get the same number of tokens in all, so that a line's windows are fewer
the longer they are. There is no dropout: with it attention on a CPU has no fused kernel and holds
the whole table of scores, which would be unfair to it. The blocks take turns; medians are compared.
Times of a CPU are processor time of one thread. Run:
`python attention_crossover.py [--tokens 150 1500 15000] [--plot crossover.png]`, with
`--device cuda` on a GPU, where both run under bfloat16 but for the transforms.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from biofame.config import ModelConfig
from biofame.encoder import FilterBlock
from biofame.transformer import TransformerLayer
from tenfold import atomic
from tenfold.results import this_machine

IN_ALL = {"cpu": 15_000, "cuda": 1_500_000}
ARMS = ("filter", "attention")


class Line(NamedTuple):
    """Median seconds of both blocks at one length."""

    tokens: int
    windows: int
    filter: float
    attention: float


def main() -> None:
    """Print the table, and draw it where a file is named."""
    options = parse()
    torch.set_num_threads(1)
    config = ModelConfig(
        dim=options.dim, mlp=2 * options.dim, operator=options.operator, dropout=0.0
    )
    device = options.device
    print(f"{this_machine()}; {device}, one thread, medians of {options.repeats}")
    print(f"width {config.dim}, {config.operator}; forward and backward of a block")
    print(f"{'tokens':>7} {'windows':>8} {'filter ms':>10} {'attention ms':>13} {'ratio':>6}")
    lines = []
    for tokens in options.tokens:
        windows = max((options.in_all or IN_ALL[device]) // tokens, 1)
        line = measure(config, tokens, windows, device, options.repeats)
        lines.append(line)
        print(
            f"{tokens:>7,} {windows:>8,} {line.filter * 1e3:>10.1f} {line.attention * 1e3:>13.1f} "
            f"{line.attention / line.filter:>6.2f}",
            flush=True,
        )
    if options.plot:
        plot(lines, options.plot)


def measure(config: ModelConfig, tokens: int, windows: int, device: str, repeats: int) -> Line:
    """Time both blocks, which take turns, after one turn that does not count."""
    torch.manual_seed(0)
    blocks = {arm: make_block(arm, config).to(device) for arm in ARMS}
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for turn in range(repeats + 1):
        for arm, block in blocks.items():
            seconds = step(block, config, (windows, tokens), device)
            if turn:
                times[arm].append(seconds)
    return Line(tokens, windows, *(median(times[arm]) for arm in ARMS))


def make_block(arm: str, config: ModelConfig) -> nn.Module:
    """Return one block of the encoder."""
    if arm == "filter":
        return FilterBlock(config)
    return TransformerLayer(config.dim, config.mixer_heads, config.mlp, config.dropout)


def step(block: nn.Module, config: ModelConfig, shape: tuple[int, int], device: str) -> float:
    """Return the seconds of one forward and backward."""
    x = torch.randn(*shape, config.dim, device=device, requires_grad=True)
    clock = time.perf_counter if device == "cuda" else time.process_time
    synchronise(device)
    began = clock()
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        out = block(x, rate=config.rate) if isinstance(block, FilterBlock) else block(x)
    out.float().square().sum().backward()
    synchronise(device)
    return clock() - began


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def plot(lines: list[Line], path: Path) -> None:
    """Write time a token over the number of tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    tokens = [line.tokens for line in lines]
    for arm in ARMS:
        each = [1e6 * getattr(line, arm) / (line.tokens * line.windows) for line in lines]
        axes.loglog(tokens, each, "o-", label=arm)
    axes.set(xlabel="tokens of a window", ylabel="us a token, forward and backward")
    axes.legend()
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=sorted(IN_ALL), default="cpu")
    parser.add_argument("--tokens", type=int, nargs="+", default=[150, 1500, 15_000])
    parser.add_argument("--in_all", type=int, help="tokens of a line: 15,000 on a CPU")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--operator", choices=("pool", "query"), default="pool")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="a PNG to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
