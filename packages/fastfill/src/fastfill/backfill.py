"""The verb `backfill`: replace transformed vectors by the new model's, in the planned order.

Work is done in batches. A batch is leased, fetched, embedded, written to the journal and only then
given back, so that a kill costs the batches in flight and nothing else (spec 9, 10).
"""

import inspect
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fastfill.config import Metric

if TYPE_CHECKING:
    from fastfill.backfill_run import Report

NAMED_FAILURES = 20
"""Failed items that are listed at the end; `status` and `failures.jsonl` have all."""


def backfill(
    gallery: Path,
    *,
    model: str,
    source: str,
    max_items: int = 0,
    rate: float = 0.0,
    batch_size: int = 256,
    workers: int = 1,
    read_threads: int = 1,
    devices: list[str] | None = None,
    metric: Metric | None = None,
    stop_at: float = 0.0,
    retry: bool = False,
    lease_s: float = 600.0,
    ray_address: str | None = None,
) -> None:
    """Embed the items of a gallery with the new model, best first, while it is searched.

    The same command goes on after any stop or kill. Several machines may run it on one gallery at a
    time, also while `serve` writes it. `pause` and `resume` work between batches.

    Args:
        gallery: Folder that `init-gallery` wrote.
        model: The new model: a run folder, checkpoint or weights of `fit-backbone`, `timm:<model>`,
            `timm:<model>:<file>`, or `open_clip:<model>:<tag or file>` (`:text` for texts).
        source: Originals: a folder of images or tars, a `.txt` or `.jsonl`, or demo data such as
            `digits:test`.
        max_items: Most items to try now; 0 for all.
        rate: Most items a second of this command; 0 for no limit of its own.
        batch_size: Items that are fetched, embedded and written together; fewer are embedded at
            once where memory runs out.
        workers: Number of processes.
        read_threads: Threads of each worker that read originals, for a GPU to be fed.
        devices: Where models run, such as `cuda:0 cuda:1`; workers share them. Default `cpu`.
        metric: Of a model that does not say itself, as `embed` takes it.
        stop_at: Stop when this share of the items has a new vector, as `plan` advises; 0 for all.
        retry: Try all failed items again now.
        lease_s: Seconds after which other workers may take the batches of a dead one; longer than
            a batch takes.
        ray_address: Run on Ray instead: `local` or a cluster's address.

    Raises:
        FileNotFoundError: Gallery, model or originals are missing.
        ValueError: An option is impossible, the model is not the gallery's new one, or it does not
            embed such originals.
    """
    gallery = Path(gallery)
    _check_counts(batch_size=batch_size, workers=workers, read_threads=read_threads)
    # Here, so that `--help` does not load torch.
    from fastfill.backfill_run import Limits, run_backfill
    from fastfill.batch_job import BatchJob

    limits = Limits(max_items=max_items, stop_at=stop_at, rate=rate or None, lease_s=lease_s)
    job = BatchJob(
        model=model,
        source=source,
        metric=metric,
        batch_size=min(batch_size, max(1, int(rate))) if rate else batch_size,
        devices=tuple(devices or ["cpu"]),
        threads=read_threads,
    )
    report = run_backfill(
        gallery, job, limits, workers=workers, ray_address=ray_address, retry=retry
    )
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(summary(gallery, report))
    if report.stopped_by is not None:
        options = {
            "model": model,
            "source": source,
            "max_items": max_items and max_items - report.tried,
            "rate": rate,
            "batch_size": batch_size,
            "workers": workers,
            "read_threads": read_threads,
            "devices": devices,
            "metric": metric,
            "stop_at": stop_at,
            "lease_s": lease_s,
            "ray_address": ray_address,
        }
        console.print(f"go on with: {resume_command(gallery, options)}")
        raise KeyboardInterrupt(report.stopped_by)


def resume_command(gallery: Path, options: Mapping[str, object]) -> str:
    """Return the command that goes on; options at their default are left out."""
    words = ["fastfill", "backfill", str(gallery)]
    usual = inspect.signature(backfill).parameters
    for name, value in options.items():
        if value != usual[name].default:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def summary(gallery: Path, report: "Report") -> str:
    """Return in words what a backfill did, and which items could not be embedded."""
    counts = report.counts
    share = counts.new / counts.live if counts.live else 1.0
    first = (
        f"{gallery}: {report.tried - report.failed:,} items embedded, {report.failed:,} failed; "
        f"{counts.new:,} of {counts.live:,} ({share:.1%}) have the new model's vector"
    )
    lines = [first]
    if report.failures:
        lines.append(
            f"{len(report.failures):,} items could not be embedded and keep what they had:"
        )
        lines += [f"  {item.id}: {item.reason}" for item in report.failures[:NAMED_FAILURES]]
        if len(report.failures) > NAMED_FAILURES:
            lines.append(f"  and {len(report.failures) - NAMED_FAILURES:,} more")
        lines.append("they are tried again by a later backfill, at once with --retry true")
    return "\n".join(lines)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
