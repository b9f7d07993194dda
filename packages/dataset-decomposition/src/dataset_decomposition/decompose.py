"""Cut one document into power-of-two pieces (arXiv 2405.13226, section 2.1).

A stored piece of bucket `k` has `2^k + 1` tokens: input `x[:-1]` and target `x[1:]`. Two
conventions for where the next piece starts are offered, see `CutRule.mode`. Pure functions on token
arrays; nothing here knows files or tokenizers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Mode = Literal["disjoint", "overlap1"]
Overflow = Literal["greedy", "random"]
Tail = Literal["drop", "keep-small", "pack"]

LONGEST_BUCKET = 24
"""Rows of 2^24 tokens: far beyond any context length, and a guard against `--max_bucket 8192`."""


@dataclass(frozen=True, kw_only=True)
class CutRule:
    """How documents are cut.

    Attributes:
        min_bucket: Exponent of the shortest bucket that is trained on.
        max_bucket: Exponent of the longest bucket.
        mode: `disjoint` (official code): the next piece starts after the last stored token, so the
            first token of each later piece is never a target. `overlap1`: it starts at the last
            stored token, so every token but the document's first is a target exactly once.
        overflow: For a remainder longer than the longest bucket: `greedy` (paper) takes the longest
            bucket; `random` (default of the official code) draws bucket `k` with probability
            proportional to `2^(max_bucket - k)`, which gives every bucket the same expected tokens.
        tail: For a remainder shorter than the shortest bucket: `drop` (official; counted here),
            `keep-small`, which goes on cutting down to `2^0`, or `pack`: no piece here, `remainder`
            says what to pack with the remainders of other documents.

    Raises:
        ValueError: The buckets are not `0 <= min_bucket <= max_bucket <= 24`, or a name is unknown.
    """

    min_bucket: int = 8
    max_bucket: int = 13
    mode: Mode = "disjoint"
    overflow: Overflow = "greedy"
    tail: Tail = "drop"

    def __post_init__(self) -> None:
        """Refuse impossible rules."""
        if not 0 <= self.min_bucket <= self.max_bucket <= LONGEST_BUCKET:
            raise ValueError(
                f"buckets must satisfy 0 <= min_bucket <= max_bucket <= {LONGEST_BUCKET} (they are "
                f"exponents of two), got min_bucket {self.min_bucket}, max_bucket {self.max_bucket}"
            )
        for name, kind in (("mode", Mode), ("overflow", Overflow), ("tail", Tail)):
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(get_args(kind))
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")

    @property
    def lowest_bucket(self) -> int:
        """Exponent of the shortest bucket that can receive pieces."""
        return 0 if self.tail == "keep-small" else self.min_bucket


class Cuts(NamedTuple):
    """Where a document is cut.

    Attributes:
        starts: First token of each piece, in document order.
        buckets: Exponent of each piece; it holds tokens `start : start + 2^bucket + 1`.
        covered: Number of the document's tokens that are stored in at least one piece. They are
            its first `covered` tokens, in both modes.
    """

    starts: list[int]
    buckets: list[int]
    covered: int


class Piece(NamedTuple):
    """One piece: its bucket and a view of its `2^bucket + 1` tokens."""

    bucket: int
    tokens: NDArray[Any]


def cut(num_tokens: int, rule: CutRule, bits: np.random.Philox | None = None) -> Cuts:
    """Choose the pieces of a document of `num_tokens` tokens, the end-of-text token included.

    Source: paper section 2.1 for the greedy rule; the official preparation script for the rest.

    Raises:
        ValueError: `rule.overflow` is `random` and a draw is needed, but `bits` is None.
    """
    starts: list[int] = []
    buckets: list[int] = []
    position = 0
    gap = 1 if rule.mode == "disjoint" else 0
    shortest = 1 << rule.lowest_bucket
    while (predictable := num_tokens - position - 1) >= shortest:
        bucket = predictable.bit_length() - 1
        if bucket > rule.max_bucket:
            bucket = rule.max_bucket if rule.overflow == "greedy" else _draw_bucket(rule, bits)
        starts.append(position)
        buckets.append(bucket)
        position += (1 << bucket) + gap
    covered = position + 1 - gap if starts else 0
    return Cuts(starts, buckets, covered)


def remainder(num_tokens: int, cuts: Cuts, rule: CutRule) -> int:
    """Return the first token of what the pieces leave over; `num_tokens` if that is nothing.

    With `overlap1` it begins with the last stored token, as a further piece would, so that every
    token behind it is a target; what has no target is nothing.
    """
    shared = 1 if cuts.starts and rule.mode == "overlap1" else 0
    start = cuts.covered - shared
    return start if num_tokens - start >= 2 else num_tokens


def _draw_bucket(rule: CutRule, bits: np.random.Philox | None) -> int:
    if bits is None:
        raise ValueError("overflow 'random' needs the document's random stream, got bits=None")
    width = rule.max_bucket - rule.min_bucket + 1
    # A uniform integer in [1, 2^width) has bit length m with weight 2^(m-1): exactly the odds.
    while not (draw := int(bits.random_raw()) >> (64 - width)):
        pass
    return rule.max_bucket + 1 - draw.bit_length()


def bucket_length(bucket: int) -> int:
    """Return how many tokens a row of a bucket predicts; it stores one more."""
    return 1 << bucket


def overflow_odds(rule: CutRule) -> dict[int, float]:
    """Return the probability of each bucket when a remainder is too long, by exponent."""
    if rule.overflow == "greedy":
        return {rule.max_bucket: 1.0}
    buckets = range(rule.min_bucket, rule.max_bucket + 1)
    total = (1 << len(buckets)) - 1
    return {bucket: (1 << (rule.max_bucket - bucket)) / total for bucket in buckets}


def pieces(tokens: NDArray[Any], cuts: Cuts) -> Iterator[Piece]:
    """Yield views of a document's pieces; `tokens` is 1-D and ends with the end-of-text token."""
    for start, bucket in zip(cuts.starts, cuts.buckets, strict=True):
        yield Piece(bucket, tokens[start : start + (1 << bucket) + 1])


def decompose(
    tokens: NDArray[Any], rule: CutRule, bits: np.random.Philox | None = None
) -> list[Piece]:
    """Cut a document, as an array of token ids, into its pieces in document order."""
    return list(pieces(tokens, cut(len(tokens), rule, bits)))
