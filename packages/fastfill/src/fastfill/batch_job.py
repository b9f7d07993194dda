"""One batch of a backfill: fetch the originals of some ids and embed them, in any process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastfill.cache_job import loaded_source
from fastfill.config import Metric
from fastfill.encoders import Encoder, load_encoder
from fastfill.originals import OriginalError, Source
from tenfold.devices import worker_device
from tenfold.measurements import one_thread

VECTORS = "vectors.npy"


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """What all batches of a backfill share.

    Args:
        model: Name of the new model.
        source: Of the originals.
        metric: Of a model that does not say itself.
        batch_size: Items that are embedded at once.
        devices: Where the workers' models run.
        threads: Threads of each worker that read originals.
        load: Takes `model`, `device`, `metric` and `batch_size`; at the top level of a module.
    """

    model: str
    source: str
    metric: Metric | None = None
    batch_size: int = 256
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1
    load: Callable[..., Encoder] = load_encoder


@dataclass(frozen=True)
class BatchTask:
    """The ids of one batch."""

    ids: tuple[str, ...]


def embed_batch(job: BatchJob, task: BatchTask, folder: Path) -> dict[str, Any]:
    """Write the vectors of the ids that can be embedded; return why the others cannot, by place."""
    device = worker_device(job.devices)
    # One thread in every process: sums in another order would give other bits.
    with one_thread() if device.startswith("cpu") else nullcontext():
        encoder = encoder_of(job, device)
        read = partial(_read, encoder, loaded_source(job.source))
        with ThreadPoolExecutor(job.threads) as pool:
            prepared = list(pool.map(read, task.ids))
        good = [item for item in prepared if isinstance(item, Tensor)]
        np.save(folder / VECTORS, encoder.embed_prepared(good), allow_pickle=False)
    failed = {
        str(place): item.reason
        for place, item in enumerate(prepared)
        if isinstance(item, OriginalError)
    }
    return {"failed": failed}


def read_batch(folder: Path) -> NDArray[np.float32]:
    """Return the vectors that `embed_batch` wrote, `[n, d]`."""
    return np.load(folder / VECTORS, allow_pickle=False)


def encoder_of(job: BatchJob, device: str) -> Encoder:
    """Load the new model, once a process."""
    return _loaded(job.load, job.model, job.metric, device, job.batch_size)


def forget_models() -> None:
    """Let go of the model and the originals that this process has opened."""
    _loaded.cache_clear()
    loaded_source.cache_clear()


@lru_cache(maxsize=1)
def _loaded(
    load: Callable[..., Encoder], model: str, metric: Metric | None, device: str, batch_size: int
) -> Encoder:
    return load(model, device=device, metric=metric, batch_size=batch_size)


def _read(encoder: Encoder, source: Source, item: str) -> Tensor | OriginalError:
    try:
        return encoder.prepare(source.load(item))
    except OriginalError as error:
        return error
