"""The demo's pairs, captioner and teachers, and what `reproduce` makes of them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mobileclip import demo_pairs
from mobileclip.claims import BOTH, DR, REAL, judge
from mobileclip.demo_captioner import train_captioner
from mobileclip.demo_data import REINFORCED, SOURCES, TEST, demo_data
from mobileclip.demo_digits import DIGITS
from mobileclip.demo_glyphs import GLYPHS
from mobileclip.demo_mismatch import shuffle_views
from mobileclip.demo_scores import demo_scores, read_names
from mobileclip.models.clip import build_model
from mobileclip.reproduce import GATED, SCALES, Run, Scale, train_student
from mobileclip.stored_online import largest_difference
from mobileclip.verify import verify
from tenfold.results import load_result, save_result
from tenfold.shards import TarMembers, read_index

SMALL = Scale(classes=4, steps=2, teacher_steps=2, arms=GATED)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    demo_data(out, source="digits", classes=4, views=2, teacher_steps=2, captioner_steps=20)
    return out


@pytest.mark.parametrize(("source", "classes"), [("digits", 10), ("glyphs", 30)])
def test_parts_share_no_drawing(source: str, classes: int) -> None:
    parts = {part: SOURCES[source].load(part, classes) for part in ("web", "teaching", "test")}
    assert all(set(drawn.label) == set(range(classes)) for drawn in parts.values())
    assert not set(parts["test"].keys) & (set(parts["web"].keys) | set(parts["teaching"].keys))
    for drawn in parts.values():
        assert drawn.images.shape == (len(drawn.keys), 32, 32)
        assert len(set(drawn.keys)) == len(drawn.keys)


def test_web_captions_are_as_noisy_as_they_say() -> None:
    drawn = DIGITS.load("web", 10)
    captions = demo_pairs.web_captions(DIGITS, drawn, seed=0)
    kinds = Counter(
        "empty"
        if caption in demo_pairs.EMPTY_CAPTIONS
        else "right"
        if drawn.names[label] in caption
        else "wrong"
        for caption, label in zip(captions, drawn.label, strict=True)
    )
    for kind, share in (("wrong", 0.3), ("empty", 0.3), ("right", 0.4)):
        assert kinds[kind] / len(captions) == pytest.approx(share, abs=0.06)
    assert captions == demo_pairs.web_captions(DIGITS, drawn, seed=0)


def test_a_captioner_never_names_a_digit() -> None:
    names = DIGITS.load("test", 10).names
    for name in names:
        said = DIGITS.say(DIGITS.aspects(name))
        assert len(said) == demo_pairs.NUM_CAPTIONS
        assert not any(word in other for word in said for other in names)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("latin small letter e with acute", ("latin small letter", "e", "acute")),
        ("greek capital letter alpha", ("greek capital letter", "alpha", "")),
        ("plus sign", ("sign", "", "")),
        ("digit four", ("symbol", "", "")),
    ],
)
def test_aspects_of_a_character(name: str, told: tuple[str, ...]) -> None:
    assert GLYPHS.aspects(name) == told
    said = GLYPHS.say(told)
    assert len(said) == demo_pairs.NUM_CAPTIONS
    assert name not in said or not told[2]


def test_the_captioner_learns_and_repeats_itself() -> None:
    teaching, test = DIGITS.load("teaching", 10), DIGITS.load("test", 10)
    told = [
        list(train_captioner(DIGITS, teaching, steps=60, seed=1).aspects(test)) for _ in range(2)
    ]
    assert told[0] == told[1]
    right = [
        said == DIGITS.aspects(test.names[label])
        for said, label in zip(told[0], test.label, strict=True)
    ]
    assert np.mean(right) > 0.8


def test_demo_data_are_made_once_and_verify(demo: Path) -> None:
    index = demo / REINFORCED / "index.json"
    made = index.stat().st_mtime_ns
    demo_data(demo, source="digits", classes=4, views=2, teacher_steps=2, captioner_steps=20)
    assert index.stat().st_mtime_ns == made
    assert verify(str(demo / REINFORCED), sample=8) == 0
    with pytest.raises(ValueError, match=r"views 2 -> 3.*another folder"):
        demo_data(demo, source="digits", classes=4, views=3, teacher_steps=2, captioner_steps=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 11}, r"2\.\.10 for digits, got 11"),
        ({"source": "letters"}, "source must be one of digits, glyphs, got letters"),
        ({"views": 0}, "views must be >= 1"),
        ({"seed": -1}, "seed must be >= 0"),
    ],
)
def test_wrong_options_cost_nothing(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        demo_data(tmp_path / "out", **({"source": "digits", "classes": 4} | options))  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()


def test_scores_are_of_names_and_kinds(demo: Path) -> None:
    names = read_names(demo / TEST)
    drawn = DIGITS.load("test", 4)
    assert names == [drawn.names[label] for label in drawn.label]
    scores = demo_scores(build_model("tiny"), demo / TEST, DIGITS)
    assert 0 <= scores.top1 <= 1
    assert 0 <= scores.kind <= 1


def test_shuffled_views_are_the_next_views(demo: Path, tmp_path: Path) -> None:
    shuffle_views(demo / REINFORCED, tmp_path)
    (entry,) = read_index(tmp_path).entries
    before, after = TarMembers(demo / REINFORCED / entry.name), TarMembers(tmp_path / entry.name)
    assert before.keys == after.keys
    for key in before.keys[:20]:
        first, second = json.loads(before.read(key, "paug.json"))["param_aug"]
        assert json.loads(after.read(key, "paug.json"))["param_aug"] == [second, first]
        assert before.read(key, "emb.bin") == after.read(key, "emb.bin")


def test_every_arm_trains_and_stored_equals_online(demo: Path, tmp_path: Path) -> None:
    for arm in SMALL.arms:
        values = train_student(Run(arm=arm, seed=0, size=SMALL, demo=demo), tmp_path)
        assert set(values) == {"top1", "kind", "cpu_s"}
    assert largest_difference(demo, tmp_path / "exact") < 1e-5


def test_claims_hold_by_intervals() -> None:
    good = {REAL: [0.3, 0.4, 0.35], BOTH: [0.7, 0.75, 0.74], DR: [0.9, 0.92, 0.91]}
    values = {"top1": good, "kind": good, "cpu_s": good}
    results = judge(values, [1e-7] * 3, scale="tiny", notes="")
    assert all(result.holds for result in results.values())
    equal = {"top1": good | {DR: [0.71, 0.74, 0.74]}, "kind": good, "cpu_s": good}
    results = judge(equal, [0.0, 1e-3, 0.0], scale="tiny", notes="")
    assert {name: result.holds for name, result in results.items()} == {
        "captions": True,
        "reinforcement": False,
        "storing": False,
    }


@pytest.mark.parametrize(("scale", "kept"), [("tiny", "tiny"), ("glyphs", "small")])
def test_results_of_every_scale_can_be_kept(scale: str, kept: str, tmp_path: Path) -> None:
    values = {"top1": {arm: [0.1, 0.2] for arm in (REAL, BOTH, DR)}}
    for result in judge(values, [0.0, 0.0], scale=scale, notes="").values():
        save_result(result, tmp_path / "result.json")
        assert load_result(tmp_path / "result.json") == result
        assert result.scale == kept
        assert result.command == f"uv run mobileclip reproduce --scale {scale} --seeds 2"


def test_every_scale_has_the_gated_arms() -> None:
    assert all(size.arms[: len(GATED)] == GATED for size in SCALES.values())
    stores = {arm.store for size in SCALES.values() for arm in size.arms}
    assert json.dumps(sorted(stores)) == (
        '["reinforced", "reinforced-one-teacher", "reinforced-shuffled"]'
    )
