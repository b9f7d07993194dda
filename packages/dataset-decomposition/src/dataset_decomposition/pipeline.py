"""The phases of a preparation in order: held-out documents, map, reduce, `dataset.json` last.

Each phase is a set of jobs (`tenfold.jobs`), so a killed run continues where it stopped and gives
the same bytes for any number of workers.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_decomposition.accounting import Accounting, total
from dataset_decomposition.claim import SPILLS, remove_work
from dataset_decomposition.heldout import HeldoutTask, write_heldout
from dataset_decomposition.inputs import Source, group_sources
from dataset_decomposition.manifest import Shard, bucket_folder, describe_shards, write_manifest
from dataset_decomposition.map_phase import MapTask, map_documents
from dataset_decomposition.records import DATASET, SCHEMA
from dataset_decomposition.reduce_phase import plan_reduce, shuffle_partition, spill_name
from dataset_decomposition.settings import Settings, count_partitions
from tenfold import atomic
from tenfold.jobs import run_jobs

_HINTS = {
    "invalid_json": "JSON Lines holds one object a line, not an array of them",
    "missing_text": "--text_key names the field of the text",
    "not_string": "--text_key names the field of the text",
    "unknown_member": "only .jsonl, .ndjson and .json members of a tar are read",
}
"""What a kind of unusable documents often comes from."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One preparation.

    Attributes:
        out: The claimed output folder.
        sources: Inputs to train on.
        heldout: Inputs to store whole.
        settings: What decides the bytes.
        max_bad: Largest share of unusable documents.
        workers: Number of worker processes.
        ray_address: Run the jobs on Ray instead.
    """

    out: Path
    sources: tuple[Source, ...]
    heldout: tuple[Source, ...]
    settings: Settings
    max_bad: float
    workers: int = 1
    ray_address: str | None = None

    def run(self) -> dict[str, Any]:
        """Do whatever is missing and return the content of `dataset.json`.

        Raises:
            ValueError: Too many documents are unusable, or none is long enough.
            JobError: Jobs failed.
        """
        heldout = self._write_heldout() if self.heldout else None
        account, num_spills, num_partitions = self._map()
        if not account.sequences.total():
            raise ValueError(_nothing_kept(account, self.settings))
        shards = self._reduce(num_spills, num_partitions)
        for bucket, listed in shards.items():
            write_manifest(self.out / bucket_folder(bucket), listed)
        info = _describe(self.settings, self.sources, account, shards, heldout)
        atomic.write_json(self.out / DATASET, info)
        remove_work(self.out)
        return info

    def _write_heldout(self) -> dict[str, Any]:
        task = HeldoutTask(self.heldout, self.settings)
        result = self._run_jobs(write_heldout, {"heldout": task}, "heldout")["heldout"]
        account = Accounting.from_json(result)
        check_bad(account, self.max_bad, what="held-out documents")
        return {**_public(account), "files": result["files"]}

    def _map(self) -> tuple[Accounting, int, int]:
        settings = self.settings
        num_partitions = count_partitions(self.sources, settings)
        groups = group_sources(self.sources, task_bytes=settings.layout.task_bytes)
        tasks = {
            spill_name(i): MapTask(group, f"{SPILLS}/{spill_name(i)}", num_partitions, settings)
            for i, group in enumerate(groups)
        }
        results = self._run_jobs(map_documents, tasks, "map")
        account = total(Accounting.from_json(result) for result in results.values())
        check_bad(account, self.max_bad, what="documents")
        return account, len(tasks), num_partitions

    def _reduce(self, num_spills: int, num_partitions: int) -> dict[int, list[Shard]]:
        tasks = plan_reduce(self.out / SPILLS, num_spills, num_partitions, self.settings)
        results = self._run_jobs(shuffle_partition, tasks, "reduce")
        shards: dict[int, list[Shard]] = defaultdict(list)
        for bucket in self.settings.buckets:
            shards[bucket] = []
        for key, lines in results.items():
            shards[tasks[key].bucket].extend(Shard(**line) for line in lines)
        return dict(shards)

    def _run_jobs(self, function: Any, tasks: Mapping[str, Any], title: str) -> dict[str, Any]:
        return run_jobs(
            function,
            tasks,
            out=self.out,
            settings={"schema": SCHEMA},
            workers=self.workers,
            ray_address=self.ray_address,
            title=title,
        )


def check_bad(account: Accounting, max_bad: float, *, what: str) -> None:
    """Refuse too large a share of unusable documents; otherwise log how many there are.

    Raises:
        ValueError: More than `max_bad` are unusable, or there are no documents.
    """
    if not account.documents:
        raise ValueError(f"the inputs hold no {what}: all files are empty")
    if not account.num_bad:
        return
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(account.bad.items()))
    share = account.num_bad / account.documents
    text = (
        f"{account.num_bad:,} of {account.documents:,} {what} ({share:.2%}) cannot be used: {kinds}"
    )
    if share > max_bad:
        hints = "".join(f" ({_HINTS[kind]})" for kind in sorted(account.bad) if kind in _HINTS)
        raise ValueError(
            f"{text}; first {account.bad_places[0]}; --max_bad allows {max_bad:.2%}: mend the "
            f"input or raise it{hints}"
        )
    _log.warning("%s; first %s", text, "; ".join(account.bad_places))


def _nothing_kept(account: Accounting, settings: Settings) -> str:
    if settings.method != "dd":
        row = (1 << settings.rule.max_bucket) + 1
        return f"all {account.tokens_in:,} tokens do not fill one row of {row}; lower --max_bucket"
    row = (1 << settings.rule.lowest_bucket) + 1
    return (
        f"none of {account.documents - account.num_bad:,} documents has the {row:,} tokens of the "
        "shortest row; lower --min_bucket"
    )


def _describe(
    settings: Settings,
    sources: tuple[Source, ...],
    account: Accounting,
    shards: Mapping[int, list[Shard]],
    heldout: Mapping[str, Any] | None,
) -> dict[str, Any]:
    is_dd = settings.method == "dd"
    rule = settings.rule
    return {
        "schema": SCHEMA,
        "format": settings.format,
        "method": settings.method,
        "min_bucket": settings.buckets[0] if not is_dd else rule.min_bucket,
        "max_bucket": rule.max_bucket,
        "mode": rule.mode,
        "overflow": rule.overflow if is_dd else None,
        "tail": rule.tail if is_dd else None,
        "seed": settings.seed,
        "text_key": settings.text_key,
        "tokenizer": {"name": settings.tokenizer.name, "sha256": settings.tokenizer_hash},
        "vocab_size": settings.vocab_size,
        "eot_id": settings.eot_id,
        "dtype": settings.dtype.name,
        "inputs": _describe_inputs(sources),
        "buckets": {
            str(bucket): {
                **describe_shards(listed),
                "targets": account.targets[bucket],
                "documents": settings.has_documents(bucket),
            }
            for bucket, listed in shards.items()
        },
        "heldout": heldout,
        "packing": account.to_json()["packing"],
        **_public(account),
    }


def _public(account: Accounting) -> dict[str, Any]:
    """Return the counts without file names, which belong to one machine, and without packing."""
    hidden = ("bad_places", "sequences", "targets", "packing")
    return {key: value for key, value in account.to_json().items() if key not in hidden}


def _describe_inputs(sources: tuple[Source, ...]) -> dict[str, int]:
    return {"files": len(sources), "bytes": sum(source.size for source in sources)}
