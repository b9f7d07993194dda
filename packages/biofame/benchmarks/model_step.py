"""A whole pre-training step against PatchTST of equal size, and against attention in our encoder.

Forward, backward and Adam on windows of 30 s at 100 Hz that are already in memory, 150 tokens a
channel, width 64, as released: `pool` and `query` are bioFAME's operators, `attention` has an
attention encoder in their place, `PatchTST` is transformers' with three layers, which mixes no
channels and has no decoders. Dropout is on, with which attention on a CPU has no fused kernel, in
all arms that attend. Parameters are those of the network that is kept. Arms take turns step
by step; medians are compared. Times of a CPU are processor time of one thread. Run:
`python model_step.py [--channels 3]`, with `--device cuda [--compile]` on a GPU, under bfloat16.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from biofame.baselines.config import PatchTstConfig
from biofame.baselines.patchtst_networks import build_pretraining
from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.mae import MaskedAutoencoder
from tenfold.results import this_machine

LENGTH = 3000
BATCH = {"cpu": 16, "cuda": 1024}
REPEATS = {"cpu": 5, "cuda": 30}
WARM_UP = 3
NAMES = ("eeg", "eog", "emg", "resp", "ecg", "acc")


class Arm(NamedTuple):
    """One training step, and how large what it trains is."""

    step: Callable[[], None]
    kept: int


class Measured(NamedTuple):
    """Median seconds of a step, and on a GPU its peak memory."""

    seconds: float
    peak_gib: float | None


def main() -> None:
    """Print the table."""
    options = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arms = make_arms(options)
    found = measure(arms, options.device, options.repeats)
    how = ", bfloat16" if options.device == "cuda" else ", one thread"
    how += ", compiled" if options.compile else ""
    print(f"{this_machine()}; {options.device}{how}, medians of {options.repeats}")
    print(f"batch {options.batch}, {options.channels} channels of {LENGTH} samples")
    print(f"{'arm':>10} {'kept':>8} {'step ms':>9} {'windows/s':>10} {'ratio':>6} {'peak GiB':>9}")
    peer = found["PatchTST"].seconds
    for name, each in found.items():
        peak = "" if each.peak_gib is None else f"{each.peak_gib:.2f}"
        print(
            f"{name:>10} {arms[name].kept:>8,} {each.seconds * 1e3:>9.1f} "
            f"{options.batch / each.seconds:>10,.0f} {peer / each.seconds:>6.2f} {peak:>9}"
        )


def make_arms(options: argparse.Namespace) -> dict[str, Arm]:
    """Return the steps by name, all on the same windows."""
    names = NAMES[: options.channels]
    model = ModelConfig(channels=names)
    samples = torch.randn(options.batch, options.channels, LENGTH, device=options.device)
    variants = {
        "pool": model,
        "query": replace(model, operator="query"),
        "attention": replace(model, mixing="attention"),
    }
    arms = {name: our_arm(config, samples, options) for name, config in variants.items()}
    return arms | {"PatchTST": patchtst_arm(names, samples, options)}


def our_arm(config: ModelConfig, samples: Tensor, options: argparse.Namespace) -> Arm:
    """Return a step of the masked autoencoder."""
    autoencoder = MaskedAutoencoder(config, DecoderConfig(), LossConfig()).to(options.device)
    forward: Any = torch.compile(autoencoder) if options.compile else autoencoder

    def loss() -> Tensor:
        return autoencoder.loss(forward(samples)).total

    return Arm(make_step(autoencoder, loss, options.device), count(autoencoder.network))


def patchtst_arm(channels: tuple[str, ...], samples: Tensor, options: argparse.Namespace) -> Arm:
    """Return a step of transformers' PatchTST."""
    config = PatchTstConfig(channels=channels, length=LENGTH)
    network = build_pretraining(config).to(options.device).train()
    forward: Any = torch.compile(network) if options.compile else network

    def loss() -> Tensor:
        return forward(past_values=samples.transpose(1, 2)).loss

    return Arm(make_step(network, loss, options.device), count(network.model))


def make_step(module: nn.Module, loss: Callable[[], Tensor], device: str) -> Callable[[], None]:
    """Return one forward, backward and update."""
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learnt, lr=1e-3, fused=device == "cuda")

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def measure(arms: dict[str, Arm], device: str, repeats: int) -> dict[str, Measured]:
    """Let the arms take turns, and look at each one's peak memory in the last turn."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in arms}
    peaks: dict[str, float | None] = dict.fromkeys(arms)
    for turn in range(WARM_UP + repeats):
        for name, arm in arms.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            began = clock()
            arm.step()
            if turn >= WARM_UP:
                times[name].append(clock() - began)
            if device == "cuda":
                # Of all arms' weights and optimisers, which are small, and this arm's step.
                peaks[name] = torch.cuda.max_memory_allocated() / 2**30
    return {name: Measured(median(times[name]), peaks[name]) for name in arms}


def count(network: nn.Module) -> int:
    """Return the number of learnt numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def parse() -> argparse.Namespace:
    """Read the command line; what is not given follows the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=sorted(BATCH), default="cpu")
    parser.add_argument("--channels", type=int, default=3, help=f"1 to {len(NAMES)}")
    parser.add_argument("--batch", type=int, help="16 on a CPU, 1,024 on a GPU")
    parser.add_argument("--repeats", type=int, help="5 on a CPU, 30 on a GPU")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if not 1 <= options.channels <= len(NAMES):
        parser.error(f"--channels must lie in 1..{len(NAMES)}, got {options.channels}")
    options.batch = options.batch or BATCH[options.device]
    options.repeats = options.repeats or REPEATS[options.device]
    return options


if __name__ == "__main__":
    main()
