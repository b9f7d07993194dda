"""What tests of the trainings need: a small feature cache, folders of images, bare runs."""

from pathlib import Path

import numpy as np
from PIL import Image

from fastfill.cache_writing import write_cache
from fastfill.card import ModelCard
from fastfill.feature_cache import FeatureCache
from tenfold import keyed

OLD_DIM, NEW_DIM, SIDE_DIM, CLASSES = 5, 6, 3, 4


def make_features(
    folder: Path,
    *,
    items: int = 24,
    views: int = 3,
    side: bool = False,
    head: bool = True,
    labelled: bool = True,
    seed: int = 0,
) -> FeatureCache:
    """Write random features; the first old number of an item tells row and view."""
    random = keyed.generator("features", seed)
    shapes = [(items, views, dim) for dim in (OLD_DIM, NEW_DIM, SIDE_DIM)]
    old, new, extra = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    old[:, :, 0] = np.arange(items)[:, None] + np.arange(views) / 10
    return write_cache(
        folder,
        ids=[f"item-{row:02d}" for row in range(items)],
        old=old,
        new=new,
        old_card=ModelCard("old", OLD_DIM, "l2", "sha-old"),
        new_card=ModelCard("new", NEW_DIM, "l2", "sha-new", num_classes=CLASSES if head else 0),
        side=extra if side else None,
        side_card=ModelCard("side", SIDE_DIM, "l2", "sha-side") if side else None,
        labels=np.arange(items) % CLASSES if labelled else None,
        head=keyed.generator("head").normal(size=(CLASSES, NEW_DIM)) if head else None,
        dtype="float32",
        shard_size=10,
    )


def make_images(folder: Path, *, classes: int = 3, each: int = 8, size: int = 8) -> Path:
    """Write a subfolder of random PNGs for every class."""
    for label in range(classes):
        (folder / f"class-{label}").mkdir(parents=True, exist_ok=True)
        for number in range(each):
            draw = keyed.generator("image", label, number)
            pixels = draw.integers(0, 60, (size, size, 3)) + 60 * label
            path = folder / f"class-{label}" / f"{number:02d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def damage(folder: Path, *names: str) -> None:
    """Cut images short."""
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
