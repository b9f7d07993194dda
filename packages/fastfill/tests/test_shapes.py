"""Rendered images: keyed, of the class they say, and learnable."""

import numpy as np
import pytest
import torch

from fastfill.config import BackboneConfig
from fastfill.shapes import COLOURS, NUM_CLASSES, SHAPES, TEXTURES, ShapeImages, class_name
from fastfill.shapes_training import Recipe, embed_shapes, train_backbone


def test_an_image_depends_on_its_split_and_row_alone() -> None:
    images = ShapeImages("train", count=500, size=16)
    rows = np.array([7, 450, 8])
    found = images.images(rows)
    assert found.dtype == torch.uint8
    assert found.shape == (3, 3, 16, 16)
    assert torch.equal(images.images(rows[1:2]), found[1:2])
    assert not torch.equal(ShapeImages("test", count=500, size=16).images(rows), found)
    one, same, other = (images.images(rows, "view", n) for n in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, found)


def test_classes_take_turns_and_have_names() -> None:
    images = ShapeImages("train", count=401, size=8)
    assert np.bincount(images.labels).tolist() == [3, *[2] * 199]
    names = {class_name(label) for label in range(NUM_CLASSES)}
    assert len(names) == NUM_CLASSES == 200
    assert class_name(0) == "red plain disc"
    # The old model's classes lack two shapes, and most of a third.
    seen = {class_name(label).split()[2] for label in range(100)}
    assert seen == {"disc", "ring", "square"}
    assert len(images.ids) == len(set(images.ids)) == 401


def test_ink_has_the_colour_of_the_class() -> None:
    images = ShapeImages("colours", count=NUM_CLASSES * 6, size=32)
    plain = np.flatnonzero((images.labels // 8 % len(TEXTURES) == 0) & (images.labels // 40 == 0))
    drawn = images.images(plain).double()
    mean = drawn.mean(dim=(2, 3))  # a disc of its colour on a ground that has none
    for label, (colour, ink) in enumerate(COLOURS.items()):
        of_class = mean[torch.from_numpy(images.labels[plain] % 8 == label)].mean(dim=0)
        if max(ink) - min(ink) > 100:
            assert int(of_class.argmax()) == int(np.argmax(ink)), colour


def test_shapes_differ_in_their_area() -> None:
    images = ShapeImages("areas", count=NUM_CLASSES * 10, size=32)
    white = (images.labels % 8 == 6) & (images.labels // 8 % 5 == 0)
    light = [
        images.images(np.flatnonzero(white & (images.labels // 40 == n))).double().mean()
        for n in range(len(SHAPES))
    ]
    assert light[0] > light[1]  # a disc covers more than its ring


@pytest.mark.parametrize(("count", "size"), [(0, 32), (5, 7)])
def test_impossible_sizes(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="count must be >= 1 and size >= 8"):
        ShapeImages("train", count=count, size=size)


def test_a_network_learns_to_tell_classes_apart() -> None:
    images = ShapeImages("train", count=NUM_CLASSES * 20, size=32)
    model = BackboneConfig(arch="tiny_conv", dim=16, num_classes=NUM_CLASSES)
    recipe = Recipe(batch_size=64)
    backbone = train_backbone(model, images, recipe, steps=60, seed=0, seen=8)
    test = ShapeImages("test", count=NUM_CLASSES * 8, size=32)
    rows = np.flatnonzero(test.labels < 8)
    logits = embed_shapes(backbone, test)[rows] @ backbone.head.weight.numpy().T
    right = (logits.argmax(1) == test.labels[rows]).mean()
    assert right > 0.5  # of eight colours; chance is 0.125
