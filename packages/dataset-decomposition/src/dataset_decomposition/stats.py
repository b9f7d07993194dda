"""What a prepared data set holds: tokens by bucket, average lengths, and where every token went."""

import json as json_library
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from dataset_decomposition.decompose import bucket_length
from dataset_decomposition.records import DATASET, read_info
from dataset_decomposition.settings import OPENLM_SHARD_TOKENS

TOKEN_COUNTS = ("in", "kept", "dropped_tail", "dropped_short")
"""The first is the sum of the others."""

_log = logging.getLogger(__name__)


def average_sequence_length(tokens_per_bucket: Mapping[int, float]) -> float:
    """Return the mean length over sequences, given tokens by bucket exponent.

    Source: paper appendix F.

    Raises:
        ValueError: There are no tokens, or a negative number of them.
    """
    total = _total(tokens_per_bucket)
    return total / sum(n / bucket_length(k) for k, n in tokens_per_bucket.items())


def average_context_length(tokens_per_bucket: Mapping[int, float]) -> float:
    """Return the mean number of tokens before a token, given tokens by bucket exponent.

    `sum l(l-1) / (2 sum l)` over sequences; source: paper appendix F.

    Raises:
        ValueError: There are no tokens, or a negative number of them.
    """
    total = _total(tokens_per_bucket)
    return sum(n * (bucket_length(k) - 1) / 2 for k, n in tokens_per_bucket.items()) / total


def _total(tokens_per_bucket: Mapping[int, float]) -> float:
    if any(n < 0 for n in tokens_per_bucket.values()):
        raise ValueError(f"tokens per bucket must not be negative, got {dict(tokens_per_bucket)}")
    total = sum(tokens_per_bucket.values())
    if total <= 0:
        raise ValueError("tokens per bucket are all 0; an average needs at least one sequence")
    return total


def official_tokens(shards_per_bucket: Mapping[int, int]) -> int:
    """Return the tokens in full official shards of any bucket: each holds 2^20."""
    return sum(shards_per_bucket.values()) * OPENLM_SHARD_TOKENS


def summary(info: Mapping[str, Any]) -> dict[str, Any]:
    """Derive the figures of `stats` from the content of `dataset.json`."""
    tokens = {int(k): bucket["tokens"] for k, bucket in info["buckets"].items()}
    total = sum(tokens.values())
    return {
        **info,
        "tokens_to_predict": total,
        "average_sequence_length": average_sequence_length(tokens) if total else None,
        "average_context_length": average_context_length(tokens) if total else None,
        "shares": {str(k): n / total if total else 0.0 for k, n in tokens.items()},
        **_chunk_figures(info),
        "balanced": info["tokens"]["in"] == sum(info["tokens"][key] for key in TOKEN_COUNTS[1:]),
    }


def _chunk_figures(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return how well rows are filled and how much of its own document a token sees.

    A chunk is a run of one document's tokens in a row, its length the targets in it.
    """
    if "packing" not in info:
        return {}
    packing, buckets = info["packing"], info["buckets"].values()
    positions = _stored(info)
    targets = sum(bucket["targets"] for bucket in buckets)
    return {
        "fill_rate": 1 - packing["padding"] / positions if positions else None,
        "average_chunk_length": targets / packing["chunks"] if packing["chunks"] else None,
        "average_document_context": packing["contexts"] / targets if targets else None,
    }


def report(info: Mapping[str, Any]) -> Group:
    """Lay out a data set's figures as tables for a terminal."""
    figures = summary(info)
    tables = [_bucket_table(figures), _document_table(info), _token_table(info)]
    return Group(*tables, *([_chunk_table(figures)] if "packing" in info else []))


def _bucket_table(figures: Mapping[str, Any]) -> Table:
    table = Table(title=f"Buckets ({figures['method']}, {figures['tokenizer']['name']})")
    for heading in ("bucket", "length", "sequences", "tokens", "share", "shards"):
        table.add_column(heading, justify="right")
    for key, bucket in sorted(figures["buckets"].items(), key=_exponent):
        length = f"{bucket_length(int(key)):,}"
        counts = (f"{bucket[name]:,}" for name in ("sequences", "tokens"))
        share = f"{figures['shares'][key]:.1%}"
        table.add_row(f"D_{key}", length, *counts, share, str(bucket["shards"]))
    if figures["tokens_to_predict"]:
        table.caption = (
            f"average sequence {figures['average_sequence_length']:.0f}, "
            f"average context {figures['average_context_length']:.0f} tokens; tokens are "
            f"those to predict, one fewer a row than the {_stored(figures):,} stored"
        )
    return table


def _stored(figures: Mapping[str, Any]) -> int:
    return sum(bucket["stored_tokens"] for bucket in figures["buckets"].values())


def _exponent(entry: tuple[str, Any]) -> int:
    """Order by exponent: JSON sorts its keys as texts."""
    return int(entry[0])


def _document_table(info: Mapping[str, Any]) -> Table:
    table = Table(title="Documents")
    table.add_column("")
    table.add_column("documents", justify="right")
    documents = info["documents"]
    failed = {f"failed: {kind}": count for kind, count in documents["failed"].items()}
    rows = {"in": documents["in"], "usable": documents["usable"], "empty": documents["empty"]}
    for name, count in {**rows, **failed}.items():
        table.add_row(name, f"{count:,}")
    table.add_section()
    for key, count in sorted(info["document_lengths_log2"].items(), key=_exponent):
        first = 1 << int(key)
        table.add_row(f"{first:,} to {2 * first - 1:,} tokens", f"{count:,}")
    return table


def _token_table(info: Mapping[str, Any]) -> Table:
    table = Table(title="Tokens, end of text included")
    table.add_column("")
    table.add_column("tokens", justify="right")
    table.add_column("share", justify="right")
    tokens = info["tokens"]
    for key in TOKEN_COUNTS:
        share = tokens[key] / tokens["in"] if tokens["in"] else 0.0
        table.add_row(key.replace("_", ", "), f"{tokens[key]:,}", f"{share:.2%}")
    return table


def _chunk_table(figures: Mapping[str, Any]) -> Table:
    table = Table(title="Chunks: one document's tokens in one row")
    table.add_column("")
    table.add_column("value", justify="right")
    packing, usable = figures["packing"], figures["documents"]["usable"]
    cut = packing["cut_documents"]
    table.add_row("chunks", f"{packing['chunks']:,}")
    table.add_row("average length", f"{figures['average_chunk_length'] or 0:.0f}")
    table.add_row(
        "average context in the document", f"{figures['average_document_context'] or 0:.0f}"
    )
    table.add_row("fill rate of the rows", f"{figures['fill_rate'] or 0:.2%}")
    table.add_row("documents cut", f"{cut:,} ({cut / usable if usable else 0:.2%})")
    return table


def stats(data: Path, *, json: bool = False) -> None:
    """Show what a prepared data set holds and where every token of its inputs went.

    Args:
        data: Folder that `prepare` made.
        json: Print one JSON object instead of tables.
    """
    info = read_info(data)
    figures = summary(info)
    if not figures["balanced"]:
        _log.warning(
            "%s says tokens that do not add up: %s; verify says what else is wrong",
            data / DATASET,
            ", ".join(f"{key} {info['tokens'][key]:,}" for key in TOKEN_COUNTS),
        )
    if json:
        text = json_library.dumps(figures, indent=2, sort_keys=True)
        Console(soft_wrap=True).print(text, markup=False, highlight=False)
    else:
        Console().print(report(info))
