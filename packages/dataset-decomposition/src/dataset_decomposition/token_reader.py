"""Rows of one bucket as the batches that are trained on."""

import numpy as np
import torch
from numpy.typing import NDArray

from dataset_decomposition.module import TrainBatch
from dataset_decomposition.records import BucketReader
from tenfold.bucketing import BadRecordError


class TokenReader:
    """Rows of one bucket as a batch; what `BucketStream` reads through.

    Args:
        key: The bucket's name.
        reader: Its records.
        vocab_size: Ids that the data's tokenizer has.
        target_share: Mean share of the predicted positions that are targets; needed where the
            records number documents.
    """

    def __init__(
        self, key: str, reader: BucketReader, *, vocab_size: int, target_share: float = 1.0
    ) -> None:
        self.key = key
        self.reader = reader
        self.vocab_size = vocab_size
        self.target_share = target_share

    def __len__(self) -> int:
        return self.reader.num_rows

    def read(self, rows: NDArray[np.int64]) -> TrainBatch:
        """Return the batch of `rows`.

        Raises:
            BadRecordError: A record is damaged, or has an id that the tokenizer has not.
        """
        tokens = self.reader.read(rows)
        if tokens.max() >= self.vocab_size:
            row = int(rows[tokens.max(axis=1).argmax()])
            reason = f"{self.reader.folder} row {row}: id {tokens.max()} of {self.vocab_size}"
            raise BadRecordError(row, f"{reason}; `verify --deep` finds what else is damaged")
        batch: TrainBatch = {
            "tokens": torch.from_numpy(tokens.astype(np.int64)),
            "keys": [f"{self.key}/{row}" for row in rows.tolist()],
        }
        if self.reader.has_documents:
            documents = self.reader.read_documents(rows)
            batch["documents"] = torch.from_numpy(documents.astype(np.int32))
            batch["mean_targets"] = self.target_share * rows.size * self.reader.seq_len
        return batch
