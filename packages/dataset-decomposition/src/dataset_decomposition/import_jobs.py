"""The jobs of `import-openlm`: each makes one of our shards of as many official ones as fill it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.accounting import Accounting
from dataset_decomposition.manifest import bucket_folder
from dataset_decomposition.official import OfficialBucket, OfficialShard, read_rows
from dataset_decomposition.records import shard_name, write_rows
from dataset_decomposition.settings import Layout


@dataclass(frozen=True)
class ImportTask:
    """The official shards of one of ours.

    Attributes:
        folder: The official bucket.
        bucket: Its exponent.
        number: Our shard's number in the bucket.
        shards: Which to read, in order.
        eot_id: Id of the end of a document.
        vocab_size: Highest id plus one.
        rows_per_record: Rows of one packed record.
    """

    folder: Path
    bucket: int
    number: int
    shards: tuple[OfficialShard, ...]
    eot_id: int
    vocab_size: int
    rows_per_record: int


def plan_import(
    official: Mapping[int, OfficialBucket], layout: Layout, *, eot_id: int, vocab_size: int
) -> dict[str, ImportTask]:
    """List the jobs by key; their split hangs on the manifests alone."""
    return {
        f"D_{bucket}-{number:07d}": ImportTask(
            folder=found.folder,
            bucket=bucket,
            number=number,
            shards=shards,
            eot_id=eot_id,
            vocab_size=vocab_size,
            rows_per_record=max(1, layout.record_tokens >> bucket),
        )
        for bucket, found in official.items()
        for number, shards in enumerate(_groups(found.shards, layout.shard_tokens >> bucket))
    }


def _groups(
    shards: tuple[OfficialShard, ...], most_rows: int
) -> Iterator[tuple[OfficialShard, ...]]:
    """Join neighbouring shards up to `most_rows`; a bigger one stands alone."""
    group: list[OfficialShard] = []
    for shard in shards:
        if group and sum(s.num_sequences for s in (*group, shard)) > most_rows:
            yield tuple(group)
            group = []
        group.append(shard)
    if group:
        yield tuple(group)


def convert_shards(task: ImportTask, folder: Path) -> dict[str, Any]:
    """Do one job: write one of our shards below `folder`, rows in their order.

    Returns:
        The shard's manifest line, its `Accounting` as JSON, and counts: strings that stood for the
        end of a document (`text_ends`), ends of documents (`document_ends`), and rows that go on
        after one (`rows_past_an_end`).
    """
    rows, text_ends = read_rows(
        task.folder, task.shards, eot_id=task.eot_id, vocab_size=task.vocab_size
    )
    shard = write_rows(
        folder / bucket_folder(task.bucket) / f"{shard_name(task.number)}.tar",
        rows,
        number=task.number,
        rows_per_record=task.rows_per_record,
        format="packed",
    )
    ends = rows == task.eot_id
    return {
        "shard": asdict(shard),
        "account": _account(task.bucket, ends).to_json(),
        "text_ends": text_ends,
        "document_ends": int(np.count_nonzero(ends)),
        "rows_past_an_end": int(np.count_nonzero(ends[:, :-1].any(axis=1))),
    }


def _account(bucket: int, ends: NDArray[np.bool_]) -> Accounting:
    """Count rows and the runs of one document's tokens in them; `ends` marks ends, `[n, width]`."""
    account = Accounting(tokens_in=ends.size, kept=ends.size)
    account.sequences[bucket] = len(ends)
    last = ends.copy()
    last[:, -1] = True  # a row's last token ends a run, whether or not the document ends there
    places = np.flatnonzero(last)
    account.add_chunks(bucket, np.diff(places, prepend=-1))
    return account
