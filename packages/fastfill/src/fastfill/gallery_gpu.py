"""A gallery of a million vectors, searched while it is backfilled; speed of h and of the new model.

Cells are fitted anew beside the writer whenever a quarter of the vectors has been overwritten, as
`FaissIvf` does by itself in the writer's thread. Recall is measured at every quarter of the
backfill, with the cells as they are at that moment. Not here: the models (`study_gpu.py`).
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastfill.index.faiss_ivf import FaissIvf
from fastfill.ordering import OrderInputs, order
from fastfill.shapes_training import embed_shapes
from fastfill.study import FASTFILL, Values
from fastfill.study_gpu import ShapeUpdate, trained_map, update_models
from fastfill.transform import transform_all
from tenfold import keyed
from tenfold.cli.quiet import silence_adverts

QUARTERS = (0.25, 0.5, 0.75, 1.0)
RETRAIN_AT = 0.25
BATCH, K, REPEATS = 256, 10, 5
LEAST_QUERIES = 20
"""Timed at each stage, however short it is."""
IMAGES, ITEMS = 512, 65_536
"""A call's images and items when speed is measured."""


class Drift(NamedTuple):
    """Vectors `[N, d]` before and after, the order of the backfill, queries `[Q, d]`."""

    z: NDArray[np.float32]
    new: NDArray[np.float32]
    order: NDArray[np.int64]
    queries: NDArray[np.float32]


def measure_gallery(update: ShapeUpdate, folder: Path) -> Values:
    """Return metric to arm to value; a job, which leaves no file in its folder."""
    silence_adverts()
    return _speed(update) | backfill_while_searched(_drift(update), rate=update.size.rate)


def backfill_while_searched(drift: Drift, *, rate: float) -> Values:
    """Overwrite a whole gallery at a rate, and search it meanwhile.

    Returns:
        Queries a second, items written a second and recall of the 10 nearest at each stage, and
        how often the cells were fitted.
    """
    index = _filled(drift.z)
    found: Values = {"queries_per_s": {}, "written_per_s": {}, "recall_at_10": {}}
    asked = _queries(index, drift.queries)
    found["queries_per_s"]["before"] = _timed(asked, lambda count: count >= LEAST_QUERIES)
    found["recall_at_10"]["0%"] = recall(index, drift.queries)
    with _retrained(index), _Writer(index, drift, rate) as writer:
        for share in QUARTERS:
            writer.allow(round(share * len(drift.z)))
            found["queries_per_s"][f"until {share:.0%}"] = _timed(
                asked, lambda count: count >= LEAST_QUERIES and writer.is_waiting
            )
            found["written_per_s"][f"until {share:.0%}"] = writer.per_second
            found["recall_at_10"][f"{share:.0%}"] = recall(index, drift.queries)
    found["trainings"] = {"faiss-ivf": float(index.trainings)}
    index.close()
    return found


def recall(index: FaissIvf, queries: NDArray[np.float32]) -> float:
    """Return the share of the true 10 nearest that a search by cells finds."""
    found, right = (index.search(queries, K, exact=exact).rows for exact in (False, True))
    same = [len(np.intersect1d(*pair)) for pair in zip(found, right, strict=True)]
    return float(np.mean(same)) / right.shape[1]


