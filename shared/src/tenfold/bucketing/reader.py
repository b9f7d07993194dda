"""What a stream asks of a data format: random access to the rows of one bucket. Needs no torch."""

from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Batch_co = TypeVar("Batch_co", covariant=True)


class BadRecordError(Exception):
    """A reader cannot decode one record.

    Attributes:
        row: The row that is bad, one of those asked for.
        reason: What is wrong with it, for the log: file and key help most.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(row, reason)
        self.row = row
        self.reason = reason


class Reader(Protocol[Batch_co]):
    """Random access to the rows of one bucket. Travels to loader workers, so it must pickle."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def read(self, rows: NDArray[np.int64]) -> Batch_co:
        """Return the batch of these rows, int64[k], in this order.

        Raises:
            BadRecordError: A record is damaged. Other errors end the run.
        """
        ...
