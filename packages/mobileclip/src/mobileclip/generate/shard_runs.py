"""Run one job a shard, from tars to tars of the same names; what both generating verbs share."""

import importlib.metadata
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobileclip.generate.pairs import Skipped
from tenfold import atomic
from tenfold.devices import check_devices
from tenfold.jobs import run_jobs
from tenfold.jobs.work import STATE
from tenfold.shards import ShardEntry, ShardIndex, write_shard

SKIPPED = "skipped.jsonl"
_RECORDED = ("torch", "torchvision", "open_clip_torch", "pillow")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardTask:
    """One shard to read.

    Attributes:
        name: File name below the folder of its index.
        sha256: Hex digest of its content: a shard that changed is done again.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class RunOptions:
    """Where and how jobs run; nothing here changes a byte of the result.

    Attributes:
        workers: Number of processes.
        devices: Where networks run; workers share them.
        threads: Threads of each worker that read and augment images.
        ray_address: Run on Ray instead.
    """

    workers: int = 1
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1
    ray_address: str | None = None

    def check(self) -> None:
        """Refuse what cannot run here.

        Raises:
            ValueError: A number below 1, or a device that is not here.
        """
        if self.workers < 1 or self.threads < 1:
            raise ValueError(
                f"workers and threads must be >= 1, got {self.workers} and {self.threads}"
            )
        if self.ray_address is None:  # the devices of other machines are not known here
            check_devices(self.devices, workers=self.workers)

    @property
    def first_device(self) -> str:
        """Where this process tries the networks: where it works itself, else where most fits."""
        return self.devices[0] if self.workers == 1 and self.ray_address is None else "cpu"


@dataclass(frozen=True)
class Finished:
    """The shards of a run, and what was left out of each.

    Attributes:
        entries: For the index, in the order of the input.
        skipped: Shard's name to the samples that it lacks.
    """

    entries: tuple[ShardEntry, ...]
    skipped: Mapping[str, tuple[Skipped, ...]]

    @property
    def num_samples(self) -> int:
        """Samples of all shards."""
        return sum(entry.num_samples for entry in self.entries)

    @property
    def num_skipped(self) -> int:
        """Samples that were left out."""
        return sum(map(len, self.skipped.values()))


def check_folders(index: ShardIndex, out: Path, title: str) -> None:
    """Refuse to write into the folder that is read, or into one of other things.

    Raises:
        ValueError: Names the folder.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose another folder")
    if out.resolve() == index.folder.resolve():
        raise ValueError(f"{out} holds the shards that are read: choose another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / STATE / title).is_dir():
        raise ValueError(
            f"{out} is not empty and was not begun by this verb: choose another folder"
        )


def run_shards(
    job: Callable[[ShardTask, Path], Any],
    index: ShardIndex,
    *,
    out: Path,
    settings: Mapping[str, Any],
    title: str,
    options: RunOptions,
) -> Finished:
    """Run a job for each shard of an index; see `tenfold.jobs.run_jobs`.

    Writes `skipped.jsonl` where samples were left out.
    """
    tasks = {
        entry.name.replace("/", "-"): ShardTask(entry.name, entry.sha256) for entry in index.entries
    }
    if len(tasks) < len(index.entries):
        raise ValueError(f"{index.folder}: shards differ by '/' and '-' alone: rename them")
    results = run_jobs(
        job,
        tasks,
        out=out,
        settings=settings,
        workers=min(options.workers, len(tasks)),
        ray_address=options.ray_address,
        title=title,
    )
    entries = [ShardEntry(**result["entry"]) for result in results.values()]
    skipped = {
        entry.name: tuple(Skipped(*row) for row in result["skipped"])
        for entry, result in zip(entries, results.values(), strict=True)
    }
    finished = Finished(tuple(entries), skipped)
    _note_skipped(out, finished)
    return finished


def write_samples(
    task: ShardTask,
    folder: Path,
    samples: Iterable[Mapping[str, Any]],
    skipped: Sequence[Skipped],
    *,
    num_read: int,
    max_bad_fraction: float,
) -> dict[str, Any]:
    """Write the samples of one shard and return the result of its job.

    Args:
        task: The shard.
        folder: Private folder of the job.
        samples: Are written as they come.
        skipped: Grows while the samples come.
        num_read: Samples of the shard that was read.
        max_bad_fraction: Share of them that may be left out.

    Raises:
        ValueError: More were left out, or all of them.
    """

    def checked() -> Iterable[Mapping[str, Any]]:
        yield from samples
        limit = max_bad_fraction * num_read
        if len(skipped) > limit or len(skipped) == num_read:
            first = skipped[0]
            raise ValueError(
                f"{task.name}: {len(skipped)} of {num_read} samples are bad, more than "
                f"max_bad_fraction={max_bad_fraction}; the first: {first.key}: {first.reason}"
            )

    entry = write_shard(folder / task.name, checked())
    return {
        "entry": {**asdict(entry), "name": task.name},
        "skipped": [list(sample) for sample in skipped],
    }


def check_fraction(max_bad_fraction: float) -> None:
    """Refuse a share outside of 0..1.

    Raises:
        ValueError: It is.
    """
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction must lie in 0..1, got {max_bad_fraction}")


def library_versions() -> dict[str, str]:
    """Return the versions of what pixels and embeddings depend on, without parts like `+cpu`."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in _RECORDED}


def _note_skipped(out: Path, finished: Finished) -> None:
    rows = [
        json.dumps({"shard": name, **sample._asdict()}, ensure_ascii=False)
        for name, samples in finished.skipped.items()
        for sample in samples
    ]
    if rows:
        atomic.write_text(out / SKIPPED, "".join(f"{row}\n" for row in rows))
        logger.warning("left out %d, first %s; see %s", len(rows), rows[0], SKIPPED)
    else:
        (out / SKIPPED).unlink(missing_ok=True)
