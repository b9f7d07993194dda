"""Frozen features of windows: the mean over a network's tokens (spec 4, linear probe and kNN).

Shapes: n windows, C channels, D width, N tokens a channel.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biofame.data import WindowSource
from biofame.heads import average
from biofame.model import BioFame
from biofame.passes import open_source, rows_with_channels, run_over
from biofame.store import SignalStore
from biofame.weights import load_network
from tenfold.devices import choose_device


class Features(NamedTuple):
    """Pooled windows of a split.

    Attributes:
        vectors: float32 `[n, D]` on the CPU.
        rows: Their rows in the store, int64 `[n]`.
    """

    vectors: Tensor
    rows: NDArray[np.int64]


def pooled(
    network: BioFame,
    source: WindowSource,
    rows: NDArray[np.int64],
    *,
    batch_size: int = 256,
    device: torch.device,
) -> Tensor:
    """Return the mean over the tokens of the channels that each window has, `[n, D]` on the CPU.

    Args:
        network: It is moved to `device` and set to `eval()`.
        source: Reads the windows.
        rows: Which windows, each once.
        batch_size: Windows at once.
        device: Where the network runs.
    """
    network.to(device).eval()

    def pool(
        samples: Tensor, *, channels: Sequence[str], rate: float, present: Tensor | None
    ) -> Tensor:
        tokens = network(samples, channels=channels, rate=rate, present_BC=present)
        return average(tokens, present)

    return run_over(pool, source, rows, batch_size=batch_size, device=device)


def split_features(
    run: Path,
    data: Path | SignalStore,
    splits: tuple[str, ...],
    *,
    channels: list[str] | None = None,
    batch_size: int = 256,
    device: str = "cpu",
) -> dict[str, Features]:
    """Return the features of each split.

    Args:
        run: Run folder or checkpoint of a trained network.
        data: Store, open or its folder.
        splits: Their names.
        channels: The store's channels to use, all by default.
        batch_size: Windows at once.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        CheckpointError: There is no trained network.
        FileNotFoundError: There is no store.
        ValueError: The device is not there, or the store lacks a channel or a split.
    """
    place = choose_device(device)
    network = load_network(run)
    source = open_source(data, channels)
    found: dict[str, Features] = {}
    for split in splits:
        rows = rows_with_channels(source, split)
        vectors = pooled(network, source, rows, batch_size=batch_size, device=place)
        found[split] = Features(vectors, rows)
    return found
