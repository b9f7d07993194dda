"""The filter layer: one filter chosen ahead against the product with all H (spec 2.2, 10).

Forward and backward of the layer alone, transforms included, in mode `pool`. `chosen` picks each
dimension's filter before it multiplies, as training does; `naive` makes the tensor of all H
products and takes the largest, as the definition and the released code do. Both must give the same
numbers and gradients. Each line has a process of its own; its peak is the allocator's on a GPU, on
a CPU resident memory, above what inputs and libraries take. Times of a CPU are processor time. Run:
`python filter_layer.py`, with `--device cuda` on a GPU.
"""

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from biofame.filters import pool_naive, strongest
from tenfold.results import this_machine

MMAP_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
TOLERANCE = 1e-5


class Workload(NamedTuple):
    """What one process measures."""

    arm: str
    device: str
    batch: int
    tokens: int
    dim: int
    filters: int
    repeats: int


class Measured(NamedTuple):
    """Peak above the inputs, median time, and sums of output and of both gradients."""

    peak_mib: float
    seconds: float
    checks: list[Tensor]


def main() -> None:
    """Print the table; fail where numbers differ."""
    options = parse()
    sizes = (options.batch, options.tokens, options.dim, options.filters)
    print(f"{this_machine()}; {options.device}, one thread, medians of {options.repeats}")
    print("batch {}, {} tokens, width {}, {} filters".format(*sizes))
    print(f"{'arm':>7} {'ms':>8} {'ratio':>6} {'peak MiB':>9} {'ratio':>6}  largest gap")
    found = [
        measure_alone(Workload(arm, options.device, *sizes, options.repeats))
        for arm in ("naive", "chosen")
    ]
    gap = max(
        float((a - b).abs().max() / a.abs().max())
        for a, b in zip(*(f.checks for f in found), strict=True)
    )
    for arm, each in zip(("naive", "chosen"), found, strict=True):
        last = "" if arm == "naive" else f"  {gap:.1e}"
        print(
            f"{arm:>7} {each.seconds * 1e3:>8.1f} {found[0].seconds / each.seconds:>6.1f} "
            f"{each.peak_mib:>9,.0f} {found[0].peak_mib / max(each.peak_mib, 1e-9):>6.1f}{last}"
        )
    if gap > TOLERANCE:
        raise SystemExit(f"error: the numbers differ by {gap:.1e}, expected {TOLERANCE} at most")


def measure_alone(work: Workload) -> Measured:
    """Measure in new processes: one for both on a GPU; on a CPU one for time, one for memory.

    glibc keeps freed blocks of up to 32 MiB, which would count. Giving them back costs time.
    """
    found = in_a_new_process(work)
    if work.device == "cuda":
        return found
    os.environ[MMAP_THRESHOLD] = str(2**16)
    try:
        peak = in_a_new_process(work._replace(repeats=1)).peak_mib
    finally:
        del os.environ[MMAP_THRESHOLD]
    return found._replace(peak_mib=peak)


def in_a_new_process(work: Workload) -> Measured:
    """Run `measure` there."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (work,))


def measure(work: Workload) -> Measured:
    """Run one arm forward and backward a few times."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = torch.randn(work.batch, work.tokens, work.dim, device=work.device, requires_grad=True)
    bank = torch.randn(work.filters, work.dim, 2, device=work.device, requires_grad=True)
    clock = time.perf_counter if work.device == "cuda" else time.process_time
    warm_up(work.device)
    before, times, checks = peak_mib(work.device), [], []
    for _ in range(work.repeats):
        tokens.grad = bank.grad = None
        began = clock()
        out = ARMS[work.arm](tokens, bank)
        (out * out).sum().backward()
        synchronise(work.device)
        times.append(clock() - began)
        assert tokens.grad is not None
        assert bank.grad is not None
        checks = [out.detach().sum(dim=2).cpu(), tokens.grad.sum(dim=2).cpu(), bank.grad.cpu()]
    return Measured(peak_mib(work.device) - before, median(times), checks)


def chosen(tokens_BND: Tensor, bank_HD2: Tensor) -> Tensor:
    """Return filtered tokens, each dimension's filter chosen first."""
    spectrum = torch.fft.rfft(tokens_BND, dim=1, norm="ortho")
    mixed = spectrum * strongest(torch.view_as_complex(bank_HD2))
    return torch.fft.irfft(mixed, n=tokens_BND.shape[1], dim=1, norm="ortho")


def naive(tokens_BND: Tensor, bank_HD2: Tensor) -> Tensor:
    """Return filtered tokens, the largest of all products."""
    spectrum = torch.fft.rfft(tokens_BND, dim=1, norm="ortho")
    mixed = pool_naive(spectrum, torch.view_as_complex(bank_HD2))
    return torch.fft.irfft(mixed, n=tokens_BND.shape[1], dim=1, norm="ortho")


ARMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"naive": naive, "chosen": chosen}


def warm_up(device: str) -> None:
    """Load what every arm needs, so that it is no arm's time or memory."""
    small = torch.randn(1, 8, 4, device=device, requires_grad=True)
    bank = torch.randn(2, 4, 2, device=device, requires_grad=True)
    for arm in ARMS.values():
        arm(small, bank).sum().backward()
    synchronise(device)


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_mib(device: str) -> float:
    """Return the peak memory so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse() -> argparse.Namespace:
    """Read the command line; the defaults are those of the released recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    for name, value in {"batch": 128, "tokens": 150, "dim": 64, "filters": 8, "repeats": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


if __name__ == "__main__":
    main()
