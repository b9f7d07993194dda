"""Check a prepared data set against its own records: files, counts, sums, in depth every token."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dataset_decomposition.bucket_reader import BucketReader
from dataset_decomposition.heldout import FILES, read_heldout
from dataset_decomposition.manifest import bucket_folders, bucket_of, read_manifest
from dataset_decomposition.packing import PADDING
from dataset_decomposition.records import has_documents, read_info
from tenfold import atomic
from tenfold.bucketing import BadRecordError

MAY_GO_ON = frozenset({"concat", "openlm"})
"""Methods whose rows may go on behind an end of text: `concat` glues documents without numbering
them, and in imported official rows the id may stand in a document's text."""
_ROWS_AT_ONCE_TOKENS = 1 << 22


def find_problems(data: Path, *, deep: bool = False) -> list[str]:
    """Return what is wrong with a prepared data set, one line each; empty when all is well.

    The shallow check reads no shard: it compares `dataset.json`, manifests, file sizes and sums.
    With `deep` each file is hashed, each row read, and each token compared with the vocabulary.

    Raises:
        FileNotFoundError: There is no `dataset.json`.
        ValueError: `dataset.json` cannot be read.
    """
    info = read_info(data)
    problems = list(_sum_problems(info))
    folders = bucket_folders(data)
    for bucket in sorted({int(k) for k in info["buckets"]} | set(folders)):
        stated = info["buckets"].get(str(bucket))
        if stated is None:
            problems.append(f"{folders[bucket]} is not in dataset.json")
        elif bucket not in folders:
            problems.append(f"{data / f'D_{bucket}'} is missing")
        else:
            problems.extend(_bucket_problems(folders[bucket], stated, info, deep=deep))
    if info["heldout"] is not None:
        problems.extend(_heldout_problems(data, info, deep=deep))
    return problems


def _sum_problems(info: Mapping[str, Any]) -> Iterator[str]:
    tokens, documents, buckets = info["tokens"], info["documents"], info["buckets"].values()
    if tokens["in"] != tokens["kept"] + tokens["dropped_tail"] + tokens["dropped_short"]:
        yield f"tokens do not add up: {tokens}"
    bad = documents["empty"] + sum(documents["failed"].values())
    if documents["in"] != documents["usable"] + bad:
        yield f"documents do not add up: {documents}"
    if documents["usable"] != sum(info["document_lengths_log2"].values()):
        yield "the histogram of document lengths does not add up to the usable documents"
    positions = sum(bucket["stored_tokens"] for bucket in buckets)
    stored = positions - info.get("packing", {}).get("padding", 0)
    if info["mode"] == "disjoint" and stored != tokens["kept"]:
        yield f"{stored} tokens are stored in rows, but {tokens['kept']} are said to be kept"


def _bucket_problems(
    folder: Path, stated: Mapping[str, Any], info: Mapping[str, Any], *, deep: bool
) -> Iterator[str]:
    try:
        shards = read_manifest(folder)
    except (ValueError, FileNotFoundError) as error:
        yield str(error)
        return
    if (rows := sum(shard.num_sequences for shard in shards)) != stated["sequences"]:
        yield f"{folder} has {rows} sequences, dataset.json says {stated['sequences']}"
    listed = {f"{shard.shard}.tar" for shard in shards}
    for stray in sorted(path for path in folder.glob("*.tar") if path.name not in listed):
        yield f"{stray} is not in the manifest"
    intact = True
    for shard in shards:
        path = folder / f"{shard.shard}.tar"
        if not path.is_file():
            problem = f"{path} is missing"
        elif path.stat().st_size != shard.bytes:
            problem = f"{path} has {path.stat().st_size} bytes, the manifest says {shard.bytes}"
        elif deep and atomic.sha256_file(path) != shard.sha256:
            problem = f"{path} has another SHA-256 than the manifest says"
        else:
            continue
        intact = False
        yield problem
    if deep and intact:
        yield from _token_problems(folder, info)


