"""A tiny backfill for tests: images that say their number, a network, and a log of what it saw."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastfill.backfill_run import Limits, Report, run_backfill
from fastfill.batch_job import BatchJob
from fastfill.card import ModelCard
from fastfill.config import BackboneConfig
from fastfill.encoders import Encoder, load_encoder
from fastfill.gallery import Gallery, GalleryCards
from fastfill.models import build_backbone
from fastfill.weights import backbone_card, save_backbone
from tenfold.keyed import generator

DIM, OLD_DIM, ITEMS = 6, 4, 40
OLD = ModelCard("old", OLD_DIM, "l2", "sha-old")


def name_of(number: int) -> str:
    return f"{number:03d}.png"


def draw(path: Path, number: int) -> None:
    """Write an image whose first pixel is its number."""
    pixels = generator("pixels", number).integers(0, 256, (8, 8), dtype=np.uint8)
    pixels[0, 0] = number
    Image.fromarray(pixels).save(path)


def make_model(path: Path, *, seed: int = 0) -> ModelCard:
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig(arch="tiny_mlp", dim=DIM, num_classes=3)).eval()
    card = backbone_card(backbone, name="new")
    save_backbone(path, backbone, card)
    return card


class Backfill:
    """A folder with images, model and gallery; items are embedded last first."""

    def __init__(self, root: Path, *, items: int = ITEMS) -> None:
        self.root = root
        self.model, self.images = root / "new.safetensors", root / "images"
        self.gallery, self.log = root / "gallery", root / "new.log"
        self.images.mkdir(parents=True)
        for number in range(items):
            draw(self.images / name_of(number), number)
        random = generator("backfill")
        Gallery.create(
            self.gallery,
            [name_of(number) for number in range(items)],
            random.normal(size=(items, OLD_DIM)).astype(np.float32),
            random.normal(size=(items, DIM)).astype(np.float32),
            np.arange(items, dtype=np.float32),
            cards=GalleryCards(new=make_model(self.model), old=(OLD,)),
        )

    def job(self, **options: Any) -> BatchJob:
        usual = {"model": str(self.model), "source": str(self.images)}
        return BatchJob(**usual | {"batch_size": 8, "load": logged_encoder} | options)

    def run(self, *, workers: int = 1, retry: bool = False, **options: Any) -> Report:
        named = ("max_items", "stop_at", "rate", "lease_s")
        limits = Limits(**{name: options.pop(name) for name in named if name in options})
        return run_backfill(self.gallery, self.job(**options), limits, workers=workers, retry=retry)

    def seen(self) -> list[int]:
        """Return the numbers of the images that were embedded, in order."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def open(self) -> Gallery:
        return Gallery.open(self.gallery)


def logged_encoder(model: str, **options: Any) -> Encoder:
    """Load a model that writes the number of each image it sees beside its file."""
    encoder = load_encoder(model, **options)
    prepare = encoder.prepare

    def logged(original: Any, *, whole: bool = False) -> Tensor:
        number = np.asarray(original)[0, 0, 0]
        with Path(model).with_suffix(".log").open("a") as file:
            os.write(file.fileno(), f"{number}\n".encode())
        return prepare(original, whole=whole)

    encoder.prepare = logged  # type: ignore[method-assign]
    return encoder


def forgetful_encoder(model: str, **options: Any) -> Encoder:
    """Load a model for which more than three images are too many."""
    encoder = logged_encoder(model, **options)
    whole = encoder._run.run

    def limited(batch: Tensor) -> Tensor:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("no memory for the test")
        return whole(batch)

    encoder._run.run = limited
    return encoder


def broken_encoder(model: str, **options: Any) -> Encoder:
    """Load a model that fails after its first batch, and gives it a vector of zeros and a NaN."""
    encoder = load_encoder(model, **options)
    whole, calls = encoder._run.run, []

    def failing(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        if len(calls) > 1:
            raise RuntimeError("the device is gone")
        rows = whole(batch).clone()
        rows[0], rows[1, 0] = 0, torch.nan
        return rows

    encoder._run.run = failing
    return encoder


def run_in(root: Path) -> None:
    """Run the backfill in a folder that `Backfill` made."""
    there = Backfill.__new__(Backfill)
    there.root = root
    there.model, there.images = root / "new.safetensors", root / "images"
    there.gallery, there.log = root / "gallery", root / "new.log"
    there.run()
