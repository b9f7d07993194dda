"""Why samples are rejected, counted by kind, and when a reader must give up. Free of torch."""

import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tenfold.shards import ShardError
from tenfold.shards.samples import BadSampleError

logger = logging.getLogger(__name__)

Kind = Literal["missing", "undecodable", "captions", "views", "crop box", "embeddings"]
_CHECKED = get_args(Kind)[2:]

MIN_SEEN = 1000
"""Samples after which the share of rejected ones says something."""


class RejectedSampleError(BadSampleError):
    """A sample whose members are all there and decode, but do not fit together."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")


def kind_of(reason: str) -> Kind:
    """Return the kind of a reason, as it stands in the error and in the quarantine."""
    for kind in _CHECKED:
        if reason.startswith(f"{kind}: "):
            return kind
    return "missing" if "missing" in reason else "undecodable"


def count_rejections(quarantine: Path, data: str) -> Counter[str]:
    """Count the samples noted in a quarantine file, by kind.

    Args:
        quarantine: The file; need not exist.
        data: Digest of the index whose samples are counted.
    """
    if not quarantine.is_file():
        return Counter()
    lines = map(json.loads, quarantine.read_text(encoding="utf-8").splitlines())
    return Counter(kind_of(line["reason"]) for line in lines if line["data"] == data)


@dataclass
class RejectionBudget:
    """What one process has read: it stops early where most samples of large data are bad.

    The quarantine bounds the rejected share of all samples; on a billion samples it would let a
    reader crawl through hundreds of millions of bad ones first.

    Attributes:
        max_fraction: Largest accepted share of rejected samples.
        seen: Samples read.
        rejected: Rejected ones, by kind.
    """

    max_fraction: float
    seen: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def accept(self) -> None:
        """Count a good sample."""
        self.seen += 1

    def reject(self, reason: str) -> None:
        """Count a bad sample.

        Raises:
            ShardError: Too many of the samples read so far are bad; says why they are.
        """
        self.seen += 1
        self.rejected[kind_of(reason)] += 1
        total = self.rejected.total()
        if self.seen >= MIN_SEEN and total > self.max_fraction * self.seen:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.rejected.most_common())
            raise ShardError(
                f"{total} of the first {self.seen} samples are rejected ({kinds}), more than "
                f"max_bad_fraction={self.max_fraction}; the latest: {reason}"
            )
