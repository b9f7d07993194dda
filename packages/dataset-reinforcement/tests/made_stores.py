"""Small stores of drawn views and random labels, for the tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_reinforcement.array_images import ArrayImages
from dataset_reinforcement.store.columns import Reinforcement, pack
from dataset_reinforcement.store.entropy import densified_entropy
from dataset_reinforcement.store.info import Part, ShardInfo, Skipped, StoreInfo, plan_part
from dataset_reinforcement.store.samples import Sample, fingerprint, write_samples
from dataset_reinforcement.store.shard import write_shard
from dataset_reinforcement.store.versions import library_versions
from dataset_reinforcement.store.writing import StoreWriter
from dataset_reinforcement.views import draw_reinforcement
from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.pipeline import Augment

NUM_IMAGES, HEIGHT, WIDTH = 10, 24, 28
CLASSES = tuple(f"class {number}" for number in range(12))
TOP_K = 3

_RARE = {"rand_augment": 1.0, "erase": 0.25}
_MIX = {"mixup": 0.5, "cutmix": 0.5}
AUGMENTS = {
    "rrc": AugmentConfig(size=16),
    "randaug": AugmentConfig(size=16, **_RARE),
    "mixing": AugmentConfig(size=16, mixup_owner="apple", **_MIX),
    "randaug_mixing": AugmentConfig(size=16, mixup_owner="apple", **_RARE, **_MIX),
    "sometimes": AugmentConfig(size=16, flip=0.0, rand_augment=0.5, erase=0.5, **_MIX),
    "random_crop": AugmentConfig(size=16, resize=20, crop="random", padding=3, **_RARE),
    "center": AugmentConfig(size=16, crop="center"),
}


def images(*, order: Sequence[int] | None = None, classes: Sequence[str] = CLASSES) -> ArrayImages:
    """Ten random images, in another order if one is given."""
    rng = keyed.generator("test images")
    pixels = rng.integers(0, 256, (NUM_IMAGES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    names = [f"image-{number}" for number in range(NUM_IMAGES)]
    labels = np.arange(NUM_IMAGES) % len(classes)
    chosen = list(range(NUM_IMAGES) if order is None else order)
    return ArrayImages(
        pixels[chosen], labels[chosen], classes, names=[names[number] for number in chosen]
    )


def save_images(path: Path) -> str:
    """Write the same images as an `.npz` and return its name."""
    rng = keyed.generator("test images")
    pixels = rng.integers(0, 256, (NUM_IMAGES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = np.arange(NUM_IMAGES) % len(CLASSES)
    np.savez(path, images=pixels, labels=labels, classes=np.array(CLASSES))
    return str(path)


def reinforcement(
    config: AugmentConfig, image: int, view: int, *, seed: int = 0, top_k: int = TOP_K
) -> Reinforcement:
    """One view with a random label."""
    sizes = np.full((NUM_IMAGES, 2), (HEIGHT, WIDTH))
    own, mix = draw_reinforcement(Augment(config), seed, image, view, sizes)
    rng = keyed.generator("test label", seed, image, view)
    dense = rng.dirichlet(np.full(len(CLASSES), 0.3)).astype(np.float32)
    order = np.argsort(-dense, kind="stable")[:top_k]
    entropy = densified_entropy(dense[order], num_classes=len(CLASSES))
    return Reinforcement(own, mix, order.astype(np.uint16), dense[order], float(entropy))


def rows(
    config: AugmentConfig, first: int, stop: int, views: range, **options: Any
) -> list[list[Reinforcement]]:
    """The given views of the images `first .. stop - 1`."""
    return [[reinforcement(config, i, j, **options) for j in views] for i in range(first, stop)]


def describe(
    config: AugmentConfig, *, seed: int | None = 0, top_k: int = TOP_K, **changes: Any
) -> StoreInfo:
    """The information of a store of these images, without parts."""
    source = images()
    values: dict[str, Any] = {
        "augment": config,
        "num_images": NUM_IMAGES,
        "top_k": top_k,
        "prob_dtype": "float16",
        "classes": CLASSES,
        "fingerprint": fingerprint(samples(source)),
        "decode": source.decode,
        "teacher": {"members": ["test"]},
        "versions": library_versions(),
        "seed": seed,
    }
    return StoreInfo(**(values | changes))


def samples(source: ArrayImages) -> list[Sample]:
    """The images as a store records them."""
    return [
        Sample(source.key(i), source.num_bytes(i), HEIGHT, WIDTH, source.label(i))
        for i in range(len(source))
    ]


def make_store(
    folder: Path,
    config: AugmentConfig,
    *,
    views: Sequence[int] = (5,),
    shard_size: int = 4,
    seed: int = 0,
    top_k: int = TOP_K,
    skipped: Sequence[int] = (),
    **changes: Any,
) -> Path:
    """Write a complete store with a part for each number of views."""
    info = describe(config, seed=seed, top_k=top_k, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder, samples(images()))
    writer = StoreWriter(folder, info)
    writer.begin()
    parts: list[Part] = []
    first = 0
    for count in views:
        plan = plan_part(first=first, count=count, num_images=NUM_IMAGES, shard_size=shard_size)
        parts.append(_write_part(folder, plan, info, seed, skipped))
        first += count
    writer.finish(parts, [Skipped(i, images().key(i), "damaged") for i in skipped])
    return folder


def _write_part(
    folder: Path, plan: Part, info: StoreInfo, seed: int, skipped: Sequence[int]
) -> Part:
    shards: list[ShardInfo] = []
    for shard in plan.shards:
        span = range(plan.first, plan.first + plan.count)
        found = rows(info.augment, *shard.images, span, seed=seed, top_k=info.top_k)
        found = [
            [] if image in skipped else views
            for image, views in zip(range(*shard.images), found, strict=True)
        ]
        columns = pack(found, prob_dtype=info.prob_dtype, shape=(plan.count, info.top_k))
        record = write_shard(folder / shard.file, columns)
        assert record["file"] == shard.file
        shards.append(ShardInfo(images=shard.images, **record))
    return Part(plan.first, plan.count, tuple(shards))


def assert_same(one: Reinforcement, other: Reinforcement, *, atol: float = 0.0) -> None:
    """Compare everything; probabilities within `atol` and entropies as stored."""
    assert one.own == other.own
    assert one.mix == other.mix
    np.testing.assert_array_equal(one.classes, other.classes)
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=atol)
    assert np.float16(one.entropy) == np.float16(other.entropy)