class _Writer:
    """A thread that overwrites vectors in the order of the backfill, as far as it is allowed to."""

    def __init__(self, index: FaissIvf, drift: Drift, rate: float) -> None:
        self._index, self._drift, self._rate = index, drift, rate
        self._change = threading.Condition()
        self._allowed = self._written = self._first = 0
        self._began = self._ended = time.perf_counter()
        self._stop, self._error = False, None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._stop = True
            self._change.notify_all()
        self._thread.join()

    def allow(self, items: int) -> None:
        """Let it go on until so many items in all are written."""
        with self._change:
            self._first, self._began = self._written, time.perf_counter()
            self._allowed = items
            self._change.notify_all()

    @property
    def is_waiting(self) -> bool:
        """Whether all that is allowed is written.

        Raises:
            RuntimeError: The thread has failed.
        """
        if self._error is not None:
            raise RuntimeError(f"writing to the index failed: {self._error}") from self._error
        return self._written >= self._allowed

    @property
    def per_second(self) -> float:
        """Items written a second since the last `allow`, up to the last one written."""
        return (self._written - self._first) / max(self._ended - self._began, 1e-9)

    def _run(self) -> None:
        try:
            while self._wait():
                rows = self._drift.order[self._written : min(self._written + BATCH, self._allowed)]
                self._index.upsert(rows, self._drift.new[rows])
                self._ended = time.perf_counter()
                self._written += len(rows)
        except Exception as error:  # told by the thread that measures
            self._error = error

    def _wait(self) -> bool:
        with self._change:
            self._change.wait_for(lambda: self._stop or self._written < self._allowed)
        due = self._began + (self._written - self._first) / self._rate
        time.sleep(max(0.0, due - time.perf_counter()))
        return not self._stop


@contextmanager
def _retrained(index: FaissIvf) -> Generator[None]:
    """Fit the cells anew in a thread of their own whenever that is due.

    Raises:
        RuntimeError: That has failed.
    """
    stop, errors = threading.Event(), list[Exception]()

    def run() -> None:
        try:
            while not stop.wait(0.02):
                if index.drift > RETRAIN_AT:
                    index.retrain()
        except Exception as error:  # told by the thread that measures
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise RuntimeError(f"fitting the cells failed: {errors[0]}") from errors[0]


def _filled(z: NDArray[np.float32]) -> FaissIvf:
    """Return an index whose cells are fitted to all of z; later fittings are asked for."""
    index = FaissIvf(dim=z.shape[1], metric="l2", train_at=len(z), retrain_at=1.0)
    index.upsert(np.arange(len(z)), z)
    return index


def _queries(index: FaissIvf, queries: NDArray[np.float32]) -> Iterator[None]:
    while True:
        for query in queries:
            index.search(query[None], K)
            yield


def _timed(asked: Iterator[None], enough: Callable[[int], bool]) -> float:
    """Ask until it is enough; return queries a second."""
    began, count = time.perf_counter(), 0
    while not enough(count):
        next(asked)
        count += 1
    return count / (time.perf_counter() - began)


def _drift(update: ShapeUpdate) -> Drift:
    """Embed the whole gallery with both models, map it, and put it in the order by sigma."""
    models = update_models(update)
    images = update.images("gallery", update.size.gallery)
    old, new = (embed_shapes(model, images) for model in (models.old, models.new))
    z, s = transform_all(trained_map(update, models, FASTFILL), old)
    queries = embed_shapes(models.new, update.images("queries", update.size.queries))
    return Drift(z, new, order("sigma", OrderInputs(size=len(s), s=s)), queries)


def _speed(update: ShapeUpdate) -> Values:
    """Time h and the new model with what is on the device already, bfloat16 on a GPU."""
    models = update_models(update)
    h = trained_map(update, models, FASTFILL).eval()
    size, on_gpu = update.size, update.device == "cuda"
    count = min(IMAGES, size.test)
    images = update.images("test", size.test).images(np.arange(count))
    items = min(ITEMS, size.gallery)
    draw = keyed.generator("speed of h").standard_normal((items, h.old_dim), dtype=np.float32)
    vectors = torch.from_numpy(draw).to(update.device)
    kind = "bfloat16" if on_gpu else "float32"
    return {
        "items_per_s": {
            f"h, {kind}": items / _seconds(lambda: h(vectors).z, on_gpu=on_gpu),
            f"new model, {kind}": count
            / _seconds(lambda: models.new.embed_uint8(images), on_gpu=on_gpu),
        }
    }


def _seconds(run: Callable[[], Tensor], *, on_gpu: bool) -> float:
    """Return the median time of a call after a first one."""
    times = []
    context = torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext()
    with torch.inference_mode(), context:
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            run()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return median(times[1:])
