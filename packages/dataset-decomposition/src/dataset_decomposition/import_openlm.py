"""The verb `import-openlm`: official text shards, as they are, to packed records."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from dataset_decomposition.accounting import Accounting, total
from dataset_decomposition.claim import claim, destination, remove_work
from dataset_decomposition.import_jobs import ImportTask, convert_shards, plan_import
from dataset_decomposition.manifest import Shard, bucket_folder, describe_shards, write_manifest
from dataset_decomposition.official import OfficialBucket, read_official
from dataset_decomposition.records import DATASET, SCHEMA
from dataset_decomposition.settings import Layout
from dataset_decomposition.stats import report
from dataset_decomposition.tokenizer import token_dtype
from dataset_decomposition.verify import find_problems
from tenfold import atomic
from tenfold.jobs import run_jobs

TITLE = "map"
"""Of the jobs; one of those that a claimed folder is cleaned of."""
METHOD = "openlm"
"""Not `dd`: official rows may go on after an end-of-text id that stood in a document's text."""
COUNTED = ("text_ends", "document_ends", "rows_past_an_end")
PUBLIC = ("documents", "tokens", "packing", "document_lengths_log2")

_log = logging.getLogger(__name__)


def import_openlm(
    source: Path,
    out: Path,
    *,
    eot_id: int,
    vocab_size: int,
    workers: int = 1,
    ray_address: str | None = None,
    overwrite: bool = False,
) -> None:
    """Convert a folder of official `D_<k>` text shards to a data set like those of `prepare`.

    Every shard that the manifests list is read once, also when they list it several times; counts
    are checked against the tars. A killed run continues when the same command is given again.

    Args:
        source: Folder that holds `D_<k>/shard-*.tar` and `D_<k>/manifest.jsonl`.
        out: Folder to write; new, empty, or begun with the same options.
        eot_id: Id of the end-of-text token, which the official shards write as a string (their
            reader takes it for 0, which is right for GPT-NeoX's tokenizer only).
        vocab_size: Highest id plus one; decides the stored type.
        workers: Number of worker processes.
        ray_address: Run on Ray instead: `local` or a cluster's address.
        overwrite: Remove what an earlier import made in `out` and begin anew.

    Raises:
        ValueError: An option is impossible, a manifest is malformed, or `out` belongs to something
            else.
        FileNotFoundError: Buckets, manifests or listed tars are missing.
        JobError: A shard is damaged or holds other rows than its manifest says.
    """
    if not 0 <= eot_id < vocab_size:
        raise ValueError(f"eot_id must lie in 0..vocab_size - 1 = {vocab_size - 1}, got {eot_id}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    source, out = Path(source).expanduser().absolute(), destination(out)
    official = read_official(source)
    _warn(official)
    options = {"eot_id": eot_id, "vocab_size": vocab_size}
    request = {"schema": SCHEMA, "import": "openlm", **options, "source": _describe(official)}
    claim(out, request, overwrite=overwrite)
    if (out / DATASET).exists():
        if problems := find_problems(out):
            raise ValueError(
                f"{out} was finished but is damaged: {problems[0]}; import anew with --overwrite"
            )
        _log.info("%s is finished already; the verb stats shows what it holds", out)
    else:
        tasks = plan_import(official, Layout(), **options)
        results = run_jobs(
            convert_shards,
            tasks,
            out=out,
            settings={"schema": SCHEMA},
            workers=workers,
            ray_address=ray_address,
            title=TITLE,
        )
        info = _finish(out, official, tasks, results, **options)
        Console().print(report(info))
    remove_work(out)


def _warn(official: Mapping[int, OfficialBucket]) -> None:
    for bucket in official.values():
        if bucket.repeated:
            _log.warning(
                "the manifest of %s repeats itself: %d lines for %d shards; each is read once",
                bucket.folder,
                bucket.repeated + len(bucket.shards),
                len(bucket.shards),
            )
        if bucket.unlisted:
            _log.warning(
                "%d shards of %s stand in no manifest and are left out, the first is %s",
                len(bucket.unlisted),
                bucket.folder,
                bucket.unlisted[0],
            )


def _describe(official: Mapping[int, OfficialBucket]) -> dict[str, Any]:
    """Sum up the source so that any change of a listed shard shows."""
    listed = [[k, *asdict(s).values()] for k, b in official.items() for s in b.shards]
    return {
        "shards": len(listed),
        "bytes": sum(shard.size for bucket in official.values() for shard in bucket.shards),
        "digest": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
    }


def _finish(
    out: Path,
    official: Mapping[int, OfficialBucket],
    tasks: Mapping[str, ImportTask],
    results: Mapping[str, Any],
    *,
    eot_id: int,
    vocab_size: int,
) -> dict[str, Any]:
    """Write the manifests and, last, `dataset.json`."""
    shards: dict[int, list[Shard]] = {bucket: [] for bucket in official}
    for key, result in results.items():
        shards[tasks[key].bucket].append(Shard(**result["shard"]))
    for bucket, listed in shards.items():
        write_manifest(out / bucket_folder(bucket), listed)
    account = total(Accounting.from_json(result["account"]) for result in results.values())
    info = {
        **_same_for_all(official, account, eot_id=eot_id, vocab_size=vocab_size),
        "buckets": {
            str(bucket): {
                **describe_shards(listed),
                "documents": False,
                "targets": account.targets[bucket],
            }
            for bucket, listed in shards.items()
        },
        "imported": {
            "repeated_lines": sum(bucket.repeated for bucket in official.values()),
            "unlisted_shards": sum(len(bucket.unlisted) for bucket in official.values()),
            **{name: sum(result[name] for result in results.values()) for name in COUNTED},
        },
    }
    atomic.write_json(out / DATASET, info)
    return info


def _same_for_all(
    official: Mapping[int, OfficialBucket], account: Accounting, *, eot_id: int, vocab_size: int
) -> dict[str, Any]:
    """Return what does not differ by bucket; None for what official files do not tell."""
    source = _describe(official)
    unknown = dict.fromkeys(("overflow", "tail", "seed", "text_key", "heldout"))
    counts = account.to_json()
    return {
        **unknown,
        "schema": SCHEMA,
        "format": "packed",
        "method": METHOD,
        "min_bucket": min(official),
        "max_bucket": max(official),
        "mode": "disjoint",
        "tokenizer": {"name": "unknown tokenizer", "sha256": None},
        "vocab_size": vocab_size,
        "eot_id": eot_id,
        "dtype": token_dtype(vocab_size).name,
        "inputs": {"files": source["shards"], "bytes": source["bytes"]},
        **{name: counts[name] for name in PUBLIC},
    }
