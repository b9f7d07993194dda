"""Decoders of all channels at once against a Python loop over one decoder a channel (spec 2.4, 10).

Forward and backward of decoders and reconstruction layers with C channels of 150 tokens, half of
them masked. `loop` calls one decoder after another; `loop, all` does as the released code, which
decodes the tokens of all channels and throws away those of the others and the visible ones. All
have the same weights and must give the same numbers and gradients. Arms take turns; medians are
compared. Times of a CPU are processor time of one thread. Run:
`python decoders.py [--channels 4]`, with `--device cuda` on a GPU.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from biofame.config import DecoderConfig
from biofame.decoders import Decoders
from biofame.masking import draw_partition
from tenfold.results import this_machine

TOLERANCE = 1e-4
BATCH = {"cpu": 8, "cuda": 128}
DIM, PATCH, TOKENS = 64, 20, 150

Arm = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Print the table; fail where numbers differ."""
    options = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device, channels = torch.device(options.device), options.channels
    batch = options.batch or BATCH[options.device]
    batched = Decoders(channels, DIM, PATCH, DecoderConfig(dropout=0.0)).to(device)
    single = apart(batched, channels)
    arms: dict[str, Arm] = {
        "loop, all": partial(loop_over_all, single),
        "loop": partial(loop, single),
        "batched": batched,
    }
    tokens = torch.randn(batch, channels * TOKENS, DIM, device=device, requires_grad=True)
    partition = draw_partition(batch, channels, TOKENS, ratio=0.5, device=device)
    first = torch.arange(channels, device=device)[:, None, None] * TOKENS
    wanted = partition.masked.transpose(0, 1) + first
    times, gaps = measure(arms, tokens, wanted, options.repeats)
    print(f"{this_machine()}; {options.device}, one thread, medians of {options.repeats}")
    print(f"batch {batch}, {channels} channels of {TOKENS} tokens, width {DIM}")
    print(f"{'arm':>10} {'ms':>8} {'ratio':>6}  largest gap")
    for arm, seconds in times.items():
        ratio = times["loop, all"] / seconds
        print(f"{arm:>10} {seconds * 1e3:>8.1f} {ratio:>6.2f}  {gaps[arm]:.1e}")
    if max(gaps.values()) > TOLERANCE:
        raise SystemExit(f"error: the numbers differ, expected {TOLERANCE} at most")


def apart(batched: Decoders, channels: int) -> Sequence[Decoders]:
    """Return decoders of one channel each, with the same weights."""
    found = []
    for number in range(channels):
        decoder = Decoders(1, DIM, PATCH, DecoderConfig(dropout=0.0))
        state = batched.state_dict()
        decoder.load_state_dict({name: t[number : number + 1] for name, t in state.items()})
        found.append(decoder.to(next(batched.parameters()).device))
    return found


def loop(single: Sequence[Decoders], tokens_BTD: Tensor, wanted_CBQ: Tensor) -> Tensor:
    """Return predicted patches `[C, B, Q, P]`, channel after channel."""
    numbers = enumerate(single)
    return torch.cat([decoder(tokens_BTD, wanted_CBQ[n : n + 1]) for n, decoder in numbers])


def loop_over_all(single: Sequence[Decoders], tokens_BTD: Tensor, wanted_CBQ: Tensor) -> Tensor:
    """Return the same, taken from what each decoder makes of all tokens."""
    batch, every = tokens_BTD.shape[:2]
    numbers = torch.arange(every, device=tokens_BTD.device).expand(1, batch, -1)
    found = []
    for decoder, wanted_BQ in zip(single, wanted_CBQ, strict=True):
        index = wanted_BQ[..., None].expand(-1, -1, PATCH)
        found.append(decoder(tokens_BTD, numbers)[0].gather(1, index))
    return torch.stack(found)


def measure(
    arms: dict[str, Arm], tokens: Tensor, wanted: Tensor, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return each arm's median seconds, and its largest distance from the first arm's numbers."""
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    numbers: dict[str, list[Tensor]] = {}
    for turn in range(repeats + 1):
        for name, arm in arms.items():
            tokens.grad = None
            seconds, out = step(arm, tokens, wanted)
            assert tokens.grad is not None
            numbers[name] = [out.detach(), tokens.grad]
            if turn:
                times[name].append(seconds)
    reference = numbers["loop, all"]
    gaps = {
        name: max(relative_gap(a, b) for a, b in zip(found, reference, strict=True))
        for name, found in numbers.items()
    }
    return {name: median(each) for name, each in times.items()}, gaps


def step(arm: Arm, tokens: Tensor, wanted: Tensor) -> tuple[float, Tensor]:
    """Return the seconds of one forward and backward, and the output."""
    on_gpu = tokens.is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    began = clock()
    out = arm(tokens, wanted)
    out.square().mean().backward()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - began, out


def relative_gap(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=sorted(BATCH), default="cpu")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--batch", type=int, help="8 on a CPU, 128 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
