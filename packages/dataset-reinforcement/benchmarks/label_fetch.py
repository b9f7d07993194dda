"""Fetch one stored view from our store and from the official layout, and count bytes a view.

The official way is written anew from its description: one file an image, a pickle of all its views,
of which training uses one. Both lie in the page cache. Views are drawn as for training from images
of 375 x 500 pixels; labels are random, 10 of 1,000 classes.

    python benchmarks/label_fetch.py [--images 32] [--views 400] [--fetches 2000] [--runs 5]
"""

import argparse
import pickle
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dataset_reinforcement.apple.export_apple import export_apple
from dataset_reinforcement.apple.layout import image_file
from dataset_reinforcement.store.columns import Reinforcement, pack
from dataset_reinforcement.store.entropy import densified_entropy
from dataset_reinforcement.store.info import ShardInfo, StoreInfo, plan_part
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.samples import Sample, fingerprint, write_samples
from dataset_reinforcement.store.shard import write_shard
from dataset_reinforcement.store.versions import library_versions
from dataset_reinforcement.store.writing import StoreWriter
from dataset_reinforcement.variants import variant
from dataset_reinforcement.views import draw_reinforcement
from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.pipeline import Augment
from tenfold.results import this_machine

PUBLISHED_BYTES = {"rrc": 65, "randaug": 73, "mixing": 90, "randaug_mixing": 104}
"""Of the released ImageNet+ sets, gzip included (README of the official code, size / views)."""
NUM_CLASSES, TOP_K = 1000, 10


@dataclass(frozen=True)
class Found:
    """What was measured for one variant; microseconds and bytes a view."""

    store_us: float
    official_us: float
    store_bytes: float
    official_bytes: float
    official_gz_bytes: float


def draw_image(augment: Augment, image: int, num_images: int, views: int) -> list[Reinforcement]:
    """Draw the views of one image, and labels of a teacher that is mostly sure."""
    sizes = np.full((num_images, 2), (375, 500))
    rng = keyed.generator("labels", image)
    logits = 3 * rng.standard_normal((views, NUM_CLASSES), dtype=np.float32)
    dense = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = np.argsort(-dense, axis=1)[:, :TOP_K]
    top = np.take_along_axis(dense, order, axis=1)
    entropies = densified_entropy(top, num_classes=NUM_CLASSES)
    return [
        Reinforcement(
            *draw_reinforcement(augment, 0, image, view, sizes),
            order[view].astype(np.uint16),
            top[view],
            float(entropies[view]),
        )
        for view in range(views)
    ]


def write_store(folder: Path, config: AugmentConfig, *, images: int, views: int) -> Path:
    """Write a store of one part."""
    folder.mkdir()
    samples = [Sample(str(image), 0, 375, 500, 0) for image in range(images)]
    info = StoreInfo(
        augment=config,
        num_images=images,
        top_k=TOP_K,
        prob_dtype="float16",
        classes=tuple(map(str, range(NUM_CLASSES))),
        fingerprint=fingerprint(samples),
        decode={},
        teacher={},
        versions=library_versions(),
        seed=0,
    )
    write_samples(folder, samples)
    part = plan_part(first=0, count=views, num_images=images, shard_size=4096)
    augment = Augment(config)
    columns = pack([draw_image(augment, image, images, views) for image in range(images)])
    record = write_shard(folder / part.shards[0].file, columns)
    shard = ShardInfo(part.shards[0].file, (0, images), record["bytes"], record["sha256"])
    StoreWriter(folder, info).finish([type(part)(0, views, (shard,))])
    return folder


def fetch_official(folder: Path, image: int, view: int) -> int:
    """Read a view as the official loader does; return its most probable class."""
    with zipfile.ZipFile(image_file(folder, image)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        # The peer unpickles in C, so must its re-implementation; the file was written above.
        content = pickle.loads(archive.read(name))  # noqa: S301
    probabilities, classes = content[1][view]["prob"]
    return classes[int(np.argmax(probabilities))]


def fetch_ours(store: Store, image: int, view: int) -> int:
    """Read a view from a store; return its most probable class."""
    return int(store.read(image, view).classes[0])


def microseconds(fetch: Callable[[int, int], int], places: NDArray[np.int64]) -> float:
    """Return the mean processor time of a fetch."""
    pairs = places.tolist()
    start = time.process_time()
    for image, view in pairs:
        fetch(image, view)
    return 1e6 * (time.process_time() - start) / len(pairs)


def measure(name: str, options: argparse.Namespace) -> Found:
    """Measure one variant."""
    images, views = options.images, options.views
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = write_store(folder / "store", variant(name), images=images, views=views)
        export_apple(path, folder / "official")
        store = Store.open(path)
        ours, official = partial(fetch_ours, store), partial(fetch_official, folder / "official")
        assert ours(1, 2) == official(1, 2)
        rng = keyed.generator("places")
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.runs):
            places = rng.integers(0, (images, views), (options.fetches, 2))
            times[0].append(microseconds(ours, places))
            times[1].append(microseconds(official, places[: max(1, options.fetches // 50)]))
        count = images * views
        files = [image_file(folder / "official", image) for image in range(images)]
        return Found(
            store_us=statistics.median(times[0]),
            official_us=statistics.median(times[1]),
            store_bytes=sum(s.bytes or 0 for p in store.info.parts for s in p.shards) / count,
            official_bytes=sum(file.stat().st_size for file in files) / count,
            official_gz_bytes=_gz_bytes(files, folder / "official.tar.gz") / count,
        )


def _gz_bytes(files: list[Path], path: Path) -> int:
    with tarfile.open(path, "w:gz", compresslevel=6) as archive:
        for file in files:
            archive.add(file, arcname=file.name)
    return path.stat().st_size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--views", type=int, default=400, help="As in the released sets.")
    parser.add_argument("--fetches", type=int, default=2000, help="A fiftieth the official way.")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    table = Table(
        "variant", "us", "official us", "ratio", "bytes", "official", "gz", "published gz"
    )
    for name, published in PUBLISHED_BYTES.items():
        found = measure(name, options)
        table.add_row(
            name,
            f"{found.store_us:.1f}",
            f"{found.official_us:,.0f}",
            f"{found.official_us / found.store_us:.0f}x",
            f"{found.store_bytes:.1f}",
            f"{found.official_bytes:.0f}",
            f"{found.official_gz_bytes:.0f}",
            str(published),
        )
    console = Console(soft_wrap=True)
    console.print(f"{this_machine()}; medians of {options.runs} runs, processor time of one thread")
    console.print(
        f"{options.images} images x {options.views} views, {TOP_K} of {NUM_CLASSES} classes"
    )
    console.print("microseconds and bytes a view; ours is not compressed")
    console.print(table)


if __name__ == "__main__":
    main()
