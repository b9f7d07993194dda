"""CLIP's tokens."""

import open_clip
import pytest
import torch

from mobileclip.tokenizer import tokenize

TEXTS = ["a photo of a dog", "", "Voilà: LATIN SMALL LETTER E WITH ACUTE &amp; 12 %", "cat " * 200]


@pytest.mark.parametrize("length", [77, 16])
def test_tokens_are_open_clips(length):
    expected = open_clip.get_tokenizer("ViT-B-16")(TEXTS, context_length=length)
    tokens = tokenize(TEXTS, context_length=length)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, expected)


def test_long_texts_keep_their_end():
    tokens = tokenize(TEXTS, context_length=8)
    assert tokens.shape == (4, 8)
    assert tokens[:, 0].tolist() == [49406] * 4
    assert tokens.amax(dim=1).tolist() == [49407] * 4
    assert tokens[3, -1] == 49407
    assert tokens[1].tolist() == [49406, 49407, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("texts", "length", "message"),
    [
        ("a dog", 77, "texts must be a list of str, got 'a dog'"),
        (["a", 3], 77, "texts must be a list of str"),
        ([b"a"], 77, "texts must be a list of str"),
        (["a"], 1, "context_length must be >= 2"),
    ],
)
def test_wrong_texts_are_refused(texts, length, message):
    with pytest.raises(ValueError, match=message):
        tokenize(texts, context_length=length)
