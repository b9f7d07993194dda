"""Labelled images in batches: classes, crops that follow from the id, corrupt files, ranks."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_files import damage, make_images

from fastfill.backbone_module import BackboneModule
from fastfill.config import BackboneConfig
from fastfill.image_data import EpochOrder, ImageData, Images, collate, labelled_rows
from fastfill.sources import open_source
from tenfold.bare_trainer import bare_trainer
from tenfold.optim import OptimConfig

SIZE = (3, 8, 8)


def order(count: int, rows: int = 24, **options: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(EpochOrder(np.arange(rows), 8, 1, **options), count))


def test_an_epoch_shows_every_row_once_and_goes_on_from_any_batch() -> None:
    batches = order(6)
    for epoch in (0, 1):
        places = [place for batch in batches[3 * epoch : 3 * epoch + 3] for place in batch]
        assert sorted(places) == [(epoch, row) for row in range(24)]
    assert [row for _, row in batches[0]] != [row for _, row in batches[3]]
    assert order(2, start=4) == batches[4:]
    assert len(order(4, rows=21)[1]) == 8


def test_ranks_share_the_batches_of_one_process() -> None:
    for whole, one, other in zip(
        order(5), order(5, world_size=2), order(5, rank=1, world_size=2), strict=True
    ):
        assert len(one) == len(other) == 4
        assert set(one).isdisjoint(other)
        assert set(one) | set(other) == set(whole)


def test_the_first_classes_alone(tmp_path: Path) -> None:
    source = open_source(str(make_images(tmp_path)))
    assert set(source.labels[labelled_rows(source, 2)].tolist()) == {0, 1}
    assert len(labelled_rows(source, 0)) == 24
    (tmp_path / "flat").mkdir()
    (tmp_path / "class-0" / "00.png").rename(tmp_path / "flat" / "00.png")
    with pytest.raises(ValueError, match="has no image of a known class; put a folder a class"):
        labelled_rows(open_source(str(tmp_path / "flat")), 0)


def test_a_crop_follows_from_seed_epoch_and_id(tmp_path: Path) -> None:
    source = open_source(str(make_images(tmp_path, size=20)))
    images = Images(source, SIZE, augment="crop", seed=0)
    again, other = (Images(source, SIZE, augment="crop", seed=seed) for seed in (0, 1))
    id, view, label = images[0, 9]
    assert (id, label) == ("class-1/01.png", 1)
    assert view.shape == SIZE
    assert view.dtype == torch.uint8
    assert torch.equal(view, again[0, 9][1])
    assert not torch.equal(view, images[1, 9][1])
    assert not torch.equal(view, other[0, 9][1])


def test_flips_keep_the_whole_image_and_evaluation_changes_nothing(tmp_path: Path) -> None:
    source = open_source(str(make_images(tmp_path)))
    pixels = torch.from_numpy(np.array(source.load("class-0/03.png"))).permute(2, 0, 1)
    flips = Images(source, SIZE, augment="flip", seed=0)
    seen = [flips[epoch, 3][1] for epoch in range(12)]
    straight = [torch.equal(view, pixels) for view in seen]
    assert {True, False} == set(straight)
    assert all(
        s or torch.equal(view, pixels.flip(2)) for s, view in zip(straight, seen, strict=True)
    )
    for augment in ("none", None):
        assert torch.equal(Images(source, SIZE, augment=augment, seed=0)[5, 3][1], pixels)
    assert torch.equal(Images(source, (1, 8, 8), augment="none", seed=0)[0, 3][1], pixels[:1])
    with pytest.raises(ValueError, match="images are cut square, the network takes 8 x 9"):
        Images(source, (3, 8, 9), augment="none", seed=0)


def test_evaluation_cuts_the_centre_of_large_images(tmp_path: Path) -> None:
    source = open_source(str(make_images(tmp_path, size=64)))
    view = Images(source, SIZE, augment=None, seed=0)[0, 0][1]
    whole = Images(source, SIZE, augment="none", seed=0)[0, 0][1]
    assert view.shape == SIZE
    assert not torch.equal(view, whole)


def test_corrupt_images_are_left_out_of_the_batch(tmp_path: Path) -> None:
    damage(make_images(tmp_path), "class-0/00.png")
    images = Images(open_source(str(tmp_path)), SIZE, augment="none", seed=0)
    batch = collate([images[0, row] for row in range(3)])
    assert batch["keys"] == ["class-0/01.png", "class-0/02.png"]
    assert batch["image"].shape == (2, *SIZE)
    assert batch["label"].tolist() == [0, 0]
    (line,) = batch["bad"]
    assert "class-0/00.png" in line
    with pytest.raises(ValueError, match="no image of a batch could be read; the first: "):
        collate([images[0, 0]])


def train(data: ImageData, *, steps: int = 3, classes: int = 3, **options: Any) -> BackboneModule:
    torch.manual_seed(0)
    module = BackboneModule(
        BackboneConfig(arch="tiny_mlp", dim=4, num_classes=classes),
        optim=OptimConfig(lr=0.1, total_steps=steps, name="sgd"),
    )
    bare_trainer(steps, **options).fit(module, datamodule=data)
    return module


def test_a_run_counts_corrupt_images_and_ends_above_the_limit(tmp_path: Path) -> None:
    damage(make_images(tmp_path), "class-0/00.png", "class-1/00.png", "class-2/00.png")
    data = ImageData(str(tmp_path), augment="none", batch_size=8, max_bad_fraction=0.15)
    train(data)
    assert (data.bad, data.seen) == (3, 24)
    strict = ImageData(str(tmp_path), augment="none", batch_size=8, max_bad_fraction=0.1)
    with pytest.raises(ValueError, match=r"3 of 24 images could not be read, more than data\.max"):
        train(strict)


def test_what_is_learnt_does_not_depend_on_loader_processes(tmp_path: Path) -> None:
    make_images(tmp_path, size=12)
    alone, beside = (
        train(ImageData(str(tmp_path), batch_size=8, workers=workers)) for workers in (0, 1)
    )
    for one, other in zip(alone.network.parameters(), beside.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "zoom"}, r"data\.augment must be one of .*, got 'zoom'"),
        ({"max_bad_fraction": 2}, r"max_bad_fraction must lie in 0\.\.1, got 2"),
        ({"batch_size": 1}, r"batch_size must be >= 2, got 1"),
        ({"classes": -1}, r"classes must be >= 0, got -1"),
        ({"batch_size": 25}, r"batch_size must lie in 2\.\.24, the images of .*, got 25"),
    ],
)
def test_mistakes(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    make_images(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(ImageData(str(tmp_path), **options))


def test_a_class_without_a_row_of_the_head_is_refused(tmp_path: Path) -> None:
    make_images(tmp_path)
    with pytest.raises(ValueError, match=r"has a class number 2, model\.num_classes is 2"):
        train(ImageData(str(tmp_path), batch_size=8), classes=2)
    train(ImageData(str(tmp_path), batch_size=8, classes=2), classes=2)
