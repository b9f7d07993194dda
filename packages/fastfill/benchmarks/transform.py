"""Items a second of the transformation h against images a second of the backbone it spares.

h with 128 dimensions and the published width of 2,048 (5.7 million multiplications an item), and
the paper's ResNet-50 at 224 pixels (4.1 billion: 720 times as many), random weights, eval mode.
`h, gallery` is `transform_all`, which reads from and writes to host memory, in float32 on every
device; the networks run in bfloat16 on a GPU, float32 on a CPU. Run:
`python transform.py`, with `--device cuda` on a GPU.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import numpy as np
import torch

from fastfill.config import BackboneConfig
from fastfill.models import build_backbone
from fastfill.transform import Transformation, transform_all
from tenfold import keyed
from tenfold.results import this_machine

DIM, PIXELS = 128, 224
ITEMS = {"cpu": 4096, "cuda": 262_144}
IMAGES = {"cpu": 8, "cuda": 256}
MOST_AT_ONCE = 65_536


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--items", type=int, help="4,096 on a CPU, 262,144 on a GPU")
    parser.add_argument("--images", type=int, help="a batch: 8 on a CPU, 256 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    items = options.items or ITEMS[options.device]
    images = options.images or IMAGES[options.device]
    print(f"{this_machine()}; {options.device}, {options.threads} threads")
    print(f"{'network':>12} {'a call':>8} {'per s':>12} {'ratio':>8}")
    backbone = images_per_second(images, options.device, options.repeats)
    print(f"{'resnet50':>12} {images:>8,} {backbone:>12,.1f} {1:>8}")
    for name, measure in (("h", network_per_second), ("h, gallery", gallery_per_second)):
        per_s = measure(items, options.device, options.repeats)
        print(f"{name:>12} {items:>8,} {per_s:>12,.0f} {per_s / backbone:>8,.0f}")


def images_per_second(count: int, device: str, repeats: int) -> float:
    """Time the backbone with images that are on the device, preprocessing included."""
    torch.manual_seed(0)
    network = build_backbone(BackboneConfig(arch="resnet50", dim=DIM)).eval().to(device)
    images = torch.randint(256, (count, 3, PIXELS, PIXELS), dtype=torch.uint8, device=device)
    return count / seconds(lambda: network.embed_uint8(images), device, repeats)


def network_per_second(count: int, device: str, repeats: int) -> float:
    """Time h with vectors that are on the device, at most 65,536 at once."""
    h = make_h().to(device)
    parts = torch.from_numpy(make_vectors(count)).to(device).split(MOST_AT_ONCE)
    return count / seconds(lambda: [h(part) for part in parts], device, repeats)


def gallery_per_second(count: int, device: str, repeats: int) -> float:
    """Time `transform_all` from array to array."""
    h, vectors = make_h().to(device), make_vectors(count)
    run = seconds(lambda: transform_all(h, vectors), device, repeats, autocast=False)
    return count / run


def make_h() -> Transformation:
    """Return h as published."""
    torch.manual_seed(0)
    return Transformation(DIM, DIM).eval()


def make_vectors(count: int) -> np.ndarray:
    """Return old embeddings."""
    shape = (count, DIM)
    return keyed.generator("transform benchmark").standard_normal(shape, dtype=np.float32)


def seconds(
    run: Callable[[], object], device: str, repeats: int, *, autocast: bool = True
) -> float:
    """Return the median time of a call after a first one: of the processor, or of the device."""
    on_gpu = device == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    context = torch.autocast("cuda", torch.bfloat16) if on_gpu and autocast else nullcontext()
    times = []
    with torch.inference_mode(), context:
        for _ in range(repeats + 1):
            began = clock()
            run()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(clock() - began)
    return median(times[1:])


if __name__ == "__main__":
    main()
