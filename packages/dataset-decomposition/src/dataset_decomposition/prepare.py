"""The verb `prepare`: raw documents to shuffled buckets of token rows."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from dataset_decomposition.claim import TOKENIZER, claim, describe_sources, destination, remove_work
from dataset_decomposition.decompose import CutRule, Mode, Overflow, Tail
from dataset_decomposition.documents import TextDocument
from dataset_decomposition.inputs import Source, find_sources
from dataset_decomposition.manifest import Format
from dataset_decomposition.pipeline import Pipeline
from dataset_decomposition.randomness import stream, stream_key
from dataset_decomposition.readers import check_text_column, read_documents
from dataset_decomposition.records import DATASET, SCHEMA
from dataset_decomposition.settings import Layout, Method, Settings, text_bytes
from dataset_decomposition.stats import report
from dataset_decomposition.tokenizer import TokenizerSpec, find_tokenizer, train_bpe
from dataset_decomposition.verify import find_problems

BPE_TRAINING_BYTES = 1 << 30
"""A BPE is trained on a sample of about this much text: its merges change little beyond."""

_log = logging.getLogger(__name__)


def prepare(
    input: list[str],
    out: Path,
    *,
    tokenizer: str = "bytes",
    method: Method = "dd",
    min_bucket: int = 8,
    max_bucket: int = 13,
    mode: Mode = "disjoint",
    overflow: Overflow = "greedy",
    tail: Tail = "drop",
    heldout: list[str] | None = None,
    text_key: str = "text",
    seed: int = 0,
    workers: int = 1,
    ray_address: str | None = None,
    format: Format = "packed",
    max_bad: float = 0.001,
    overwrite: bool = False,
    vocab_size: int | None = None,
) -> None:
    """Tokenize documents, cut them into power-of-two pieces and write shuffled buckets.

    A killed run continues when the same command is given again, and the result has the same bytes
    for any number of workers. Every document and token is accounted for in `dataset.json`.

    Args:
        input: Files (.jsonl, .ndjson, .json as JSON Lines; .tar of such files; .parquet; anything
            else is one document a file; all but Parquet also with .gz or .zst, a tar's members
            too), folders, globs, `@list.txt` or `-` (such names, one a line, in a file or on
            standard input), or `demo:documents[/docstrings|/sources][/train|/heldout]`.
        out: Folder to write; new, empty, or begun with the same options.
        tokenizer: `bytes`, `bpe` (trained on the input, see vocab_size), a `tokenizer.json`, or a
            transformers folder (needs the extra `transformers`).
        method: `dd` cuts each document on its own. The baselines fill rows of 2^max_bucket:
            `concat` glues all documents and cuts, `concat_docmask` stores with it which document a
            token belongs to, for a document mask, and `bestfit` packs whole documents, masked too.
        min_bucket: Exponent of the shortest length; the baselines have one length only.
        max_bucket: Exponent of the longest length.
        mode: `disjoint` as the official code: rows share no token. `overlap1`: a document's next
            row starts with the last token of the row before, so that no target is lost.
        overflow: For what is longer than the longest bucket: `greedy`, the paper's rule, takes the
            longest; `random`, the default of the official code, draws bucket k with odds
            2^(max_bucket - k).
        tail: For what is shorter than the shortest bucket: `drop`, counted; `keep-small`, which
            writes buckets down to 2^0; or `pack`, which packs it with that of other documents into
            rows of the shortest bucket, trained with a document mask: no target is lost.
        heldout: Inputs to store whole, for evaluation document by document.
        text_key: Field (JSON Lines) or column (Parquet) of the text.
        seed: Keys every random choice.
        workers: Number of worker processes.
        ray_address: Run on Ray instead: `local` or a cluster's address.
        format: `packed` arrays, or `openlm`, the official one-row text samples, without masks.
        max_bad: Largest share of documents that may be unusable (unreadable, without text, empty).
        overwrite: Remove what an earlier preparation made in `out` and begin anew.
        vocab_size: Size of the vocabulary of tokenizer `bpe`, end of text included; a small input
            may give fewer ids, and `dataset.json` says how many.

    Raises:
        ValueError: An option is impossible, an input matches nothing, `out` belongs to something
            else, or too many documents are unusable.
    """
    rule = CutRule(
        min_bucket=min_bucket if method == "dd" else max_bucket,
        max_bucket=max_bucket,
        mode=mode,
        overflow=overflow,
        tail=tail,
    )
    _check_choice("method", method, get_args(Method))
    _check_choice("format", format, get_args(Format))
    masked = tail == "pack" if method == "dd" else method != "concat"
    if format == "openlm" and masked:
        needs = f"tail {tail}" if method == "dd" else f"method {method}"
        raise ValueError(f"{needs} stores document numbers, which format openlm cannot; use packed")
    _check_options(tokenizer, vocab_size, max_bad=max_bad, workers=workers)
    out = destination(Path(out))
    inputs = _find_inputs(input, heldout or [], out)
    for source in (*inputs.train, *inputs.heldout):
        if source.kind == "parquet":
            check_text_column(source, text_key=text_key)
    options = {
        "method": method,
        **asdict(rule),
        "text_key": text_key,
        "seed": seed,
        "format": format,
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
    }
    spec = None if tokenizer == "bpe" else find_tokenizer(tokenizer)
    tokenizer_hash = None if spec is None else spec.load().fingerprint
    request = {"schema": SCHEMA, **options, "tokenizer_hash": tokenizer_hash, **inputs.describe()}
    claim(out, request, overwrite=overwrite)
    if (out / DATASET).exists():
        _check_finished(out)
        return
    spec = spec or _train_bpe(inputs.train, out, text_key=text_key, seed=seed, size=vocab_size)
    settings = make_settings(
        spec, method=method, rule=rule, text_key=text_key, seed=seed, format=format
    )
    if workers > 1:
        # Threads of the tokenizers library inside each worker would fight for the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    info = Pipeline(
        out=out,
        sources=inputs.train,
        heldout=inputs.heldout,
        settings=settings,
        max_bad=max_bad,
        workers=workers,
        ray_address=ray_address,
    ).run()
    Console().print(report(info))


@dataclass(frozen=True)
class _Inputs:
    train: tuple[Source, ...]
    heldout: tuple[Source, ...]

    def describe(self) -> dict[str, Any]:
        return {"input": describe_sources(self.train), "heldout": describe_sources(self.heldout)}


def _find_inputs(named: Sequence[str], named_heldout: Sequence[str], out: Path) -> _Inputs:
    train = find_sources(named)
    heldout = find_sources(named_heldout) if named_heldout else []
    both = {source.path for source in train} & {source.path for source in heldout}
    if both:
        raise ValueError(f"{min(both)} is named both as input and as held out; leave one out")
    inside = [s.path for s in (*train, *heldout) if Path(s.path).is_relative_to(out.resolve())]
    if inside:
        raise ValueError(f"the input {inside[0]} lies in the output folder; choose another folder")
    return _Inputs(tuple(train), tuple(heldout))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_options(tokenizer: str, vocab_size: int | None, *, max_bad: float, workers: int) -> None:
    if tokenizer == "bpe" and (vocab_size is None or vocab_size < 257):
        raise ValueError(
            "tokenizer bpe needs --vocab_size, at least 257 (256 bytes and end of text), "
            f"got {vocab_size}"
        )
    if tokenizer != "bpe" and vocab_size is not None:
        raise ValueError(f"--vocab_size is for tokenizer bpe only, got it with {tokenizer!r}")
    if not 0 <= max_bad <= 1:
        raise ValueError(f"max_bad is a share between 0 and 1, got {max_bad}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")


def _check_finished(out: Path) -> None:
    """Accept a finished data set as it stands, unless files of it are gone."""
    if problems := find_problems(out):
        raise ValueError(
            f"{out} was finished but is damaged: {problems[0]}; prepare anew with --overwrite"
        )
    remove_work(out)  # a run may have been killed while it cleaned up
    _log.info("%s is finished already; the verb stats shows what it holds", out)


def make_settings(
    spec: TokenizerSpec,
    *,
    method: Method,
    rule: CutRule,
    text_key: str,
    seed: int,
    format: Format,
    layout: Layout | None = None,
) -> Settings:
    """Load the tokenizer once and note what identifies it."""
    tokenizer = spec.load()
    return Settings(
        method=method,
        rule=rule,
        text_key=text_key,
        seed=seed,
        format=format,
        tokenizer=spec,
        tokenizer_hash=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        layout=layout or Layout(),
    )


def _train_bpe(
    sources: Sequence[Source], out: Path, *, text_key: str, seed: int, size: int | None
) -> TokenizerSpec:
    path = out / TOKENIZER
    assert size is not None, "checked with the options"
    if not path.exists():
        _log.info("training a byte-level BPE of %d ids", size)
        texts = _sample_texts(sources, text_key=text_key, seed=seed)
        train_bpe(texts, path, vocab_size=size)
    found = TokenizerSpec("bpe", str(path)).load().vocab_size
    if found < size:
        _log.warning(
            "the trained BPE has %d ids, fewer than --vocab_size %d: the input has no more pairs "
            "to merge",
            found,
            size,
        )
    return TokenizerSpec(f"bpe-{found}", str(path))


def _sample_texts(sources: Sequence[Source], *, text_key: str, seed: int) -> Iterator[str]:
    """Yield all usable texts, or a keyed sample of them when the inputs are large."""
    share = BPE_TRAINING_BYTES / max(1, text_bytes(sources))
    for source in sources:
        key = stream_key(seed, "bpe", source.name)
        for index, document in enumerate(read_documents(source, text_key=text_key)):
            if not isinstance(document, TextDocument):
                continue
            if share >= 1 or stream(key, index).random_raw() < share * 2.0**64:
                yield document.text
