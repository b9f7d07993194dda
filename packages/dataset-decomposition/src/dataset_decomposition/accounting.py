"""Where every document and every token went.

The identity, to the token: `tokens_in == kept + dropped_tail + dropped_short`, where

* `tokens_in` counts the tokens of all usable documents, the end-of-text token of each included;
* `kept` counts those stored in at least one row. With mode `disjoint` that is all stored tokens;
  with `overlap1` the token that two neighbouring rows share counts once;
* `dropped_short` counts the tokens of documents that gave no row at all;
* `dropped_tail` counts the tokens behind the last row of documents that gave some. For
  concat-and-chunk, where rows know no documents, it is what is left at the end of each task; with
  tail `pack` it is single tokens, which predict nothing and are predicted by nothing.

A chunk is a run of one document's tokens in one row; chunks of a single token count for nothing.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PLACES = 5


@dataclass
class Accounting:
    """Counts of one task, or of all.

    Attributes:
        documents: Everything met in the inputs, usable or not.
        bad: Unusable documents by kind; `empty_text` has nothing to train on, others failed.
        tokens_in: See the module's identity, as for the next three.
        kept: Tokens stored.
        dropped_tail: Tokens behind the last row.
        dropped_short: Tokens of documents without a row.
        sequences: Rows by bucket exponent.
        targets: Targets that a token of the same document precedes in the row, by bucket.
        padding: Positions of rows that hold no token.
        chunks: Runs of one document's tokens in one row.
        contexts: Over those targets, the sum of how many others of the chunk stand before.
        cut_documents: Documents that lie in several rows, or only in part.
        lengths: Usable documents by `floor(log2(tokens))`.
        bad_places: The first bad documents, as `kind at file:line`.
    """

    documents: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    kept: int = 0
    dropped_tail: int = 0
    dropped_short: int = 0
    sequences: Counter[int] = field(default_factory=Counter)
    targets: Counter[int] = field(default_factory=Counter)
    padding: int = 0
    chunks: int = 0
    contexts: int = 0
    cut_documents: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    bad_places: list[str] = field(default_factory=list)

    def add_bad(self, kind: str, place: str) -> None:
        """Count a document that cannot be used."""
        self.documents += 1
        self.bad[kind] += 1
        if len(self.bad_places) < MAX_PLACES:
            self.bad_places.append(f"{kind} at {place}")

    def add_document(self, num_tokens: int) -> None:
        """Count a usable document of `num_tokens` tokens, end of text included."""
        self.documents += 1
        self.tokens_in += num_tokens
        self.lengths[num_tokens.bit_length() - 1] += 1

    def add_chunk(self, bucket: int, num_tokens: int) -> None:
        """Count one chunk of `num_tokens` tokens in a row of a bucket."""
        if num_tokens > 1:
            self.targets[bucket] += num_tokens - 1
            self.chunks += 1
            self.contexts += (num_tokens - 1) * (num_tokens - 2) // 2

    def add_chunks(self, bucket: int, num_tokens: NDArray[np.int64]) -> None:
        """Count chunks of `num_tokens` tokens each, int64 `[n]`, in rows of a bucket."""
        targets = num_tokens[num_tokens > 1] - 1
        self.targets[bucket] += int(targets.sum())
        self.chunks += len(targets)
        self.contexts += int((targets * (targets - 1) // 2).sum())

    def add_stored(self, num_tokens: int, *, covered: int, parts: int) -> None:
        """Count a document of which the first `covered` tokens are stored in `parts` chunks."""
        self.kept += covered
        if parts:
            self.dropped_tail += num_tokens - covered
            self.cut_documents += parts > 1 or covered < num_tokens
        else:
            self.dropped_short += num_tokens

    @property
    def num_bad(self) -> int:
        """Number of documents that cannot be used."""
        return sum(self.bad.values())

    @property
    def balanced(self) -> bool:
        """Whether the identity of tokens holds."""
        return self.tokens_in == self.kept + self.dropped_tail + self.dropped_short

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, keys sorted."""
        return {
            "documents": {
                "in": self.documents,
                "usable": self.documents - self.num_bad,
                "empty": self.bad["empty_text"],
                "failed": {k: n for k, n in sorted(self.bad.items()) if k != "empty_text"},
            },
            "tokens": {
                "in": self.tokens_in,
                "kept": self.kept,
                "dropped_tail": self.dropped_tail,
                "dropped_short": self.dropped_short,
            },
            "sequences": {str(k): n for k, n in sorted(self.sequences.items())},
            "targets": {str(k): n for k, n in sorted(self.targets.items())},
            "packing": {
                "padding": self.padding,
                "chunks": self.chunks,
                "contexts": self.contexts,
                "cut_documents": self.cut_documents,
            },
            "document_lengths_log2": {str(k): n for k, n in sorted(self.lengths.items())},
            "bad_places": self.bad_places,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Accounting":
        """Read what `to_json` wrote."""
        documents, tokens = value["documents"], value["tokens"]
        bad = Counter(documents["failed"])
        if documents["empty"]:
            bad["empty_text"] = documents["empty"]
        return cls(
            documents=documents["in"],
            bad=bad,
            tokens_in=tokens["in"],
            kept=tokens["kept"],
            dropped_tail=tokens["dropped_tail"],
            dropped_short=tokens["dropped_short"],
            sequences=Counter({int(k): n for k, n in value["sequences"].items()}),
            targets=Counter({int(k): n for k, n in value["targets"].items()}),
            **value["packing"],
            lengths=Counter({int(k): n for k, n in value["document_lengths_log2"].items()}),
            bad_places=list(value.get("bad_places", [])),
        )


def total(parts: Iterable[Accounting]) -> Accounting:
    """Add up the accounts of several tasks, in their order."""
    whole = Accounting()
    for part in parts:
        whole.documents += part.documents
        whole.bad.update(part.bad)
        whole.tokens_in += part.tokens_in
        whole.kept += part.kept
        whole.dropped_tail += part.dropped_tail
        whole.dropped_short += part.dropped_short
        whole.sequences.update(part.sequences)
        whole.targets.update(part.targets)
        whole.padding += part.padding
        whole.chunks += part.chunks
        whole.contexts += part.contexts
        whole.cut_documents += part.cut_documents
        whole.lengths.update(part.lengths)
        whole.bad_places.extend(part.bad_places)
    whole.bad_places = whole.bad_places[:MAX_PLACES]
    assert whole.balanced, f"token accounting does not add up: {whole}"
    return whole
