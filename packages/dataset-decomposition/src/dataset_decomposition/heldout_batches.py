"""Whole held-out documents as batches of similar length."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dataset_decomposition.module import DocumentBatch


class HeldoutBatches(Dataset[DocumentBatch]):
    """Documents sorted by length, padded within a batch; causal attention never sees the padding.

    Args:
        tokens: All documents, one after the other.
        offsets: int64 `[N + 1]`; document n is `tokens[offsets[n]:offsets[n + 1]]`.
        max_targets: Longest scored part of a document.
        tokens_per_batch: Padded targets of a batch, at most (one document at least).
        at_least: Number of batches, so that each rank has one.

    Raises:
        ValueError: There are fewer documents than that.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        offsets: NDArray[np.int64],
        *,
        max_targets: int,
        tokens_per_batch: int,
        at_least: int = 1,
    ) -> None:
        self.tokens = tokens
        self.offsets = offsets
        self.targets = np.minimum(np.diff(offsets) - 1, max_targets)
        scored = np.flatnonzero(self.targets > 0)
        by_length = scored[np.argsort(self.targets[scored], kind="stable")]
        if by_length.size < at_least:
            raise ValueError(
                f"{by_length.size} held-out documents with two tokens or more cannot give each of "
                f"{at_least} ranks one; prepare with more of them"
            )
        self.batches = list(_packed(by_length, self.targets, tokens_per_batch))
        while len(self.batches) < at_least:
            tokens_per_batch //= 2
            self.batches = list(_packed(by_length, self.targets, tokens_per_batch))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> DocumentBatch:
        documents = self.batches[index]
        lengths = self.targets[documents]
        tokens = np.zeros((documents.size, lengths.max() + 1), dtype=np.int64)
        for row, (document, length) in enumerate(zip(documents, lengths, strict=True)):
            start = self.offsets[document]
            tokens[row, : length + 1] = self.tokens[start : start + length + 1]
        return {
            "tokens": torch.from_numpy(tokens),
            "lengths": torch.from_numpy(lengths),
            "documents": torch.from_numpy(documents),
        }


def _packed(
    by_length: NDArray[np.int64], targets: NDArray[np.int64], tokens_per_batch: int
) -> Iterator[NDArray[np.int64]]:
    """Cut the sorted documents into batches of at most `tokens_per_batch` padded targets."""
    start = 0
    for end in range(1, by_length.size):
        if (end + 1 - start) * targets[by_length[end]] > tokens_per_batch:
            yield by_length[start:end]
            start = end
    if by_length.size:
        yield by_length[start:]
