"""Time per training step: DR against CLIP on both captions, and live teachers against DR (spec 10).

What stored knowledge costs and what it saves. CLIP on both captions is the fair baseline: it too
has two captions to encode. The arms take turns step by step on one batch that is already in memory,
and medians are compared; reading is measured by `reader.py`. Targets: DR at most 1.05 x CLIP on a
GPU and 1.15 x on a CPU.

The live teachers have random weights, which take as long. On a CPU they are larger beside the
student than the paper's: read the last ratio on a GPU, with real sizes:
`python step_time.py --device cuda`. `--micro_batch` adds an arm with exact gradient caching.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from mobileclip.config import MODELS, LossConfig, ModelConfig
from mobileclip.generate.teacher_config import TeacherConfig, TeacherEnsembleConfig
from mobileclip.generate.teachers import Teacher, Teachers
from mobileclip.models.clip import build_model
from mobileclip.module import MobileCLIPModule
from mobileclip.teacher_columns import TeacherColumns
from mobileclip.tokenizer import tokenize
from tenfold.optim import OptimConfig
from tenfold.results import this_machine

NUM_TEACHERS = 2
WARM_UP = 2
Step = Callable[[], None]


class Defaults(NamedTuple):
    """What a device is measured with when nothing else is asked for."""

    student: str
    teacher: str
    batch: int
    repeats: int


DEFAULTS = {
    # The smallest of open_clip's; the paper's ViT-L/14 has 34 times the multiplications of MCi0.
    "cpu": Defaults("tiny", "ViT-S-32-alt", 32, 7),
    "cuda": Defaults("s0", "ViT-L-14", 512, 20),
}


class Silent(MobileCLIPModule):
    """The training step outside of a Trainer."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Drop the value."""


def main() -> None:
    """Print the table."""
    options = parse()
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    teachers = random_teachers(options)
    arms = dict(arms_of(options, teachers))
    times, memory = measure(options, arms)
    print(f"{this_machine()}; {options.student}, batch {options.batch}")
    print(f"teachers: {NUM_TEACHERS} x {options.teacher}; medians of {options.repeats}")
    print(f"{'arm':>12} {'step ms':>9} {'pairs/s':>9} {'of CLIP':>8} {'peak GiB':>9}")
    for arm, milliseconds in times.items():
        rate, ratio = 1e3 * options.batch / milliseconds, milliseconds / times["CLIP"]
        print(f"{arm:>12} {milliseconds:>9.1f} {rate:>9.0f} {ratio:>8.3f} {memory[arm]:>9}")
    target = 1.05 if options.device == "cuda" else 1.15
    dr = times["DR"]
    print(f"DR / CLIP {dr / times['CLIP']:.3f} (target <= {target}); ", end="")
    print(f"online / DR {times['online'] / dr:.2f}")


def measure(
    options: argparse.Namespace, arms: dict[str, Step]
) -> tuple[dict[str, float], dict[str, str]]:
    """Run the arms in turns; return medians in milliseconds, and peaks of a GPU's memory."""
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    memory = dict.fromkeys(arms, "-")
    for _ in range(options.repeats + WARM_UP):
        for arm, step in arms.items():
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            step()
            times[arm].append(1e3 * (time.perf_counter() - began))
            if options.device == "cuda":
                memory[arm] = f"{torch.cuda.max_memory_allocated() / 2**30:.2f}"
    return {arm: median(values[WARM_UP:]) for arm, values in times.items()}, memory


def arms_of(options: argparse.Namespace, teachers: Teachers) -> Iterator[tuple[str, Step]]:
    """Yield each way of training with its step."""
    batch = random_batch(options, teachers)
    losses = {
        "CLIP": LossConfig(mode="clip"),
        "DR": LossConfig(mode="dr"),
        "online": LossConfig(mode="online"),
    }
    if options.micro_batch:
        losses["DR, cached"] = LossConfig(mode="dr", micro_batch=options.micro_batch)
    for arm, loss in losses.items():
        yield arm, train_step(options, loss, teachers, batch)


def train_step(
    options: argparse.Namespace, loss: LossConfig, teachers: Teachers, batch: dict[str, Any]
) -> Step:
    """Return one optimiser step of an arm, waiting for the device at its end."""
    optim = OptimConfig(lr=1e-4, total_steps=1000, weight_decay=0.2)
    unused = TeacherEnsembleConfig(members=(TeacherConfig(model="local-dir:made-here"),))
    online = unused if loss.mode == "online" else None
    module = Silent(ModelConfig(name=options.student), loss, optim, teachers=online)
    module._teachers, module.columns = [teachers], TeacherColumns(teachers.dims, teachers.scales)
    module.to(options.device).train()
    optimizer: Any = module.configure_optimizers()["optimizer"]  # pyright: ignore

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.device == "cuda"):
            value = module.training_step(batch, 0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if options.device == "cuda":
            torch.cuda.synchronize()

    return step


def random_batch(options: argparse.Namespace, teachers: Teachers) -> dict[str, Any]:
    """Return noise and made-up captions, on the device, with all that any arm reads."""
    student = build_model(options.student)
    texts = [f"a photo of thing {n} beside thing {n * n}" for n in range(options.batch)]
    tokens = tokenize(texts, context_length=student.context_length)
    side, view = student.image_size, teachers.members[0].size
    image, seen = (
        torch.randint(256, (options.batch, 3, pixels, pixels), dtype=torch.uint8)
        for pixels in (side, view)
    )

    def stored() -> Tensor:
        parts = [torch.randn(options.batch, dim) for dim in teachers.dims]
        return torch.cat([F.normalize(part, dim=1) for part in parts], dim=1)

    batch: dict[str, Any] = {"image": image, "teacher_view": seen}
    batch |= {"tokens": tokens, "synthetic_tokens": tokens.flip(0)}
    batch |= {f"teacher_{name}": stored() for name in ("image", "text", "synthetic")}
    on_device = {name: tensor.to(options.device) for name, tensor in batch.items()}
    return on_device | {"text": texts, "synthetic_text": texts[::-1]}


def random_teachers(options: argparse.Namespace) -> Teachers:
    """Return untrained teachers: models of ours by name, or of open_clip."""
    members: list[Teacher] = []
    for number in range(NUM_TEACHERS):
        network: Any
        text_tokens: Any = tokenize
        if options.teacher in MODELS:
            network = build_model(options.teacher)
            size = network.image_size
        else:
            network = open_clip.create_model(options.teacher)
            size = network.visual.image_size[0]
            text_tokens = open_clip.get_tokenizer(options.teacher)
        members.append(
            Teacher(
                name=f"{options.teacher} {number}",
                network=network,
                tokenize=partial(text_tokens, context_length=network.context_length),
                logit_scale=100.0,
                size=size,
            )
        )
    precision = "bf16" if options.device == "cuda" else "fp32"
    return Teachers(members, device=options.device, precision=precision, batch=options.batch)


def parse() -> argparse.Namespace:
    """Read the command line; what is not given follows the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=sorted(DEFAULTS), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--micro_batch", type=int, default=0, help="of one more arm, 0 for none")
    for name, kind in Defaults.__annotations__.items():
        parser.add_argument(f"--{name}", type=kind)
    options = parser.parse_args()
    for name, value in DEFAULTS[options.device]._asdict().items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
