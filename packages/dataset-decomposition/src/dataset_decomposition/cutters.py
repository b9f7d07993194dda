"""What each method makes of the documents of a task: rows, spilled, and their account.

`dd` cuts each document on its own, `concat` and `concat_docmask` glue all and cut, `bestfit` packs
whole documents. A row's partition is drawn from a stream that belongs to a document or to a window
of packed chunks, so nothing depends on which worker does the task.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.accounting import Accounting
from dataset_decomposition.concat import Chunker
from dataset_decomposition.decompose import cut, pieces, remainder
from dataset_decomposition.packing import PackedRows, Packer, document_dtype, run_lengths
from dataset_decomposition.randomness import integers_below, stream, stream_key
from dataset_decomposition.settings import Settings
from dataset_decomposition.spill import SpillWriter
from dataset_decomposition.tokenizer import Tokens

OpenStream = Callable[[], np.random.Philox]
"""Opening a stream costs more than cutting a document, and most documents need none."""

OWNER_BLOCK = 1 << 20
"""Tokens of a document that are numbered at a time, in eight bytes each; rows keep two or four."""


class Cutter(Protocol):
    """Takes a task's documents in order, then `close`."""

    def add(self, tokens: Tokens, open_stream: OpenStream) -> None:
        """Take a document, its end of text included, and how to open its random stream."""
        ...

    def close(self) -> None:
        """Spill what is held back and finish the account."""
        ...


def make_cutter(
    settings: Settings, name: str, num_partitions: int, spill: SpillWriter, account: Accounting
) -> Cutter:
    """Return the cutter of the settings' method.

    Args:
        settings: How documents become rows.
        name: Name of the task, for its random streams.
        num_partitions: Partitions of each bucket.
        spill: Where rows go.
        account: What to keep up to date.
    """
    if settings.method == "dd":
        return _Decomposer(settings, name, num_partitions, spill, account)
    if settings.method == "bestfit":
        return _WholeDocuments(settings, name, num_partitions, spill, account)
    return _Gluer(settings, num_partitions, spill, account)


def _draw_partitions(bits: np.random.Philox | None, bound: int, count: int) -> list[int]:
    """Draw a partition for each of `count` rows; where there is one only, nothing is drawn."""
    if bound == 1 or not count:
        return [0] * count
    assert bits is not None, "several partitions are drawn from the document's stream"
    return integers_below(bits, bound, count).tolist()


class _PackedSpill:
    """Pack chunks and spill their rows, whose partitions follow from the window's number."""

    def __init__(
        self,
        bucket: int,
        settings: Settings,
        name: str,
        num_partitions: int,
        spill: SpillWriter,
        account: Accounting,
    ) -> None:
        self._bucket = bucket
        self._packer = Packer(
            bucket, window_tokens=settings.layout.pack_tokens, fill=settings.eot_id
        )
        self._key = stream_key(settings.seed, "pack", name)
        self._windows = 0
        self._num_partitions = num_partitions
        self._spill = spill
        self._account = account

    def add(self, chunk: NDArray[Any]) -> None:
        self._account.add_chunk(self._bucket, len(chunk))
        self._write(self._packer.push(chunk))

    def close(self) -> None:
        self._write(self._packer.flush())

    def _write(self, windows: Iterable[PackedRows]) -> None:
        for rows in windows:
            bits = stream(self._key, self._windows)
            partitions = integers_below(bits, self._num_partitions, len(rows.tokens)).tolist()
            for row, documents, partition in zip(*rows, partitions, strict=True):
                self._spill.add(self._bucket, row, partition, documents=documents)
            self._windows += 1
            self._account.sequences[self._bucket] += len(rows.tokens)
            self._account.padding += int((rows.documents < 0).sum())


