"""Full batches from samples of few items each."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

S = TypeVar("S")
Item = TypeVar("Item")


def encode_across(
    samples: Iterable[S],
    items: Callable[[S], Sequence[Item]],
    encode: Callable[[list[Item]], Tensor],
    *,
    batch: int,
) -> Iterator[tuple[S, Tensor]]:
    """Yield each sample with one row for each of its items.

    Items of consecutive samples share a batch; samples come in their order, and no more are read
    than a batch needs.

    Args:
        samples: The samples.
        items: Items of one sample; there may be none.
        encode: From n items to `[n, ...]`.
        batch: Items that are encoded at once; fewer at the end only.
    """
    waiting: deque[tuple[S, int]] = deque()

    def all_items() -> Iterator[Item]:
        for sample in samples:
            own = items(sample)
            waiting.append((sample, len(own)))
            yield from own

    source = all_items()
    rows: deque[Tensor] = deque()
    empty = torch.empty(0)
    while part := list(islice(source, batch)):
        encoded = encode(part)
        empty = encoded[:0]
        rows.extend(encoded)
        while waiting and waiting[0][1] <= len(rows):
            yield _take(waiting, rows, empty)
    while waiting:
        yield _take(waiting, rows, empty)


def _take(waiting: deque[tuple[S, int]], rows: deque[Tensor], empty: Tensor) -> tuple[S, Tensor]:
    sample, count = waiting.popleft()
    own = [rows.popleft() for _ in range(count)]
    return sample, torch.stack(own) if own else empty
