"""Time per training step, ERM : DR : KD (spec 10): what stored labels cost and what they save.

The arms take turns step by step and medians are compared. A step is making the batch (decoding,
augmentation or replay) and training on it; with loader processes the slower of the two decides, so
both are shown. Targets: DR at most 1.05 x ERM without mixing, KD at least 5 x DR with an ensemble
of four.

On a GPU, with real sizes: `python step_time.py --device cuda --workers 14`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import move_data_to_device
from PIL import Image

from dataset_reinforcement.config import IMAGENET_MEAN, IMAGENET_STD, LossConfig, Mode, ModelConfig
from dataset_reinforcement.dataset import ReinforcedImages, ReinforcedStream
from dataset_reinforcement.generate import generate
from dataset_reinforcement.images import open_images
from dataset_reinforcement.model import build_model
from dataset_reinforcement.module import ReinforcementModule
from dataset_reinforcement.replay import ImageBatch, ReplayConfig
from dataset_reinforcement.resolution import FixedPlan
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from dataset_reinforcement.variants import variant
from tenfold import checkpoints
from tenfold.optim import OptimConfig, configure
from tenfold.results import this_machine

ARMS: tuple[Mode, ...] = ("erm", "dr", "kd")
MEMBERS = 4
WARM_UP = 3


class Defaults(NamedTuple):
    """What a device is measured with when nothing else is asked for."""

    student: str
    teacher: str
    size: int
    batch: int
    images: str
    repeats: int


DEFAULTS = {
    # An ensemble of 64 times the student's multiplications; the paper's has 292 / 4.1 = 71 times.
    "cpu": Defaults("conv32", "conv128", 32, 64, "demo:glyphs/student/50", 15),
    # Photographs of ImageNet's usual size are written for it.
    "cuda": Defaults("resnet50", "resnext101_32x8d", 224, 256, "", 30),
}


class Timing(NamedTuple):
    """Medians of one arm, milliseconds."""

    batch_ms: float
    train_ms: float

    def step_ms(self, workers: int) -> float:
        """Return the time of a step with so many loader processes; 0 makes batches in between."""
        if not workers:
            return self.batch_ms + self.train_ms
        return max(self.batch_ms / workers, self.train_ms)


class Silent(ReinforcementModule):
    """The training step outside of a Trainer."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Drop the value."""


def main() -> None:
    """Print the table."""
    options = parse()
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        timings = measure(options, Path(folder))
    print(f"{this_machine()}; {options.student} at {options.size}, batch {options.batch}")
    print(f"teacher: {MEMBERS} x {options.teacher}; medians of {options.repeats}")
    erm = timings["erm"].step_ms(options.workers)
    print(f"{'arm':>4} {'batch ms':>9} {'train ms':>9} {'step ms':>8} {'of ERM':>7}")
    for arm, timing in timings.items():
        step = timing.step_ms(options.workers)
        row = f"{arm:>4} {timing.batch_ms:>9.1f} {timing.train_ms:>9.1f} {step:>8.1f}"
        print(f"{row} {step / erm:>7.2f}")
    dr, kd = (timings[arm].step_ms(options.workers) for arm in ("dr", "kd"))
    print(f"DR / ERM {dr / erm:.3f} (target <= 1.05 without mixing); KD / DR {kd / dr:.1f} (>= 5)")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Timing]:
    """Train the arms in turns; return their medians."""
    images = options.images or write_photographs(folder / "images", options.batch)
    teacher = random_teacher(options, folder, num_classes=len(open_images(images).classes))
    augment = variant(options.variant, size=options.size)
    generate(
        images,
        folder / "store",
        teacher,
        augment=augment,
        views=4,
        devices=[options.device],
        view_batch=options.batch,
    )
    store = Store.open(folder / "store")
    batches = {arm: batches_of(arm, options, images, store) for arm in ARMS}
    steps = {arm: train_step(arm, options, len(store.classes), teacher) for arm in ARMS}
    times: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for _ in range(options.repeats + WARM_UP):
        for arm in ARMS:
            began = time.perf_counter()
            batch = next(batches[arm])
            made = time.perf_counter()
            steps[arm](batch)
            times[arm].append((made - began, time.perf_counter() - made))
    return {
        arm: Timing(*(1e3 * median(column) for column in zip(*rows[WARM_UP:], strict=True)))
        for arm, rows in times.items()
    }


def batches_of(
    arm: Mode, options: argparse.Namespace, images: str, store: Store
) -> Iterator[ImageBatch]:
    """Return the batches of an arm, made in this process when asked for."""
    augment = variant("randaug" if arm == "erm" else options.variant, size=options.size)
    config = ReplayConfig(
        mode=arm,
        augment=augment,
        stored=store.augment if arm == "dr" else None,
        num_classes=len(store.classes),
        top_k=store.top_k,
    )
    dataset = ReinforcedImages(open_images(images), config, store=store if arm == "dr" else None)
    plan = FixedPlan(options.batch, options.size)
    return iter(ReinforcedStream(dataset, plan, total=options.repeats + WARM_UP))


def train_step(
    arm: Mode, options: argparse.Namespace, num_classes: int, teacher: TeacherConfig
) -> Callable[[ImageBatch], None]:
    """Return one optimiser step of an arm, waiting for the device at its end."""
    model = ModelConfig(name=options.student, classes=num_classes, image_size=options.size)
    optim = OptimConfig(lr=0.1, total_steps=1000, name="sgd")
    loss = LossConfig(mode=arm)
    module = Silent(model, loss, optim, teacher=teacher if arm == "kd" else None)
    device = torch.device(options.device)
    module.to(device).train()
    if device.type == "cuda":
        module.network.to(memory_format=torch.channels_last)
    module.on_fit_start()
    optimizer = configure(module.network, optim)["optimizer"]
    numbers = count()

    def step(batch: ImageBatch) -> None:
        moved = move_data_to_device(batch, device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            value = module.training_step(moved, next(numbers))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def random_teacher(options: argparse.Namespace, folder: Path, *, num_classes: int) -> TeacherConfig:
    """Write an untrained network and take it as every member: the time is that of a trained one."""
    network = build_model(options.teacher, num_classes=num_classes, image_size=options.size)
    path = folder / "teacher.safetensors"
    checkpoints.save_weights(path, network.state_dict(), {})
    member = MemberConfig(
        model=options.teacher,
        checkpoint=path,
        size=options.size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    precision = "bf16" if options.device == "cuda" else "fp32"
    return TeacherConfig(members=(member,) * MEMBERS, precision=precision, batch=options.batch)


def write_photographs(folder: Path, number: int) -> str:
    """Write JPEG files of 500 x 375 pixels in 20 classes, smooth with some noise."""
    rng = np.random.Generator(np.random.Philox(key=0))
    for index in range(number):
        place = folder / f"{index % 20:02d}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (pixels + rng.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(place / f"{index:05d}.jpg", quality=92)
    return str(folder)


def parse() -> argparse.Namespace:
    """Read the command line; what is not given follows the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=sorted(DEFAULTS), default="cpu")
    parser.add_argument("--variant", default="randaug", help="of the store's views and KD's")
    parser.add_argument("--workers", type=int, default=0, help="loader processes to reckon with")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    for name, kind in Defaults.__annotations__.items():
        parser.add_argument(f"--{name}", type=kind)
    options = parser.parse_args()
    for name, value in DEFAULTS[options.device]._asdict().items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