class _Decomposer:
    """Cut each document on its own; with tail `pack` its remainder is packed with others."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        num_partitions: int,
        spill: SpillWriter,
        account: Accounting,
    ) -> None:
        self._rule = settings.rule
        self._draws = num_partitions > 1 or settings.rule.overflow == "random"
        self._num_partitions = num_partitions
        self._spill = spill
        self._account = account
        self._packed: _PackedSpill | None = None
        self._one_document: NDArray[Any] | None = None
        lowest = settings.rule.min_bucket
        if settings.has_documents(lowest):
            self._packed = _PackedSpill(lowest, settings, name, num_partitions, spill, account)
            self._one_document = np.zeros((1 << lowest) + 1, dtype=document_dtype(lowest))

    def add(self, tokens: Tokens, open_stream: OpenStream) -> None:
        bits = open_stream() if self._draws else None
        cuts = cut(len(tokens), self._rule, bits)
        partitions = _draw_partitions(bits, self._num_partitions, len(cuts.buckets))
        for piece, partition in zip(pieces(tokens, cuts), partitions, strict=True):
            self._add_piece(piece.bucket, piece.tokens, partition)
        self._account.sequences.update(cuts.buckets)
        covered, parts = cuts.covered, len(cuts.buckets)
        if self._packed is not None:
            start = remainder(len(tokens), cuts, self._rule)
            if start < len(tokens):
                self._packed.add(tokens[start:])
                covered, parts = len(tokens), parts + 1
        self._account.add_stored(len(tokens), covered=covered, parts=parts)

    def _add_piece(self, bucket: int, row: NDArray[Any], partition: int) -> None:
        documents = self._one_document if bucket == self._rule.min_bucket else None
        self._spill.add(bucket, row, partition, documents=documents)
        self._account.add_chunk(bucket, len(row))

    def close(self) -> None:
        if self._packed is not None:
            self._packed.close()


class _WholeDocuments:
    """Pack whole documents; only those longer than a row are cut, and nothing is dropped."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        num_partitions: int,
        spill: SpillWriter,
        account: Accounting,
    ) -> None:
        rule = settings.rule
        self._width = (1 << rule.max_bucket) + 1
        self._step = self._width - (1 if rule.mode == "overlap1" else 0)
        self._account = account
        self._packed = _PackedSpill(rule.max_bucket, settings, name, num_partitions, spill, account)

    def add(self, tokens: Tokens, open_stream: OpenStream) -> None:
        # With overlap1 a chunk's last token begins the next: the last token needs no chunk.
        shared = self._width - self._step
        starts = range(0, max(len(tokens) - shared, 1), self._step)
        for start in starts:
            self._packed.add(tokens[start : start + self._width])
        self._account.add_stored(len(tokens), covered=len(tokens), parts=len(starts))

    def close(self) -> None:
        self._packed.close()


class _Gluer:
    """Glue the documents of the task and cut every `2^max_bucket` tokens."""

    def __init__(
        self, settings: Settings, num_partitions: int, spill: SpillWriter, account: Accounting
    ) -> None:
        rule = settings.rule
        self._bucket = rule.max_bucket
        self._chunker = Chunker(1 << rule.max_bucket, mode=rule.mode)
        # Cut alike, it says which document each token of a row belongs to.
        self._owners = Chunker(1 << rule.max_bucket, mode=rule.mode)
        self._masked = settings.has_documents(self._bucket)
        self._num_partitions = num_partitions
        self._spill = spill
        self._account = account
        self._number = 0

    def add(self, tokens: Tokens, open_stream: OpenStream) -> None:
        self._account.cut_documents += self._chunker.crosses(len(tokens))
        rows: NDArray[Any] = self._chunker.push(tokens)
        documents = self._documents_of_rows(len(tokens))
        self._number += 1
        bits = open_stream() if self._num_partitions > 1 and len(rows) else None
        partitions = _draw_partitions(bits, self._num_partitions, len(rows))
        for row, numbers, partition in zip(rows, documents, partitions, strict=True):
            self._spill.add(
                self._bucket, row, partition, documents=numbers if self._masked else None
            )
        self._account.sequences[self._bucket] += len(rows)
        if len(rows):
            self._account.add_chunks(self._bucket, run_lengths(documents))

    def _documents_of_rows(self, num_tokens: int) -> NDArray[Any]:
        """Number the documents in the rows that the next document's tokens complete."""
        blocks = (min(OWNER_BLOCK, num_tokens - n) for n in range(0, num_tokens, OWNER_BLOCK))
        owners = (self._owners.push(np.full(n, self._number, dtype=np.int64)) for n in blocks)
        # Documents follow one another, so within a row the differences count from 0 without gaps.
        dtype = document_dtype(self._bucket)
        return np.concatenate([(rows - rows[:, :1]).astype(dtype) for rows in owners])

    def close(self) -> None:
        self._account.kept += self._chunker.covered
        self._account.dropped_tail += self._account.tokens_in - self._chunker.covered
