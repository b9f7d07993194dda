"""A small gallery for tests."""

from pathlib import Path

import numpy as np

from fastfill.card import ModelCard
from fastfill.config import Metric
from fastfill.gallery import Gallery, GalleryCards, Leases, RetryPolicy
from tenfold import keyed

OLD_DIM, NEW_DIM = 3, 4


def cards(metric: Metric = "l2") -> GalleryCards:
    return GalleryCards(
        new=ModelCard("new", NEW_DIM, metric, "sha-new"),
        old=(ModelCard("old", OLD_DIM, metric, "sha-old"),),
    )


def vectors(purpose: str, rows: int, dim: int) -> np.ndarray:
    return keyed.generator(purpose).normal(size=(rows, dim)).astype(np.float32)


def new_vectors(rows: int) -> np.ndarray:
    return vectors("new", rows, NEW_DIM)


def make(folder: Path, rows: int = 10, **options: object) -> Path:
    """Write a gallery whose items are embedded last row first."""
    arguments: dict = {
        "ids": [f"item {row}" for row in range(rows)],
        "old": vectors("old", rows, OLD_DIM),
        "z": vectors("z", rows, NEW_DIM),
        "s": np.arange(rows, dtype=np.float32),
        "cards": cards(),
    }
    Gallery.create(folder, **arguments | options)
    return folder


def column_bytes(folder: Path) -> dict[str, bytes]:
    """Return what must not depend on interruptions."""
    files = [*folder.glob("*.npy"), folder / "ids.jsonl"]
    return {path.name: path.read_bytes() for path in files}


def backfill(folder: Path) -> None:
    """Do what is left of a small backfill, with a checkpoint, an addition and a deletion."""
    with Gallery.open(folder, "w", retry=RetryPolicy(first_s=0)) as gallery:
        gallery.apply_pending()
        if "more" not in gallery:
            gallery.add(["more"], new_vectors(1))
        if "item 3" in gallery:
            gallery.delete(["item 3"])
        while len(rows := gallery.queue(2)):
            gallery.apply(rows, new_vectors(gallery.size)[rows])
            gallery.checkpoint()


def claim_all(folder: Path, worker: str, rows: int) -> list[int]:
    """Claim rows a few at a time, as long as there are some."""
    leases, got = Leases(folder), []
    for start in range(0, rows, 8):
        got += leases.claim(worker, range(start, start + 8), ttl=60).tolist()
    return got
