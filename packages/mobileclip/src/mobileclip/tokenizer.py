"""Byte-pair tokens of CLIP; the vocabulary comes with open_clip."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor


def tokenize(texts: Sequence[str], *, context_length: int = 77) -> Tensor:
    """Turn texts into token ids.

    Each row is start, tokens, end, zeros. Longer texts lose their last tokens, never the end.

    Args:
        texts: n texts, any of them may be empty.
        context_length: L, ids a text, at least 2.

    Returns:
        int64 `[n, L]`.

    Raises:
        ValueError: `texts` is one text or holds something else, or L is below 2.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts must be a list of str, got {texts!r:.60}")
    if context_length < 2:
        raise ValueError(f"context_length must be >= 2 (start and end), got {context_length}")
    return _tokenizer()(list(texts), context_length=context_length)


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
