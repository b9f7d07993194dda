"""Stores and networks that tests of evaluation share."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from biofame.config import HeadConfig, ModelConfig
from biofame.heads import Classifier
from biofame.model import BioFame
from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store

CHANNELS = ("eeg", "acc_x", "acc_y")
LENGTH = 24
MODEL = ModelConfig(
    channels=CHANNELS,
    rate=10.0,
    tokens=6,
    patch=4,
    dim=8,
    depth=1,
    mlp=8,
    filters=2,
    mixer_heads=2,
    mixer_mlp=8,
    dropout=0.0,
)


def write_small_store(folder: Path, **changed: Any) -> SignalStore:
    """Write 48 windows of two classes that a wave's frequency tells apart, 8 to a recording.

    The windows of a recording follow each other without a gap; the first four are of class 0.
    """
    rng = np.random.default_rng(7)
    labels = np.tile(np.repeat([0, 1], 4), 6)
    time = np.arange(LENGTH) / 10.0
    frequency = np.where(labels == 0, 0.8, 3.0)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (48, 3, 1))
    waves = np.sin(2 * np.pi * frequency * time + phase) + rng.normal(0, 0.2, (48, 3, LENGTH))
    fields: dict[str, Any] = {
        "samples": waves.astype(np.float32),
        "labels": labels,
        "subjects": [f"s{row // 8}" for row in range(48)],
        "recordings": [f"r{row // 8}" for row in range(48)],
        "onsets": np.tile(np.arange(8), 6) * LENGTH / 10.0,
        "splits": ["train"] * 24 + ["val"] * 8 + ["test"] * 16,
        **changed,
    }
    targets = ("level",) if "targets" in fields else ()
    info = StoreInfo(
        channels=CHANNELS,
        units=("uV", "g", "g"),
        rate=10.0,
        classes=("slow", "fast"),
        targets=targets,
    )
    write_store(folder, info, [Windows(**fields)])
    return open_store(folder)


def small_network(**changed: Any) -> BioFame:
    """Return a network with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return BioFame(ModelConfig(**{**vars(MODEL), **changed})).eval()


def small_classifier(network: BioFame | None = None, **head: Any) -> Classifier:
    """Return a network with a head of seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = HeadConfig(**{"outputs": 2, "mixup": 0.0, **head})
        return Classifier(network or small_network(), config).eval()
