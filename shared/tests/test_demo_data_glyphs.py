"""Glyphs: published counts, labels, splits, ink, independence of the subset, timeline."""

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from tenfold.demo_data import characters, counting, glyph_faces, glyphs, timeline, unicode_tables

PAGE = Path(__file__).parents[1] / "DEMO_DATA.md"
FEW = ("DejaVuSerif-BoldItalic", "STIXGeneral")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> glyphs.Glyphs:
    """The whole plain set at its smallest, the only full build of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return glyphs.load("all", size=16)


def test_counts_are_the_published_ones(everything: glyphs.Glyphs) -> None:
    alphabet = characters.alphabet()
    words = {word for item in alphabet for word in item.caption.replace("-", " ").split()}
    assert len(glyph_faces.FACES) == 16
    assert len(everything) == 52_572
    assert len(alphabet) == len(set(everything.character_ids.tolist())) == 7_144
    assert len(words) == 2_085


def test_every_image_has_ink_inside_the_frame(everything: glyphs.Glyphs) -> None:
    flat = everything.images.reshape(len(everything), -1)
    assert everything.images.dtype == np.uint8
    assert flat.max(axis=1).min() >= 64
    assert not everything.images[:, [0, -1]].any()
    assert not everything.images[:, :, [0, -1]].any()


def test_drawings_of_one_face_differ(everything: glyphs.Glyphs) -> None:
    rows = everything.face_ids == 0
    images = {image.tobytes() for image in everything.images[rows]}
    # Look-alikes (Latin A, Greek Alpha, ...) are the same drawing, most are not.
    assert len(images) > 0.75 * rows.sum()


def test_pages_tables_are_what_the_code_counts() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in (counting.glyph_table(), counting.timeline_table(), counting.photo_table()):
        assert table in page


def test_splits_are_disjoint_and_complete() -> None:
    parts = {
        split: glyphs.load(split, size=16, faces=FEW, limit=600) for split in get_args(glyphs.Split)
    }
    keys = {
        split: list(zip(part.face_ids.tolist(), part.character_ids.tolist(), strict=True))
        for split, part in parts.items()
    }
    apart = keys["train"] + keys["heldout_faces"] + keys["heldout_characters"]
    assert len(apart) == len(set(apart)) == 600
    assert sorted(apart) == sorted(keys["all"])
    assert all(keys.values())
    unseen = set(parts["heldout_characters"].character_ids.tolist())
    for split in ("train", "heldout_faces"):
        assert not unseen & set(parts[split].character_ids.tolist())
    held = {glyph_faces.FACES[i].name for i in parts["heldout_faces"].face_ids}
    seen = {glyph_faces.FACES[i].name for i in parts["train"].face_ids}
    assert held == {"DejaVuSerif-BoldItalic"}
    assert seen == {"STIXGeneral"}


def test_held_out_characters_are_a_twentieth_and_never_change() -> None:
    held = [item.text for item in characters.alphabet() if item.held_out]
    assert len(held) == 351
    assert held[:3] == list("1y{")


@pytest.mark.parametrize("background", get_args(glyphs.Background))
def test_a_pair_does_not_depend_on_the_others(background: glyphs.Background) -> None:
    one = glyphs.load("all", background=background, faces=FEW[1:], limit=40)
    more = glyphs.load("all", background=background, faces=FEW, limit=4507)
    place = {
        key: row
        for row, key in enumerate(
            zip(more.face_ids.tolist(), more.character_ids.tolist(), strict=True)
        )
    }
    shared = 0
    for row, key in enumerate(zip(one.face_ids.tolist(), one.character_ids.tolist(), strict=True)):
        if key in place:
            shared += 1
            assert np.array_equal(one.images[row], more.images[place[key]])
    assert shared > 10
    assert one.fingerprint != more.fingerprint


def test_photo_drawings_follow_the_seed_and_plain_ones_have_none() -> None:
    a, b, again = (glyphs.load("all", background="photo", limit=20, seed=s) for s in (0, 1, 0))
    assert a.images.shape == (20, 32, 32, 3)
    assert np.array_equal(a.images, again.images)
    assert not np.array_equal(a.images, b.images)
    plain = [glyphs.load("all", limit=20, seed=seed) for seed in (0, 1)]
    assert plain[0].fingerprint == plain[1].fingerprint


def test_paint_changes_the_ink_only_and_stands_out() -> None:
    rng = np.random.default_rng(0)
    ink = glyph_faces.draw("DejaVuSans-Bold", "H", 24)
    for level in (0, 90, 127, 255):
        image = np.full((32, 32, 3), level, dtype=np.uint8)
        glyphs.paint(rng, image, ink, top=3, left=4)
        height, width = ink.coverage.shape
        expected = np.zeros((32, 32), dtype=bool)
        expected[3 : 3 + height, 4 : 4 + width] = ink.coverage > 3
        assert not (image != level).any(axis=2)[~expected].any()
        full = np.zeros((32, 32), dtype=bool)
        full[3 : 3 + height, 4 : 4 + width] = ink.coverage == 255
        colour = np.unique(image[full], axis=0)
        assert len(colour) == 1
        assert np.abs(colour[0].astype(int) - level).sum() > 120


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("É", ("Latin", "Latin-1 Supplement", "Lu", "e", "acute", "upper", 1993)),
        ("ø", ("Latin", "Latin-1 Supplement", "Ll", "o", "stroke", "lower", 1993)),
        ("ǿ", ("Latin", "Latin Extended-B", "Ll", "o", "stroke and acute", "lower", 1993)),
        ("ﬁ", ("Latin", "Alphabetic Presentation Forms", "Ll", "", "", "lower", 1993)),
        ("ǅ", ("Latin", "Latin Extended-B", "Lt", "d", "small letter z with caron", "title", 1993)),
        ("ڹ", ("Arabic", "Arabic", "Lo", "ن", "dot below", "", 1999)),
        (
            "\U0001d400",
            ("Common", "Mathematical Alphanumeric Symbols", "Lu", "a", "", "upper", 2001),
        ),
        ("♞", ("Common", "Miscellaneous Symbols", "So", "", "", "", 1993)),
        ("⠿", ("Braille", "Braille Patterns", "So", "", "", "", 1999)),
    ],
)
def test_labels_of_known_characters(text: str, expected: tuple[object, ...]) -> None:
    item = characters.describe(text)
    found = (item.script, item.block, item.category, item.base, item.diacritic, item.case)
    assert (*found, item.year) == expected
    assert item.caption == unicodedata.name(text).lower()


def test_label_ids_name_the_right_class() -> None:
    drawn = glyphs.load("all", size=16, limit=200)
    alphabet = characters.alphabet()
    texts = [alphabet[index] for index in drawn.character_ids]
    assert drawn.captions == [item.caption for item in texts]
    for label in ("script", "block", "category", "base", "diacritic", "case"):
        ids, names = drawn.labels(label)
        assert [names[i] if i >= 0 else "" for i in ids] == [getattr(t, label) for t in texts]
    ids, names = drawn.labels("step")
    assert [names[i] for i in ids] == [str(timeline.STEPS[timeline.step(t.text)]) for t in texts]
    faces = [glyph_faces.FACES[index] for index in drawn.face_ids]
    ids, names = drawn.labels("face")
    assert [names[i] for i in ids] == [face.name for face in faces]
    ids, names = drawn.labels("family")
    assert [names[i] for i in ids] == [face.family for face in faces]
    assert set(drawn.labels("weight").names) == {"bold", "regular"}
    assert set(drawn.labels("slant").names) == {"italic", "upright"}
    assert len(drawn.labels("character").names) == 7_144


def test_label_names_are_the_same_for_every_subset() -> None:
    few, more = (glyphs.load("all", size=16, limit=limit) for limit in (5, 50))
    for label in get_args(glyphs.Label):
        assert few.labels(label).names == more.labels(label).names


def test_fit_shrinks_what_is_too_large() -> None:
    assert max(glyph_faces.draw("DejaVuSans", "⟺", 64).coverage.shape) > 60
    for side in (8, 20, 40):
        extent = max(glyph_faces.fit("DejaVuSans", "⟺", 64, side).coverage.shape)
        assert side / 2 < extent <= side
    untouched = glyph_faces.fit("DejaVuSans", "⟺", 12, 40)
    assert np.array_equal(untouched.coverage, glyph_faces.draw("DejaVuSans", "⟺", 12).coverage)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"split": "test"}, "split must be one of train, heldout_faces, .*, got 'test'"),
        ({"background": "sky"}, "background must be one of plain, photo, got 'sky'"),
        ({"size": 8}, "size must be 16 to 128 pixels, got 8"),
        ({"limit": 0}, "limit must be >= 1, got 0"),
        ({"faces": ["Comic"]}, "unknown face 'Comic': choose from DejaVuSans, "),
    ],
)
def test_bad_input(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        glyphs.load(**arguments)


def test_unknown_label_and_character() -> None:
    with pytest.raises(ValueError, match="unknown label 'colour': choose one of character"):
        glyphs.load("all", size=16, limit=5).labels("colour")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="one character with a Unicode name, got 'ab'"):
        characters.describe("ab")


def test_timeline_counts_are_the_published_ones() -> None:
    texts = [item.text for item in characters.alphabet()]
    years = Counter(timeline.year(text) for text in texts)
    assert [years[y] for y in (1993, 1999, 2001, 2002, 2003, 2005, 2006, 2008, 2009, 2010)] == [
        3313, 792, 1028, 721, 306, 243, 121, 325, 61, 140
    ]  # fmt: skip
    assert timeline.counts(texts) == [3316, 792, 1028, 721, 549, 446, 292]
    assert sum(timeline.counts(texts)) == 7_144
    assert str(timeline.STEPS[1]) == "1999"
    assert str(timeline.STEPS[4]) == "2003-2005"


def test_timeline_of_known_characters() -> None:
    known = {"a": 1993, "€": 1998, "⠿": 1999, "\U0001d400": 2001, "ẞ": 2008, "₽": 2014}
    assert {text: timeline.year(text) for text in known} == known
    assert [timeline.step(text) for text in "a€⠿\U0001d400ẞ"] == [0, 0, 1, 2, 5]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: timeline.year("ab"), "expected one character, got 'ab'"),
        (lambda: timeline.year("\u0378"), r"not assigned U\+0378"),
        (lambda: timeline.step("🦀"), r"U\+1F980 came in 2015, after the last step \(2009-2014\)"),
    ],
)
def test_timeline_refuses_what_has_no_step(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_range_tables_are_sorted_and_know_their_edges() -> None:
    for name in ("blocks.tsv", "scripts.tsv", "unicode_age.tsv"):
        table = unicode_tables._ranges(name)
        assert all(a <= b for a, b in zip(table.first, table.last, strict=True))
        assert all(b < a for b, a in zip(table.last, table.first[1:], strict=False))
    assert unicode_tables.block("\x7f") == "Basic Latin"
    assert unicode_tables.block("\x80") == "Latin-1 Supplement"
    assert unicode_tables.script("\u0378") == "Unknown"
    assert unicode_tables.block("\U0002fe00") == "No_Block"
    assert unicode_tables.year("\u0378") is None
