"""The loop of a backfill: batches out, results in, until nothing waits or somebody says stop."""

import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fastfill.batch_job import (
    BatchJob,
    BatchTask,
    embed_batch,
    encoder_of,
    forget_models,
    read_batch,
)
from fastfill.batch_queue import BatchQueue, Taken
from fastfill.cache_job import loaded_source
from fastfill.card import check_same
from fastfill.gallery import Counts, Gallery, GalleryReader, Leases, read_control
from fastfill.gallery.failures import Failure
from fastfill.rate import TokenBucket
from fastfill.result_sink import ResultSink, WriterSink, open_sink
from fastfill.stopping import StopSignal
from fastfill.workers import WorkerName, count_workers
from tenfold.devices import check_devices
from tenfold.jobs import JobError
from tenfold.jobs.backends import WorkerDiedError, in_pool, in_process, on_ray
from tenfold.jobs.progress import JobProgress
from tenfold.jobs.work import Call, Failed, Outcome

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""How often a paused or waiting backfill looks again."""
LOOKED_UP = 10_000
"""Items that are looked up among the originals at a time."""
COUNT_S = 5.0
"""How often a limited backfill counts those who share the limit."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far and how fast.

    Args:
        max_items: Most items to try; 0 for all.
        stop_at: Share of live items with a new vector at which to stop; 0 for all.
        rate: Most items a second; None for no limit.
        lease_s: Seconds after which others may take what a dead worker has.
    """

    max_items: int = 0
    stop_at: float = 0.0
    rate: float | None = None
    lease_s: float = 600.0

    def __post_init__(self) -> None:
        if self.max_items < 0:
            raise ValueError(f"max_items must be >= 0, got {self.max_items}")
        if not 0 <= self.stop_at <= 1:
            raise ValueError(f"stop_at must lie in 0..1, got {self.stop_at}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be > 0 items a second, got {self.rate}")
        if not self.lease_s > 0:
            raise ValueError(f"lease_s must be > 0, got {self.lease_s}")


@dataclass(frozen=True)
class Report:
    """What a backfill did.

    Attributes:
        tried: Items whose batch came back.
        failed: Of these, those that have no new vector.
        counts: Of the gallery at the end.
        failures: All items of the gallery that failed last time.
        stopped_by: Number of the signal that ended it early.
    """

    tried: int
    failed: int
    counts: Counts
    failures: tuple[Failure, ...]
    stopped_by: int | None


def run_backfill(
    folder: Path,
    job: BatchJob,
    limits: Limits | None = None,
    *,
    workers: int = 1,
    ray_address: str | None = None,
    retry: bool = False,
) -> Report:
    """Backfill a gallery; see the verb `backfill`.

    Raises:
        FileNotFoundError: Gallery, model or originals are missing.
        ValueError: The model is not the gallery's new one, or does not embed such originals.
        JobError: A worker died or cannot go on; what it had is tried again by the next run.
    """
    if ray_address is None:  # the devices of other machines are not known here
        check_devices(job.devices, workers=workers)
    limits = Limits() if limits is None else limits
    folder = Path(folder).resolve()  # for workers on other machines
    Gallery.open(folder, "r")  # says what is missing or damaged
    with WorkerName(folder) as name, closing(open_sink(folder, sender=name.name)) as sink:
        try:
            run = _Run(sink, job, limits, name.name, workers, ray_address)
            if retry:
                _retry(sink)
            return run.run()
        finally:
            forget_models()


def _retry(sink: ResultSink) -> None:
    if not isinstance(sink, WriterSink):
        raise ValueError(
            "failed items can only be put back by the gallery's writer; stop that process or wait "
            "until their time has come"
        )
    logger.info("%d failed items are tried again", sink.retry_failed())


class _Run:
    """One run on an open gallery."""

    def __init__(
        self,
        sink: ResultSink,
        job: BatchJob,
        limits: Limits,
        name: str,
        workers: int,
        ray_address: str | None,
    ) -> None:
        self._sink, self._job, self._limits = sink, job, limits
        self._workers, self._ray_address = workers, ray_address
        self._folder = sink.gallery.folder
        _check_model(sink, job, on_device=workers == 1 and ray_address is None)
        places = {item: place for place, item in enumerate(loaded_source(job.source).ids())}
        _check_originals(sink.gallery, places, source=job.source)
        self._queue = BatchQueue(
            sink.gallery, Leases(self._folder), name, ttl=limits.lease_s, places=places
        )
        self._work = self._folder / "workers" / name
        shutil.rmtree(self._work, ignore_errors=True)  # of a run that was killed
        self._bucket = TokenBucket(limits.rate)
        self._stop = StopSignal()
        self._batches: dict[str, Taken] = {}
        self._taken = self._tried = self._failed = 0
        self._towards = math.inf
        self._others, self._count_at = 1, 0.0

    def run(self) -> Report:
        """Work until nothing is left to do."""
        total = max(1, self._expected())
        with self._stop, JobProgress("backfill", total) as progress:
            try:
                while self._has_more():
                    self._drain(progress)
            finally:
                self._queue.give_back_all()
                shutil.rmtree(self._work, ignore_errors=True)
        gallery = self._sink.gallery
        gallery.refresh()
        return Report(
            tried=self._tried,
            failed=self._failed,
            counts=gallery.counts(),
            failures=tuple(gallery.failures()),
            stopped_by=self._stop.number,
        )

    def _expected(self) -> int:
        self._count()
        waiting = self._sink.gallery.counts().waiting
        return int(min(waiting, self._limits.max_items or math.inf, max(0, self._towards)))

    def _drain(self, progress: JobProgress) -> None:
        """Work until no further batch may be taken now, and all that were taken are settled."""
        function = partial(embed_batch, self._job)
        calls = self._calls()
        if self._ray_address is not None:
            outcomes = on_ray(function, calls, address=self._ray_address, workers=self._workers)
        elif self._workers > 1:
            outcomes = in_pool(function, calls, workers=self._workers)
        else:
            outcomes = in_process(function, calls)
        try:
            with closing(outcomes):
                for call, outcome in outcomes:
                    self._settle(call, outcome, progress)
        except WorkerDiedError as error:
            raise JobError(
                "a worker process died, perhaps for want of memory; run the same command again, "
                "with fewer workers or a smaller batch_size"
            ) from error

    def _calls(self) -> Iterator[Call]:
        """Give out batches; ends where none may be taken now."""
        number = 0
        while (size := self._size_now()) > 0:
            if self._sink.writes:
                self._sink.settle()
            self._queue.renew()
            taken = self._queue.take(size)
            count = len(taken.rows)
            if not count:
                return
            self._bucket.take(count)
            self._taken += count
            self._towards -= count
            number += 1
            key = f"{self._taken:012d}-{number}"
            self._batches[key] = taken
            yield Call(key, BatchTask(tuple(taken.ids)), self._work / key)

    def _settle(self, call: Call, outcome: Outcome, progress: JobProgress) -> None:
        rows, _, epoch = self._batches.pop(call.key)
        if isinstance(outcome, Failed):
            logger.debug("%s", outcome.traceback)
            raise JobError(f"a batch of {len(rows)} items: {outcome.reason}")
        reasons = {int(place): reason for place, reason in outcome.result["failed"].items()}
        good = np.ones(len(rows), dtype=bool)
        good[list(reasons)] = False
        failed = self._sink.put(
            rows[good],
            read_batch(call.folder),
            {int(rows[place]): reason for place, reason in reasons.items()},
            epoch=epoch,
        )
        self._queue.give_back(rows.tolist())
        shutil.rmtree(call.folder)
        self._tried += len(rows)
        self._failed += failed
        for number in range(len(rows)):
            progress.step(failed=number < failed)

    def _size_now(self) -> int:
        """Return the size of the next batch; waits for the rate, 0 where there may be none."""
        control = read_control(self._folder)
        rates = [self._limits.rate, control.rate and control.rate / self._share()]
        rates = [rate for rate in rates if rate is not None]
        self._bucket.set_rate(min(rates, default=None))
        while (delay := self._bucket.delay()) > 0 and self._stop.number is None:
            self._stop.sleep(delay)
        if self._stop.number is not None or control.paused:
            return 0
        size = min(self._job.batch_size, self._towards)
        if self._limits.max_items:
            size = min(size, self._limits.max_items - self._taken)
        if self._bucket.rate is not None:  # so that a batch is no burst
            size = min(size, max(1, int(self._bucket.rate)))
        return int(size)

    def _share(self) -> int:
        """Return among how many commands the gallery's rate is divided; looked at now and then."""
        if time.monotonic() >= self._count_at:
            self._others, self._count_at = (
                max(1, count_workers(self._folder)),
                time.monotonic() + COUNT_S,
            )
        return self._others

    def _has_more(self) -> bool:
        """Return whether there is a batch to take, after waiting for a pause or other workers."""
        said = ""
        while self._stop.number is None:
            settled = self._sink.settle()
            self._count()
            finished = self._towards <= 0 or (
                0 < self._limits.max_items <= self._taken or self._queue.is_empty()
            )
            if finished and settled:
                return False
            paused = read_control(self._folder).paused
            if not paused and not finished and self._queue.can_take():
                return True
            reason = "it is paused" if paused else "other processes are at the rest"
            if finished:
                reason = "its writer has not applied all results yet"
            if reason != said:  # a warning, so that nobody takes it for a hang
                logger.warning("waiting for %s: %s", self._folder, reason)
                said = reason
            self._queue.renew()
            self._stop.sleep(POLL_S)
        return False

    def _count(self) -> None:
        """Note how many items may still be given out before the share to stop at is reached."""
        if not self._limits.stop_at:
            return
        self._sink.gallery.refresh()
        counts = self._sink.gallery.counts()
        on_the_way = len(self._queue.inbox.rows()) + len(self._queue.in_flight)
        # An item more or less, for decimal fractions such as 0.3 that are no binary ones.
        target = math.floor(self._limits.stop_at * counts.live + 1e-9)
        self._towards = target - counts.new - on_the_way


def _check_originals(gallery: GalleryReader, places: Mapping[str, int], *, source: str) -> None:
    """Refuse originals of which not one is an item's: every item would fail."""
    rows = gallery.live_rows()
    for start in range(0, len(rows), LOOKED_UP):
        if any(item in places for item in gallery.id_of(rows[start : start + LOOKED_UP])):
            return
    if len(rows):
        raise ValueError(
            f"{source} has none of the {len(rows)} items of {gallery.folder}: items are called as "
            f"{gallery.id_of(rows[:1])[0]!r:.80}, originals as {next(iter(places), '')!r:.80}"
        )


def _check_model(sink: ResultSink, job: BatchJob, *, on_device: bool) -> None:
    """Refuse a model other than the gallery's new one, or originals that it does not take."""
    state = sink.gallery.state
    if state.phase == "final":
        raise ValueError(f"{sink.gallery.folder} is finalised: nothing is left to embed")
    source = loaded_source(job.source)
    encoder = encoder_of(job, job.devices[0] if on_device else "cpu")
    check_same(state.cards.new, encoder.card, what="model of the backfill")
    if encoder.kind != source.kind:
        raise ValueError(
            f"{encoder.card.name} embeds {encoder.kind}s, but {source.name} has {source.kind}s"
        )
