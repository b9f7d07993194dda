"""First phase: read documents, tokenize, cut, and spill each row to its bucket and partition.

One job is one big input file or a group of small ones. A row's partition is drawn from its
document's own random stream, so nothing depends on which worker did the job.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.accounting import Accounting
from dataset_decomposition.concat import Chunker
from dataset_decomposition.decompose import cut, pieces
from dataset_decomposition.inputs import Source
from dataset_decomposition.randomness import integers_below, stream, stream_key
from dataset_decomposition.readers import BadDocument, TextDocument, read_documents
from dataset_decomposition.settings import Settings
from dataset_decomposition.spill import SpillWriter
from dataset_decomposition.tokenizer import Tokenizer, Tokens

BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 256


@dataclass(frozen=True)
class MapTask:
    """The input files of one job, and where below the output folder its rows go."""

    sources: tuple[Source, ...]
    spill: str
    num_partitions: int
    settings: Settings


def map_documents(task: MapTask, folder: Path) -> dict[str, Any]:
    """Do one job: spill its rows below `folder`, return its `Accounting` as JSON."""
    settings = task.settings
    tokenizer = settings.load_tokenizer()
    account = Accounting()
    with SpillWriter(
        folder / task.spill,
        num_partitions=task.num_partitions,
        buffer_bytes=settings.layout.buffer_bytes,
    ) as spill:
        cutter = (_Decomposer if settings.method == "dd" else _Gluer)(task, spill, account)
        for source in task.sources:
            key = stream_key(settings.seed, "document", source.name)
            for index, tokens in tokenized(source, tokenizer, settings.text_key, account):
                cutter.add(tokens, stream(key, index))
        cutter.close()
    return account.to_json()


def tokenized(
    source: Source, tokenizer: Tokenizer, text_key: str, account: Accounting
) -> Iterator[tuple[int, Tokens]]:
    """Yield the usable documents of a source as tokens with end of text, and count all of them.

    Yields:
        The document's index among everything met in the source, and its tokens.
    """
    for batch in _batches(read_documents(source, text_key=text_key), account):
        encoded = tokenizer.encode([document.text for _, document in batch])
        for (index, document), tokens in zip(batch, encoded, strict=True):
            if len(tokens) == 1:
                account.add_bad("empty_text", document.place)
            else:
                account.add_document(len(tokens))
                yield index, tokens


def _batches(
    documents: Iterator[TextDocument | BadDocument], account: Accounting
) -> Iterator[list[tuple[int, TextDocument]]]:
    batch: list[tuple[int, TextDocument]] = []
    characters = 0
    for index, document in enumerate(documents):
        if isinstance(document, BadDocument):
            account.add_bad(document.kind, document.place)
            continue
        batch.append((index, document))
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Cutter(Protocol):
    def __init__(self, task: MapTask, spill: SpillWriter, account: Accounting) -> None: ...
    def add(self, tokens: Tokens, bits: np.random.Philox) -> None: ...
    def close(self) -> None: ...


class _Decomposer(_Cutter):
    """Cut each document on its own."""

    def __init__(self, task: MapTask, spill: SpillWriter, account: Accounting) -> None:
        self._rule = task.settings.rule
        self._num_partitions = task.num_partitions
        self._spill = spill
        self._account = account

    def add(self, tokens: Tokens, bits: np.random.Philox) -> None:
        cuts = cut(len(tokens), self._rule, bits)
        self._account.kept += cuts.covered
        if cuts.buckets:
            self._account.dropped_tail += len(tokens) - cuts.covered
        else:
            self._account.dropped_short += len(tokens)
        self._account.sequences.update(cuts.buckets)
        partitions = integers_below(bits, self._num_partitions, len(cuts.buckets))
        for piece, partition in zip(pieces(tokens, cuts), partitions.tolist(), strict=True):
            self._spill.add(piece.bucket, piece.tokens, partition)

    def close(self) -> None:
        pass


class _Gluer(_Cutter):
    """Glue the documents of the task and cut every `2^max_bucket` tokens."""

    def __init__(self, task: MapTask, spill: SpillWriter, account: Accounting) -> None:
        rule = task.settings.rule
        self._bucket = rule.max_bucket
        self._chunker = Chunker(1 << rule.max_bucket, mode=rule.mode)
        self._num_partitions = task.num_partitions
        self._spill = spill
        self._account = account

    def add(self, tokens: Tokens, bits: np.random.Philox) -> None:
        rows: NDArray[Any] = self._chunker.push(tokens)
        partitions = integers_below(bits, self._num_partitions, len(rows))
        for row, partition in zip(rows, partitions.tolist(), strict=True):
            self._spill.add(self._bucket, row, partition)
        self._account.sequences[self._bucket] += len(rows)

    def close(self) -> None:
        self._account.kept += self._chunker.covered
        self._account.dropped_tail += self._account.tokens_in - self._chunker.covered
