"""One job of `cache-features`: the originals of a stretch of ids to one file of pairs."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastfill.cache_writing import Dtype, write_pairs
from fastfill.config import Metric
from fastfill.encoders import Encoder, load_encoder
from fastfill.originals import Original, OriginalError, Source
from fastfill.sources import open_source
from fastfill.views import draw_view
from tenfold.devices import worker_device
from tenfold.measurements import one_thread

Augment = Literal["none", "rrc"]


@dataclass(frozen=True, kw_only=True)
class CacheJob:
    """What all files of a run share.

    Attributes:
        models: Names of old and new model, and of the side information's where there is one.
        metric: Of models that do not say themselves.
        data: The originals.
        num_views: Views of each item.
        augment: `rrc` for random crops and flips, `none` for the originals.
        seed: Of the views.
        dtype: How embeddings are stored.
        batch_size: Views that are embedded at once.
        devices: Where the workers' models run.
        threads: Threads of each worker that read originals.
    """

    models: tuple[str, ...]
    metric: Metric | None
    data: str
    num_views: int
    augment: Augment
    seed: int
    dtype: Dtype
    batch_size: int
    devices: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class CacheTask:
    """A stretch of the source's ids, and the file they go to."""

    first: int
    last: int
    name: str


@dataclass(frozen=True, eq=False)
class _Item:
    """One original as each model wants it: `[V]` prepared views for each model."""

    row: int
    prepared: list[list[Tensor]]


Read = _Item | OriginalError


def cache_stretch(job: CacheJob, task: CacheTask, folder: Path) -> dict[str, Any]:
    """Write one file of pairs below `folder`; return its entry and what failed, by id."""
    device = worker_device(job.devices)
    # One thread in every process: sums in another order would give other bits.
    with one_thread() if device.startswith("cpu") else nullcontext():
        encoders = loaded_models(job.models, job.metric, device, job.batch_size).all()
        source = loaded_source(job.data)
        failed: dict[str, str] = {}
        rows, columns = _embedded(job, task, encoders, source, failed)
        shard = write_pairs(
            folder / task.name,
            old=columns[0],
            new=columns[1],
            side=columns[2] if len(columns) > 2 else None,
            labels=source.labels[rows],
            dtype=job.dtype,
        )
    return {"shard": vars(shard), "failed": failed}


class Models(NamedTuple):
    """The models of a cache; `side` is None without side information."""

    old: Encoder
    new: Encoder
    side: Encoder | None = None

    def all(self) -> tuple[Encoder, ...]:
        """Return those that are there."""
        return (self.old, self.new) if self.side is None else (self.old, self.new, self.side)


@lru_cache(maxsize=1)
def loaded_models(
    names: tuple[str, ...], metric: Metric | None, device: str, batch_size: int
) -> Models:
    """Load the models once a process."""
    return Models(
        *(load_encoder(name, device=device, metric=metric, batch_size=batch_size) for name in names)
    )


@lru_cache(maxsize=1)
def loaded_source(data: str) -> Source:
    """Open the originals once a process."""
    return open_source(data)


def in_batches(rows: Sequence[int], read: Any, *, size: int, threads: int) -> Iterator[list[Any]]:
    """Yield `read` of some rows at a time, the next being read in threads meanwhile."""
    parts = (rows[first : first + size] for first in range(0, len(rows), size))
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[list[Future[Any]]] = deque()
        for part in parts:
            waiting.append([pool.submit(read, row) for row in part])
            if len(waiting) > 1:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]


def bad_vectors(vectors: NDArray[np.float32]) -> list[str | None]:
    """Return what is wrong with each vector `[n, d]`, None where nothing is."""
    return [_fault(vector) for vector in vectors]


def _fault(vector: NDArray[np.float32]) -> str | None:
    if not np.isfinite(vector).all():
        return "has an embedding with NaN or infinity"
    return None if vector.any() else "has an embedding of zeros"


def _embedded(
    job: CacheJob,
    task: CacheTask,
    encoders: Sequence[Encoder],
    source: Source,
    failed: dict[str, str],
) -> tuple[list[int], list[NDArray[np.float32]]]:
    """Return the rows that succeeded and for each model their embeddings `[n, V, d]`."""
    ids = source.ids()
    kept: list[int] = []
    parts: list[list[NDArray[np.float32]]] = [
        [np.zeros((0, job.num_views, encoder.card.dim), np.float32)] for encoder in encoders
    ]
    rows = range(task.first, task.last)
    read = partial(_read, job, source, encoders)
    size = max(1, job.batch_size // job.num_views)
    for batch in in_batches(rows, read, size=size, threads=job.threads):
        failed.update({item.id: item.reason for item in batch if isinstance(item, OriginalError)})
        items = [item for item in batch if isinstance(item, _Item)]
        embeddings = [_of_model(number, encoder, items) for number, encoder in enumerate(encoders)]
        good = _good([ids[item.row] for item in items], encoders, embeddings, failed)
        kept.extend(item.row for item, fine in zip(items, good, strict=True) if fine)
        for column, array in zip(parts, embeddings, strict=True):
            column.append(array[good])
    return kept, [np.concatenate(column) for column in parts]


def _read(job: CacheJob, source: Source, encoders: Sequence[Encoder], row: int) -> Read:
    id = source.ids()[row]
    try:
        original = source.load(id)
    except OriginalError as error:
        return error
    views = list(_views(job, encoders, original, id))
    whole = job.augment != "none"
    return _Item(row, [[one.prepare(view, whole=whole) for view in views] for one in encoders])


def _views(
    job: CacheJob, encoders: Sequence[Encoder], original: Original, id: str
) -> Iterable[Original]:
    if not isinstance(original, Image.Image) or job.augment == "none":
        yield original
        return
    # All models see the same view (spec 2.4), in the resolution of the largest.
    size = max(encoder.size for encoder in encoders)
    for view in range(job.num_views):
        yield draw_view(original, size=size, seed=job.seed, id=id, view=view)


def _of_model(number: int, encoder: Encoder, items: Sequence[_Item]) -> NDArray[np.float32]:
    flat = encoder.embed_prepared([view for item in items for view in item.prepared[number]])
    views = len(items[0].prepared[number]) if items else 1
    return flat.reshape(len(items), views, encoder.card.dim)


def _good(
    ids: Sequence[str],
    encoders: Sequence[Encoder],
    embeddings: Sequence[NDArray[np.float32]],
    failed: dict[str, str],
) -> NDArray[np.bool_]:
    good = np.ones(len(ids), dtype=bool)
    for encoder, array in zip(encoders, embeddings, strict=True):
        for row, id in enumerate(ids):
            reason = next((found for found in bad_vectors(array[row]) if found), None)
            if reason is not None:
                failed.setdefault(id, f"{reason} of {encoder.card.name}")
                good[row] = False
    return good
