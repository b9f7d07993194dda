"""Memory and time of the loss: all logits at once against a chunk of tokens at a time (spec 10).

Forward and backward of projection, cross-entropy and z-loss alone, at the width and vocabulary of
the paper's 160M model. Each line is a process of its own, so that its peak is nobody else's: on a
GPU the allocator's peak, on a CPU the resident memory above what states and weights take. Run:
`python chunked_loss.py`, with `--device cuda` on a GPU.
"""

import argparse
import multiprocessing
import resource
import time
from statistics import median
from typing import NamedTuple

import torch

from dataset_decomposition.losses import chunked_scores, mean_loss, token_scores
from tenfold.results import this_machine

CHUNKS = (0, 1024, 256)
CUDA_CHUNKS = (0, 16384, 4096, 1024)


class Workload(NamedTuple):
    """What is measured; `chunk_tokens` 0 is all at once."""

    device: str
    tokens: int
    dim: int
    vocab_size: int
    chunk_tokens: int
    repeats: int


class Measured(NamedTuple):
    """Peak above states and weights, and median time of a repeat."""

    peak_mib: float
    seconds: float
    loss: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, help="2,048 on a CPU, 65,536 on a GPU")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--vocab_size", type=int, default=50432)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    tokens = options.tokens or (65_536 if on_gpu else 2048)
    print(f"{this_machine()}; {tokens:,} tokens x {options.vocab_size:,} ids on {options.device}")
    print(f"{'chunk':>7} {'peak MiB':>9} {'ratio':>6} {'ms':>8} {'ratio':>6} {'loss':>9}")
    plain: Measured | None = None
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for chunk_tokens in CUDA_CHUNKS if on_gpu else CHUNKS:
            sizes = (tokens, options.dim, options.vocab_size)
            work = Workload(options.device, *sizes, chunk_tokens, options.repeats)
            found = pool.apply(measure, (work,))
            plain = plain or found
            print(
                f"{chunk_tokens or 'all':>7} {found.peak_mib:>9,.0f} "
                f"{found.peak_mib / plain.peak_mib:>6.2f} {found.seconds * 1e3:>8.0f} "
                f"{found.seconds / plain.seconds:>6.2f} {found.loss:>9.5f}"
            )


def measure(work: Workload) -> Measured:
    """Run the loss forward and backward a few times."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if work.device == "cuda" else torch.float32
    make = {"device": work.device, "dtype": dtype, "requires_grad": True}
    hidden = torch.randn(1, work.tokens, work.dim, **make)
    weight = torch.randn(work.vocab_size, work.dim, **make)
    targets = torch.randint(work.vocab_size, (1, work.tokens), device=work.device)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    before, loss, times = peak_mib(work.device), 0.0, []
    for _ in range(work.repeats):
        started = time.perf_counter()
        if work.chunk_tokens:
            scores = chunked_scores(hidden, weight, targets, chunk_tokens=work.chunk_tokens)
        else:
            scores = token_scores(hidden @ weight.T, targets)
        nll, z = mean_loss(scores)
        (nll + 1e-4 * z).backward()
        loss = nll.item()  # waits for the device
        if work.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return Measured(peak_mib(work.device) - before, median(times), loss)


def peak_mib(device: str) -> float:
    """Return the peak memory so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
