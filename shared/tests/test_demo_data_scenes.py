"""Scenes: exact labels against a naive reading of the segments, depth order, independence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.demo_data import characters, scenes


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def some() -> list[scenes.Scene]:
    return [scenes.compose(index, seed=3, max_objects=6) for index in range(40)]


def same(a: scenes.Scene, b: scenes.Scene) -> bool:
    arrays = ("image", "segments", "boxes", "classes", "depths")
    return a.caption == b.caption and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays
    )


def test_masks_match_boxes(some: list[scenes.Scene]) -> None:
    for scene in some:
        assert scene.masks.shape == (len(scene.classes), 64, 64)
        assert len(scene.boxes) == len(scene.depths) == len(scene.classes) >= 1
        for mask, (left, top, right, bottom) in zip(scene.masks, scene.boxes, strict=True):
            assert mask[:, left].any()
            assert mask[:, right - 1].any()
            assert mask[top].any()
            assert mask[bottom - 1].any()
            assert mask.sum() == mask[top:bottom, left:right].sum() > 0
        assert np.array_equal(scene.masks.any(axis=0), scene.segments > 0)
        assert scene.masks.sum(axis=0).max() <= 1


def test_depth_ascends_and_the_maps_follow_the_masks(some: list[scenes.Scene]) -> None:
    for scene in some:
        assert (np.diff(scene.depths) > 0).all()
        assert scene.depths.min() >= 0.1
        assert scene.depths.max() <= 0.9
        for k, depth in enumerate(scene.depths):
            assert (scene.depth_map[scene.masks[k]] == depth).all()
            assert (scene.class_map[scene.masks[k]] == scene.classes[k]).all()
        assert (scene.depth_map[scene.segments == 0] == 1).all()
        assert (scene.class_map[scene.segments == 0] == -1).all()


def test_segments_are_a_painters_from_far_to_near() -> None:
    faces = dict.fromkeys(scenes.VOCABULARY, ("DejaVuSans", "DejaVuSans-Bold"))
    hidden = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        placed, segments = scenes._place(rng, 64, 8, scenes.VOCABULARY, faces)
        naive = np.zeros((64, 64), dtype=np.uint8)
        for k in reversed(range(len(placed))):
            item = placed[k]
            for y, x in np.argwhere(item.ink.coverage >= 128):
                naive[item.top + y, item.left + x] = k + 1
        assert np.array_equal(segments, naive)
        for k, item in enumerate(placed):
            ink, visible = (item.ink.coverage >= 128).sum(), (segments == k + 1).sum()
            assert visible >= ink / 2
            hidden += int(ink - visible)
    assert hidden > 100


def test_the_nearest_object_is_painted_whole() -> None:
    # One object alone: its mask is the ink, and its pixels share one colour.
    for index in range(10):
        scene = scenes.compose(index, max_objects=1, vocabulary="♠♥")
        inside = scene.image[scene.segments == 1].astype(int)
        colour = np.median(inside, axis=0)
        assert np.mean(np.abs(inside - colour).sum(axis=1) < 3) > 0.6
        assert scene.caption in {"black spade suit", "black heart suit"}


def test_nearer_means_larger() -> None:
    drawn = [scenes.compose(index, max_objects=1, vocabulary="♠") for index in range(40)]
    depths = np.array([scene.depths[0] for scene in drawn])
    heights = np.array([scene.boxes[0, 3] - scene.boxes[0, 1] for scene in drawn])
    assert np.corrcoef(depths, heights)[0, 1] < -0.8


def test_scene_depends_on_seed_and_index_alone(some: list[scenes.Scene]) -> None:
    assert same(some[7], scenes.compose(7, seed=3, max_objects=6))
    assert not same(some[7], some[8])
    assert not same(some[7], scenes.compose(7, seed=4, max_objects=6))


def test_batch_is_the_scenes_and_comes_back_from_the_cache() -> None:
    few, more = scenes.load(3, size=32), scenes.load(5, size=32)
    again = scenes.load(5, size=32)
    assert few.fingerprint != more.fingerprint == again.fingerprint
    assert len(more) == 5
    for index in range(5):
        single = scenes.compose(index, size=32)
        assert same(more[index], single)
        assert same(again[index], single)
    assert same(few[2], more[2])
    assert more.captions == [more[index].caption for index in range(5)]
    assert more.images.dtype == more.segments.dtype == np.uint8
    assert more.boxes.shape == (5, 4, 4)


def test_caption_names_the_objects_from_near_to_far(some: list[scenes.Scene]) -> None:
    for scene in some:
        names = [characters.describe(scenes.VOCABULARY[i]).caption for i in scene.classes]
        assert scene.caption.split(", ") == names


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 8}, "size must be 16 to 128 pixels, got 8"),
        ({"max_objects": 0}, "max_objects must be 1 to 16, got 0"),
        ({"max_objects": 17}, "max_objects must be 1 to 16, got 17"),
        ({"vocabulary": ""}, "vocabulary must be distinct characters, got"),
        ({"vocabulary": "aa"}, "vocabulary must be distinct characters, got"),
        ({"vocabulary": "a\u4e2d"}, "none of the faces .* draws '\u4e2d'"),
        ({"faces": ["Comic"]}, "unknown face 'Comic'"),
    ],
)
def test_bad_input(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        scenes.compose(0, **arguments)
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        scenes.load(0)
