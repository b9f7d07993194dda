"""Text members in each published form."""

import json
from typing import Any

import pytest

from mobileclip.members import real_captions, stored_views, synthetic_captions, uid_of

VIEWS = [[[0, 1, 2, 3], [[1, 0.3], [2, -0.1]]], [[1, 1, 2, 3], None]]


@pytest.mark.parametrize("value", [VIEWS, json.dumps(VIEWS)], ids=["trainer", "release"])
def test_views_are_a_list_or_a_string_of_it(value: Any) -> None:
    assert stored_views({"param_aug": value}) == VIEWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "list of views, got None"),
        ([], "list of views, got None"),
        ({"param_aug": []}, r"got \[\]"),
        ({"param_aug": "[[1,"}, "a string but no JSON"),
        ({"param_aug": "3"}, "list of views, got 3"),
        ({"param_aug": [None]}, "a list of its steps"),
    ],
)
def test_bad_views(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stored_views(content)


def test_synthetic_captions_by_key() -> None:
    content = {"syn_text_b": ["x"], "syn_text": ["y", "z"], "other": 3, "no_syn_text": ["n"]}
    assert synthetic_captions(content) == {"syn_text": ("y", "z"), "syn_text_b": ("x",)}
    assert synthetic_captions(content, pattern=".*_b$") == {"syn_text_b": ("x",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be an object, got list"),
        ({"text": ["x"]}, r"no key like \^syn_text\.\*\$, only \['text'\]"),
        ({"syn_text": "x"}, "list of strings"),
        ({"syn_text": [1]}, "list of strings"),
    ],
)
def test_bad_synthetic_captions(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_captions(content)


def test_real_captions_and_uids() -> None:
    assert real_captions("a") == ("a",)
    assert real_captions(["a", "b"]) == ("a", "b")
    with pytest.raises(ValueError, match="string or a list"):
        real_captions(3)
    assert uid_of("key", {"uid": "u"}) == "u"
    assert [uid_of("key", about) for about in (None, {}, {"uid": ""}, [])] == ["key"] * 4