def _token_problems(folder: Path, info: Mapping[str, Any]) -> Iterator[str]:
    eot_id, vocab_size = info["eot_id"], info["vocab_size"]
    key = str(bucket_of(folder))
    try:
        reader = BucketReader(
            folder,
            eot_id=eot_id,
            dtype=np.dtype(info["dtype"]),
            has_documents=has_documents(info, bucket_of(folder)),
        )
        step = max(1, _ROWS_AT_ONCE_TOKENS // reader.seq_len)
        targets = 0
        for start in range(0, reader.num_rows, step):
            numbers = np.arange(start, min(start + step, reader.num_rows))
            rows = reader.read(numbers)
            if (highest := int(rows.max())) >= vocab_size:
                yield f"{folder} has token {highest}, the vocabulary ends at {vocab_size - 1}"
            documents = np.zeros_like(rows, dtype=np.int32)
            if reader.has_documents:
                documents = reader.read_documents(numbers)
                if not _well_numbered(documents):
                    yield f"{folder} has a row whose documents are not numbered 0, 1, ..., padding"
            inside = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
            targets += int(inside.sum())
            may_go_on = info["method"] in MAY_GO_ON
            if not may_go_on and ((rows[:, :-1] == eot_id) & inside).any():
                yield f"{folder} has a row that goes on after the end of a document"
        if reader.has_documents and targets != (stated := info["buckets"][key]["targets"]):
            yield f"{folder} has {targets} targets, dataset.json says {stated}"
    except BadRecordError as error:
        yield error.reason
    except (ValueError, OSError) as error:
        yield str(error)


def _well_numbered(documents: NDArray[Any]) -> bool:
    """Whether each row counts up from 0 in steps of at most 1 and ends with its padding, if any."""
    steps = np.diff(documents, axis=1)
    into_padding = documents[:, 1:] == PADDING
    counts_up = (steps == 0) | (steps == 1) & (documents[:, :-1] != PADDING)
    return bool((documents[:, 0] == 0).all() and (counts_up | into_padding).all())


def _heldout_problems(data: Path, info: Mapping[str, Any], *, deep: bool) -> Iterator[str]:
    stated = info["heldout"]
    yield from _file_problems(data, stated.get("files", {}), deep=deep)
    try:
        heldout = read_heldout(data)
    except (ValueError, OSError) as error:
        yield str(error)
        return
    found = (heldout.num_documents, len(heldout.tokens))
    if found != (stated["documents"]["usable"], stated["tokens"]["in"]):
        yield f"held-out documents and tokens are {found}, dataset.json says otherwise"
    ends = heldout.offsets[1:] - 1
    if deep and not (heldout.tokens[ends] == info["eot_id"]).all():
        yield "a held-out document does not end with the end-of-text token"
    if deep and len(heldout.tokens) and int(heldout.tokens.max()) >= info["vocab_size"]:
        yield f"held-out documents have tokens beyond the vocabulary of {info['vocab_size']}"


def _file_problems(
    data: Path, stated: Mapping[str, Mapping[str, Any]], *, deep: bool
) -> Iterator[str]:
    for name in FILES:
        path = data / name
        if name not in stated:
            yield f"dataset.json has no size and SHA-256 of {name}; prepare anew"
        elif not path.is_file():
            yield f"{path} is missing"
        elif (size := path.stat().st_size) != stated[name]["bytes"]:
            yield f"{path} has {size} bytes, dataset.json says {stated[name]['bytes']}"
        elif deep and atomic.sha256_file(path) != stated[name]["sha256"]:
            yield f"{path} has another SHA-256 than dataset.json says"


def verify(data: Path, *, deep: bool = False) -> None:
    """Check a prepared data set: files, counts and sums; with `--deep` also hashes and every token.

    Args:
        data: Folder that `prepare` made.
        deep: Read all of it.

    Raises:
        ValueError: Something is wrong; names the first problems.
    """
    problems = find_problems(data, deep=deep)
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ValueError(f"{data} has {count}: {'; '.join(problems[:5])}{more}")
    info = read_info(data)
    sequences = sum(bucket["sequences"] for bucket in info["buckets"].values())
    how = "every token read" if deep else "files, counts and sums"
    Console().print(f"{data}: {sequences:,} sequences in {len(info['buckets'])} buckets, {how}: ok")
