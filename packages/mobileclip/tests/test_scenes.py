"""Composed scenes: what is held out, how noisy captions are, and that files repeat themselves."""

import json
import re
from collections import Counter
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileclip.demo_pairs import EMPTY_CAPTIONS
from mobileclip.demo_scenes import (
    COUNTS,
    EMPTY,
    MISSEEN,
    SHAPES,
    TEMPLATES,
    VALUES,
    WRONG,
    Scene,
    draw_scene,
    real_caption,
    scenes,
    synthetic_captions,
)
from mobileclip.demo_scenes_drawing import CENTRES, INKS, draw, outlines
from mobileclip.demo_scenes_shards import SceneShard, draw_scenes, scene_samples
from tenfold import keyed
from tenfold.shards import TarMembers, read_index

TRAINING = ("web", "teaching")
NUMBER = 3000
FULL = {scene.name: scene for held_out in (False, True) for scene in scenes(held_out=held_out)}


def _named(caption: str) -> Scene | None:
    """Return the composition that a full caption names."""
    for template in TEMPLATES:
        start, end = template.split("{}")
        if caption.startswith(start) and caption.endswith(end):
            found = FULL.get(caption[len(start) : len(caption) - len(end)])
            if found is not None:
                return found
    return None


def test_compositions_are_parted_and_every_value_is_on_both_sides() -> None:
    known, held_out = set(scenes(held_out=False)), set(scenes(held_out=True))
    assert not known & held_out
    assert len(known | held_out) == len(FULL) == np.prod([len(values) for values in VALUES])
    assert 0.08 < len(held_out) / len(FULL) < 0.12
    for side in (known, held_out):
        for position, values in enumerate(VALUES):
            assert {astuple(scene)[position] for scene in side} == set(values)


@pytest.mark.parametrize("part", TRAINING)
def test_training_parts_neither_show_nor_name_what_is_held_out(part: Any) -> None:
    for index in range(NUMBER):
        scene = draw_scene(part, index, seed=3)
        assert not scene.is_held_out
        named = _named(real_caption(part, index, scene, seed=3))
        assert named is None or not named.is_held_out
        for caption in synthetic_captions(part, index, scene, seed=3):
            assert _named(caption) is None


def test_test_drawings_are_of_every_held_out_composition() -> None:
    held_out = scenes(held_out=True)
    drawn = [draw_scene("test", index, seed=0) for index in range(2 * len(held_out))]
    assert Counter(drawn) == dict.fromkeys(held_out, 2)
    shown = {draw_scene("retrieval", index, seed=0).is_held_out for index in range(200)}
    assert shown == {False, True}
    assert all(
        real_caption("test", i, scene, seed=0) == scene.name for i, scene in enumerate(drawn)
    )


def test_web_captions_are_as_noisy_as_they_say_and_others_are_clean() -> None:
    kinds: Counter[str] = Counter()
    for index in range(NUMBER):
        scene = draw_scene("web", index, seed=0)
        caption = real_caption("web", index, scene, seed=0)
        named = _named(caption)
        if named is None:
            assert caption in EMPTY_CAPTIONS
        kinds["empty" if named is None else "right" if named == scene else "wrong"] += 1
        taught = draw_scene("teaching", index, seed=0)
        assert _named(real_caption("teaching", index, taught, seed=0)) == taught
    assert round(WRONG + EMPTY, 9) == 0.3
    for kind, share in (("wrong", WRONG), ("empty", EMPTY), ("right", 0.7)):
        assert kinds[kind] / NUMBER == pytest.approx(share, abs=0.025)


def test_the_captioner_tells_parts_and_errs_as_often_as_it_says() -> None:
    wrong_colours = 0
    for index in range(NUMBER):
        scene = draw_scene("web", index, seed=0)
        first, *others = synthetic_captions("web", index, scene, seed=0)
        assert len(others) == 4
        wrong_colours += first.split()[1] != scene.colour
        for caption in (first, *others):
            # At least two of the five are never told.
            told = [any(re.search(rf"\b{v}(e?s)?\b", caption) for v in values) for values in VALUES]
            assert 2 <= sum(told) <= 3
    assert wrong_colours / NUMBER == pytest.approx(MISSEEN, abs=0.01)


