"""Memory and time of the reinforced loss: by columns, at once, as one would write it, open_clip's.

Forward and backward of the loss alone on one rank, with real and synthetic captions, embeddings of
512 and two teachers of 768 (spec 10). open_clip's `DistillClipLoss` takes one teacher, so it is
called for each and averaged, which has the same gradient; the last column shows that all have. Each
line has processes of its own, so that its peak is nobody else's: on a GPU the allocator's, on a CPU
resident memory, both above what the embeddings and their gradients take. Times of a CPU are
processor time, so that what else the machine does counts less. Run:
`python loss_memory.py`, with `--device cuda` on a GPU.
"""

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss
from torch import Tensor

from mobileclip.reinforced_loss import TeacherEmbeddings, reinforced_loss
from tenfold.results import this_machine

STUDENT, TEACHERS = 512, (768, 768)
SCALE, TEACHER_SCALE = 50.0, 100.0
DISTILL_WEIGHT = 0.75  # both halves of the loss count
MMAP_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
PAIRS = {"cpu": 4096, "cuda": 16_384}
CHUNKS = {"cpu": (256, 1024), "cuda": (1024, 4096)}


class Embeddings(NamedTuple):
    """Unit rows of the student and of its teachers."""

    image: Tensor
    captions: tuple[Tensor, Tensor]
    teachers: list[TeacherEmbeddings]

    def of_teacher(self, number: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return a teacher's images, and its real and synthetic captions."""
        image, text, synthetic = self.teachers[number]
        assert text is not None
        assert synthetic is not None
        return image, (text, synthetic)


Loss = Callable[[Embeddings], Tensor]


class Workload(NamedTuple):
    """What one process measures."""

    arm: str
    device: str
    pairs: int
    repeats: int
    threads: int


class Measured(NamedTuple):
    """Peak above the embeddings, median time of a repeat, and mean length of a row's gradient."""

    peak_mib: float
    seconds: float
    gradient: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=sorted(PAIRS), default="cpu")
    parser.add_argument("--pairs", type=int, help="4,096 on a CPU, 16,384 on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    options = parser.parse_args()
    pairs = options.pairs or PAIRS[options.device]
    print(f"{this_machine()}; {pairs:,} pairs on {options.device}, {options.threads} threads")
    print(f"{'loss':>11} {'peak MiB':>9} {'ratio':>6} {'ms':>8} {'ratio':>6} {'gradient':>10}")
    whole: Measured | None = None
    for arm in arms(options.device):
        sizes = (pairs, options.repeats, options.threads)
        found = measure_alone(Workload(arm, options.device, *sizes))
        whole = whole or found
        print(
            f"{arm:>11} {found.peak_mib:>9,.0f} {found.peak_mib / whole.peak_mib:>6.2f} "
            f"{found.seconds * 1e3:>8,.0f} {found.seconds / whole.seconds:>6.2f} "
            f"{found.gradient:>10.3e}"
        )


def measure_alone(work: Workload) -> Measured:
    """Measure in new processes: one for both on a GPU; on a CPU one for time, one for memory.

    glibc keeps freed blocks of up to 32 MiB for later, which would count as memory of the smaller
    chunks. Where it must give them back, that costs time.
    """
    found = _in_a_new_process(work)
    if work.device == "cuda":
        return found
    os.environ[MMAP_THRESHOLD] = str(2**20)
    try:
        peak = _in_a_new_process(work._replace(repeats=1)).peak_mib
    finally:
        del os.environ[MMAP_THRESHOLD]
    return found._replace(peak_mib=peak)


def _in_a_new_process(work: Workload) -> Measured:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (work,))


def arms(device: str) -> dict[str, Loss]:
    """Return the losses by name; the first is what the others are compared with."""
    chunked = {f"chunk {size:,}": partial(ours, column_chunk=size) for size in CHUNKS[device]}
    return {"at once": ours, **chunked, "naive": naive, "open_clip": open_clip_loss}


def measure(work: Workload) -> Measured:
    """Run one loss forward and backward a few times."""
    torch.set_num_threads(work.threads)
    loss = arms(work.device)[work.arm]
    embeddings = make_embeddings(work)
    clock = time.perf_counter if work.device == "cuda" else time.process_time
    before, gradient, times = peak_mib(work.device), 0.0, []
    for _ in range(work.repeats):
        for leaf in (embeddings.image, *embeddings.captions):
            assert leaf.grad is not None
            leaf.grad.zero_()
        began = clock()
        loss(embeddings).backward()
        assert embeddings.image.grad is not None
        gradient = embeddings.image.grad.norm(dim=1).mean().item()  # waits for the device
        times.append(clock() - began)
    return Measured(peak_mib(work.device) - before, median(times), gradient)


def make_embeddings(work: Workload) -> Embeddings:
    """Return rows that resemble each other within a pair, so that the losses are not saturated."""
    generator = torch.Generator().manual_seed(0)

    def rows(dim: int) -> list[Tensor]:
        image, *texts = torch.randn(3, work.pairs, dim, generator=generator)
        parts = [image, *(0.3 * image + text for text in texts)]
        return [F.normalize(part, dim=1).to(work.device) for part in parts]

    image, *captions = rows(STUDENT)
    for leaf in (image, *captions):
        leaf.requires_grad_()
        leaf.grad = torch.zeros_like(leaf)
    teachers = [TeacherEmbeddings(*rows(dim)) for dim in TEACHERS]
    return Embeddings(image, (captions[0], captions[1]), teachers)


def ours(embeddings: Embeddings, *, column_chunk: int = 0) -> Tensor:
    """Return the loss of the training."""
    return reinforced_loss(
        embeddings.image,
        *embeddings.captions,
        embeddings.teachers,
        logit_scale=SCALE,
        teacher_scales=TEACHER_SCALE,
        distill_weight=DISTILL_WEIGHT,
        column_chunk=column_chunk,
    ).total


def naive(embeddings: Embeddings) -> Tensor:
    """Return the loss as its formula reads: every matrix by itself, a divergence a teacher."""
    total = torch.zeros((), device=embeddings.image.device)
    labels = torch.arange(len(embeddings.image), device=embeddings.image.device)
    for number, caption in enumerate(embeddings.captions):
        logits = SCALE * embeddings.image @ caption.T
        clip = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
        distill = torch.zeros_like(total)
        for teacher in range(len(TEACHERS)):
            image, texts = embeddings.of_teacher(teacher)
            target = TEACHER_SCALE * image @ texts[number].T
            for student, other in ((logits, target), (logits.T, target.T)):
                p = other.softmax(1)
                distill = distill + F.kl_div(student.log_softmax(1), p, reduction="batchmean")
        distill = distill / len(TEACHERS)
        total = total + ((1 - DISTILL_WEIGHT) * clip + DISTILL_WEIGHT * distill) / 2
    return total


def open_clip_loss(embeddings: Embeddings) -> Tensor:
    """Return open_clip's loss of each teacher and kind of caption: averaged, and added."""
    total, loss = torch.zeros((), device=embeddings.image.device), DistillClipLoss()
    for number, caption in enumerate(embeddings.captions):
        for teacher in range(len(TEACHERS)):
            image, texts = embeddings.of_teacher(teacher)
            clip, distill = loss(
                embeddings.image, caption, SCALE, image, texts[number], TEACHER_SCALE
            )
            part = (1 - DISTILL_WEIGHT) * clip + DISTILL_WEIGHT * distill
            total = total + part / len(TEACHERS)
    return total


def peak_mib(device: str) -> float:
    """Return the peak memory so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
