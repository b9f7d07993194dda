"""How `classify` takes its labels apart; the verb itself is tested in `test_export.py`."""

import pytest

from mobileclip.classify import split_labels


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["cat,dog"], ["cat", "dog"]),
        (["cat, red car,"], ["cat", "red car"]),
        (['cat,"a dog, asleep"'], ["cat", "a dog, asleep"]),
        (["a dog, asleep", " cat"], ["a dog, asleep", "cat"]),
        (['a 5" screen,cat'], ['a 5" screen', "cat"]),
    ],
)
def test_one_word_is_split_at_commas_and_several_stay_whole(
    words: list[str], labels: list[str]
) -> None:
    assert split_labels(words) == labels


def test_a_quotation_that_does_not_end_is_named() -> None:
    with pytest.raises(ValueError, match="cannot be split at commas: unexpected end of data"):
        split_labels(['cat,"a dog'])


@pytest.mark.parametrize("words", [["cat"], ["cat,cat"], [","], ["cat", "cat"]])
def test_labels_that_cannot_be_told_apart(words: list[str]) -> None:
    with pytest.raises(ValueError, match="two or more different ones"):
        split_labels(words)
