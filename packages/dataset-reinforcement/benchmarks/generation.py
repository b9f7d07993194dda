"""Views a second of generation: fp32 against bf16 and torch.compile (spec 10, ratio d).

Three parts: making views on the CPU, the teacher alone in each precision, and what a whole
generation of one worker is limited by. Weights are random, which costs the same.

On a GPU, with the paper's first teacher: `python generation.py --device cuda`.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from dataset_reinforcement.config import IMAGENET_MEAN, IMAGENET_STD
from dataset_reinforcement.model import build_model
from dataset_reinforcement.teacher import Member, Teacher
from dataset_reinforcement.teacher_config import Precision
from dataset_reinforcement.top_labels import top_labels
from dataset_reinforcement.variants import VARIANTS, variant
from dataset_reinforcement.views import draw_reinforcement, make_view
from tenfold.augment.mixing import to_float
from tenfold.augment.pipeline import Augment
from tenfold.results import this_machine

DEFAULTS = {
    # The small teacher of `reproduce`.
    "cpu": {"models": ["conv40"], "size": 32, "source": 32, "batch": 64, "repeats": 7},
    "cuda": {
        "models": ["resnext101_32x8d.fb_wsl_ig1b_ft_in1k"],
        "size": 224,
        "source": 400,
        "batch": 256,
        "repeats": 20,
    },
}
ARMS: tuple[tuple[str, Precision, bool], ...] = (
    ("fp32", "fp32", False),
    ("bf16", "bf16", False),
    ("bf16 + compile", "bf16", True),
)


def main() -> None:
    """Print views a second of each part."""
    options = parse()
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    views, making = measure_views(options)
    where = torch.cuda.get_device_name() if options.device == "cuda" else this_machine()
    print(f"{where}; {', '.join(options.models)} at {options.size} px, batch {options.batch}")
    print(f"making views ({options.variant}), one thread: {making:,.0f} views/s")
    rates: dict[str, float] = {}
    for name, precision, compiled in ARMS:
        teacher = build(options, precision, compiled=compiled)
        rates[name] = measure_teacher(teacher, views, options)
        print(f"teacher, {name}: {rates[name]:,.0f} views/s, {rates[name] / rates['fp32']:.2f}x")
    fastest = max(rates.values())
    print(f"one thread feeds {making / fastest:.1%} of the fastest teacher")
    print(f"view_threads that it needs: {int(np.ceil(fastest / making))}")


def measure_views(options: argparse.Namespace) -> tuple[torch.Tensor, float]:
    """Make a batch of views of one source image size; return it and views a second."""
    augment = Augment(variant(options.variant, size=options.size))
    rng = np.random.default_rng(0)
    shape = (2, 3, options.source, options.source)
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    sizes = np.full((2, 2), options.source)

    def make(start: int) -> torch.Tensor:
        made = []
        for view in range(start, start + options.batch):
            own, mix = draw_reinforcement(augment, 0, 0, view, sizes)
            made.append(make_view(augment, images.__getitem__, own, mix, 0))
        if augment.config.mixes:
            made = [to_float(view) if view.dtype == torch.uint8 else view for view in made]
        return torch.stack(made)

    seconds = [timed(lambda start=number * options.batch: make(start)) for number in range(5)]
    return make(0), options.batch / median(seconds)


def build(options: argparse.Namespace, precision: Precision, *, compiled: bool) -> Teacher:
    """Return an ensemble with random weights."""
    torch.manual_seed(0)
    members = [
        Member(
            name=name,
            network=build_model(name, num_classes=options.classes, image_size=options.size),
            size=options.size,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
        for name in options.models
    ]
    return Teacher(
        members,
        device=options.device,
        precision=precision,
        compile=compiled,
        batch=options.batch,
    )


def measure_teacher(teacher: Teacher, views: torch.Tensor, options: argparse.Namespace) -> float:
    """Return views a second from pixels on the host to stored labels."""

    def step() -> None:
        top_labels(teacher.probabilities(views), options.top_k)  # ends on the host: synchronised

    for _ in range(2):
        step()
    return options.batch / median(timed(step) for _ in range(options.repeats))


def timed(function: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def parse() -> argparse.Namespace:
    """Read the command line; what is not given follows the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=sorted(DEFAULTS), default="cpu")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--size", type=int, help="side of the views")
    parser.add_argument("--source", type=int, help="side of the images")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="randaug")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    options = parser.parse_args()
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