@pytest.mark.parametrize(
    ("scene", "name"),
    [
        (Scene("one", "red", "plain", "star", "centre"), "one red plain star at the centre"),
        (
            Scene("two", "blue", "dotted", "cross", "top left"),
            "two blue dotted crosses at the top left",
        ),
    ],
)
def test_names_are_sentences(scene: Scene, name: str) -> None:
    assert scene.name == name


def test_a_drawing_shows_its_colour_at_its_place_and_as_often_as_it_says() -> None:
    size = 96
    for number, scene in enumerate(scenes(held_out=False)[::97]):
        image = draw(scene, keyed.generator("drawing", number), size).astype(float)
        grey = np.median(image, axis=(0, 1))
        painted = np.abs(image - grey).max(axis=2) > 48
        rows, columns = np.nonzero(painted)
        centre = (np.array([rows.min() + rows.max(), columns.min() + columns.max()]) + 1) / 2 / size
        distances = {p: np.abs(centre - at).max() for p, at in CENTRES.items()}
        assert min(distances, key=lambda place: distances[place]) == scene.place
        if scene.texture == "plain":
            assert np.abs(np.median(image[painted], axis=0) - INKS[scene.colour]).max() < 30
    areas = [
        np.count_nonzero(
            np.abs(
                draw(
                    Scene(count, "black", "plain", "square", "centre"), keyed.generator("same"), 128
                ).astype(float)
                - 120
            ).min(axis=2)
            > 70
        )
        for count in COUNTS
    ]
    assert np.array(areas) / areas[0] == pytest.approx([1, 2, 3, 4], rel=0.05)


def test_outlines_stay_within_the_circle_that_is_kept_free() -> None:
    assert set(outlines()) == set(SHAPES)
    for outline in outlines().values():
        assert np.linalg.norm(outline, axis=1).max() < 1 + 1e-9


def test_shards_do_not_depend_on_workers_and_a_rerun_draws_what_is_missing(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    options: dict[str, Any] = {"images": 7, "size": 32, "seed": 5, "shard": 3}
    draw_scenes(one, "web", **options)
    draw_scenes(two, "web", workers=2, **options)
    files = sorted(path.name for path in one.glob("*.tar"))
    assert len(files) == 3
    assert [(two / name).read_bytes() for name in files] == [
        (one / name).read_bytes() for name in files
    ]
    assert read_index(one).sha256 == read_index(two).sha256
    before = (one / files[0]).stat().st_mtime_ns, (one / files[1]).read_bytes()
    (one / files[1]).unlink()
    draw_scenes(one, "web", **options)
    assert ((one / files[0]).stat().st_mtime_ns, (one / files[1]).read_bytes()) == before
    with pytest.raises(ValueError, match="seed: 5 -> 6"):
        draw_scenes(one, "web", **(options | {"seed": 6}))


def test_a_sample_has_its_members_and_a_smaller_set_is_the_beginning() -> None:
    few = SceneShard(part="web", first=0, stop=2, size=32, seed=0)
    many = SceneShard(part="web", first=0, stop=4, size=32, seed=0)
    assert list(scene_samples(few)) == list(scene_samples(many))[:2]
    sample = next(scene_samples(many))
    assert set(sample) == {"__key__", "jpg", "txt", "json", "syn.json"}
    assert len(sample["syn.json"]["syn_text"]) == 5
    held_out = next(scene_samples(SceneShard(part="test", first=0, stop=1, size=32, seed=0)))
    assert set(held_out) == {"__key__", "jpg", "txt", "json"}


def test_the_index_names_readable_shards(tmp_path: Path) -> None:
    draw_scenes(tmp_path, "teaching", images=3, size=32, shard=2)
    index = read_index(tmp_path)
    assert index.num_samples == 3
    keys = []
    for entry in index.entries:
        tar = TarMembers(tmp_path / entry.name)
        keys += [json.loads(tar.read(key, "json"))["uid"] for key in tar.keys]
    assert keys == [f"teaching-{number:07d}" for number in range(3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be >= 1, got 0"),
        ({"size": 16}, "size must be >= 32, got 16"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"shard": 0}, "shard must be >= 1, got 0"),
    ],
)
def test_wrong_options_cost_nothing(options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scenes(tmp_path / "out", "web", **({"images": 3} | options))  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()
