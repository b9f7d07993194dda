"""One pass over windows of a store with a network or a classifier in `eval()`.

Shapes: n windows, B windows or sequences of a batch, S windows of a sequence, C channels, K
outputs, D width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biofame.config import Task
from biofame.data import WindowBatch, WindowSource, columns_of
from biofame.heads import Classifier
from biofame.metrics import scores
from biofame.sequences import Items, groups_of
from biofame.store import SignalStore, open_store

Run = Callable[..., Tensor]
"""Called as `run(samples, channels=..., rate=..., present=...)`, returns `[B, ...]`."""


class Reader(Protocol):
    """What reads windows: a `WindowSource`, or what changes its windows."""

    @property
    def store(self) -> SignalStore:
        """Where the windows come from."""
        ...

    def read(self, items_BS: Items) -> WindowBatch:
        """Return the windows that items name; all have one length."""
        ...


def open_source(
    store: SignalStore | Path, channels: list[str] | None = None, *, context: int = 1
) -> WindowSource:
    """Return what reads a store's windows.

    Args:
        store: Open, or its folder.
        channels: Its channels to read, in this order; all by default.
        context: Windows of a sequence.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: It is damaged or lacks a channel.
    """
    opened = open_store(store) if isinstance(store, Path) else store
    columns = columns_of(opened.info.channels, channels, path=opened.folder)
    return WindowSource(opened, columns, opened.labels, context > 1)


def rows_with_channels(source: WindowSource, split: str) -> NDArray[np.int64]:
    """Return the windows of a split that have any of the channels that are read.

    Raises:
        ValueError: There are none.
    """
    rows = source.store.rows(split)
    rows = rows[source.store.present[np.ix_(rows, source.columns)].any(axis=1)]
    if not len(rows):
        names = ", ".join(source.store.info.channels[column] for column in source.columns)
        raise ValueError(f"{source.store.folder} has no windows of split {split} with {names}")
    return rows


def run_over(
    run: Run,
    reader: Reader,
    rows: NDArray[np.int64],
    *,
    context: int = 1,
    batch_size: int = 256,
    device: torch.device,
) -> Tensor:
    """Return what `run` makes of windows, on the CPU in the order of `rows`, `[n, ...]`.

    Args:
        run: A classifier, or a method of it, on `device`.
        reader: Reads the windows.
        rows: Which windows, each once.
        context: Windows of a sequence, for a staging head; the axis S is gone in what is returned.
        batch_size: Windows or sequences at once.
        device: Where `run` computes.
    """
    groups = groups_of(reader.store, rows, context=context)
    found: list[Tensor] = []
    with torch.inference_mode():
        for group in groups:
            for first in range(0, len(group), batch_size):
                batch = reader.read(group[first : first + batch_size])
                outputs = apply(run, batch, device=device)
                found.append((outputs.flatten(0, 1) if context > 1 else outputs).float().cpu())
    seen = np.concatenate([group.ravel() for group in groups])
    order = np.argsort(seen)
    return torch.cat(found)[torch.from_numpy(order[np.searchsorted(seen[order], rows)])]


def apply(run: Run, batch: WindowBatch, *, device: torch.device) -> Tensor:
    """Return what `run` makes of a batch."""
    present = batch.get("present")
    return run(
        batch["samples"].to(device, non_blocking=True),
        channels=batch["channels"],
        rate=batch["rate"],
        present=None if present is None else present.to(device),
    )


def truth_of(store: SignalStore, rows: NDArray[np.int64], task: Task) -> Tensor:
    """Return what a task's outputs are compared with: classes `[n]`, or targets `[n, K]`.

    Raises:
        ValueError: The store has no targets.
    """
    if task in ("classification", "staging"):
        return torch.from_numpy(store.labels[rows])
    if store.targets is None:
        raise ValueError(f"{store.folder} has no targets, which {task} needs")
    return torch.from_numpy(store.targets[rows])


def score_classifier(
    classifier: Classifier,
    reader: Reader,
    rows: NDArray[np.int64],
    *,
    batch_size: int = 256,
    device: torch.device,
) -> dict[str, float]:
    """Return the scores of a classifier, which is left in `eval()`."""
    config = classifier.config
    outputs = run_over(
        classifier.eval(),
        reader,
        rows,
        context=config.context,
        batch_size=batch_size,
        device=device,
    )
    return scores(config.task, outputs, truth_of(reader.store, rows, config.task))
