"""First phase: read documents, tokenize, cut, and spill each row to its bucket and partition.

One job is one big input file or a group of small ones; `cutters` says what each method does with
its documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataset_decomposition.accounting import Accounting
from dataset_decomposition.cutters import make_cutter
from dataset_decomposition.documents import BadDocument, TextDocument
from dataset_decomposition.inputs import Source
from dataset_decomposition.randomness import stream, stream_key
from dataset_decomposition.readers import read_documents
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
        name = task.sources[0].name
        cutter = make_cutter(settings, name, task.num_partitions, spill, account)
        for source in task.sources:
            key = stream_key(settings.seed, "document", source.name)
            for index, tokens in tokenized(source, tokenizer, settings.text_key, account):
                cutter.add(tokens, partial(stream, key, index))
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
