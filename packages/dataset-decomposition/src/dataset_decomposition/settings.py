"""Everything that decides the bytes of a prepared data set, and how big its parts are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dataset_decomposition.decompose import CutRule
from dataset_decomposition.inputs import COMPRESSIONS, Source
from dataset_decomposition.manifest import Format
from dataset_decomposition.tokenizer import Tokenizer, TokenizerSpec, token_dtype

Method = Literal["dd", "concat", "concat_docmask", "bestfit"]
"""`dd` is the paper's, the others are the baselines it compares with."""

MAX_PARTITIONS = 1 << 16
OPENLM_SHARD_ROWS = 1 << 16
OPENLM_SHARD_TOKENS = 1 << 20
_COMPRESSION = 4
"""Bytes of text per stored byte of a compressed file, roughly; only sizes of parts hang on it."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the parts; fixed, because the bytes of the result depend on them.

    Attributes:
        record_tokens: Tokens of one packed record: one tar header for so many.
        shard_tokens: Tokens of one packed shard.
        partition_bytes: Wanted size of what one reduce job shuffles in memory.
        task_bytes: Small input files are grouped up to this size.
        buffer_bytes: Rows that a map job holds back before it spills them.
        pack_tokens: Tokens that a map job collects before it packs them into rows.
    """

    record_tokens: int = 1 << 16
    shard_tokens: int = 1 << 24
    partition_bytes: int = 1 << 28
    task_bytes: int = 1 << 26
    buffer_bytes: int = 1 << 26
    pack_tokens: int = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How documents become rows and rows become shards; travels to every job.

    Attributes:
        method: `dd` cuts each document; the baselines fill rows of the longest bucket.
        rule: How documents are cut.
        text_key: Field or column of the text.
        seed: Keys every random choice.
        format: `packed` records or the official one-row text samples.
        tokenizer: Which tokenizer.
        tokenizer_hash: Its fingerprint when the preparation began.
        vocab_size: Highest id plus one.
        eot_id: Id of the end-of-text token.
        layout: Sizes of the parts.
    """

    method: Method
    rule: CutRule
    text_key: str
    seed: int
    format: Format
    tokenizer: TokenizerSpec
    tokenizer_hash: str
    vocab_size: int
    eot_id: int
    layout: Layout = field(default_factory=Layout)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of stored tokens."""
        return token_dtype(self.vocab_size)

    @property
    def buckets(self) -> range:
        """Exponents of all buckets that can receive rows."""
        if self.method != "dd":
            return range(self.rule.max_bucket, self.rule.max_bucket + 1)
        return range(self.rule.lowest_bucket, self.rule.max_bucket + 1)

    def has_documents(self, bucket: int) -> bool:
        """Whether the rows of a bucket are stored with document numbers, for a document mask."""
        if self.method == "dd":
            return self.rule.tail == "pack" and bucket == self.rule.min_bucket
        return self.method != "concat"

    def rows_per_record(self, bucket: int) -> int:
        """Return how many rows one sample of a shard holds."""
        return 1 if self.format == "openlm" else max(1, self.layout.record_tokens >> bucket)

    def rows_per_shard(self, bucket: int) -> int:
        """Return how many rows a full shard holds; the official rule for `openlm`."""
        if self.format == "openlm":
            return min(OPENLM_SHARD_ROWS, max(1, OPENLM_SHARD_TOKENS >> bucket))
        record = self.rows_per_record(bucket)
        return max(record, (self.layout.shard_tokens >> bucket) // record * record)

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer and make sure that it is still the one the preparation began with.

        Raises:
            ValueError: Its files changed.
        """
        tokenizer = self.tokenizer.load()
        if tokenizer.fingerprint != self.tokenizer_hash:
            raise ValueError(
                f"the files of tokenizer {self.tokenizer.name} changed during the preparation; "
                "restore them or prepare anew with --overwrite"
            )
        return tokenizer


def text_bytes(sources: Sequence[Source]) -> int:
    """Estimate the bytes of text in `sources` from their sizes."""
    return sum(source.size * (_COMPRESSION if _is_compressed(source) else 1) for source in sources)


def _is_compressed(source: Source) -> bool:
    # A plain tar's members may be compressed, and too large an estimate does no harm.
    return source.kind in ("parquet", "tar") or source.path.lower().endswith(COMPRESSIONS)


def count_partitions(sources: Sequence[Source], settings: Settings) -> int:
    """Choose into how many parts each bucket is shuffled, by the size of the inputs only."""
    stored = text_bytes(sources) * settings.dtype.itemsize / len(settings.buckets)
    return min(MAX_PARTITIONS, max(1, math.ceil(stored / settings.layout.partition_bytes)))
