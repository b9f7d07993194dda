"""The verbs `probe` and `knn`: what frozen features tell without training the network (spec 4)."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from sklearn.neighbors import KNeighborsRegressor

from biofame.data import SignalData
from biofame.features import Features, split_features
from biofame.linear_probe import Labelled, ProbeConfig, score_probe, train_probe
from biofame.losses import one_hot
from biofame.metrics import scores
from biofame.passes import truth_of
from biofame.score_tables import Scored, to_table, write_scores
from biofame.store import SignalStore, open_store

log = logging.getLogger(__name__)

WindowTask = Literal["classification", "multilabel", "regression"]
NEVER = 1e-12
"""Stands for a share of 0 where its logarithm is taken."""


def probe(
    run: Path,
    data: Path,
    *,
    task: WindowTask = "classification",
    channels: list[str] | None = None,
    labels: float | None = None,
    seeds: int = 5,
    epochs: int = 50,
    lr: float = 1e-2,
    weight_decay: float = 1e-5,
    batch_size: int = 1024,
    feature_batch: int = 256,
    out: Path | None = None,
    device: str = "cpu",
) -> None:
    """Train a linear layer on a network's frozen features and test it.

    The epoch is chosen on the validation split and the test split is scored once, for each seed.

    Args:
        run: Run folder or checkpoint of a trained network.
        data: Store with the splits train, val and test.
        task: `classification` of the store's classes, or `multilabel` or `regression` of its
            targets.
        channels: The store's channels to use; all by default.
        labels: Labelled training windows, a share in (0, 1) or their number; all by default.
        seeds: Number of seeds, of first weights, order and choice of labels.
        epochs: Passes over the labelled windows.
        lr: Learning rate of Adam.
        weight_decay: Its L2 penalty.
        batch_size: Windows of a step.
        feature_batch: Windows at once through the network.
        out: Folder for `scores.json` and `scores.csv`; by default only a table is shown.
        device: Where the network runs: `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        CheckpointError: There is no trained network.
        FileNotFoundError: There is no store.
        ValueError: An option is impossible, or the store lacks a channel, a split or labels.
    """
    config = ProbeConfig(epochs=epochs, lr=lr, weight_decay=weight_decay, batch_size=batch_size)
    store = open_store(data)
    outputs = count_outputs(store, task)
    found = split_features(
        run,
        store,
        ("train", "val", "test"),
        channels=channels,
        batch_size=feature_batch,
        device=device,
    )
    parts = {name: _labelled(store, each, task) for name, each in found.items()}

    def measure(seed: int) -> dict[str, float]:
        train = _few(parts["train"], found["train"], store, channels, labels, seed)
        layer = train_probe(
            train, parts["val"], task=task, outputs=outputs, config=config, seed=seed
        )
        return score_probe(layer, parts["test"])

    _over_seeds("linear probe", measure, run=run, data=data, labels=labels, seeds=seeds, out=out)


def knn(
    run: Path,
    data: Path,
    *,
    k: int = 20,
    task: WindowTask = "classification",
    channels: list[str] | None = None,
    labels: float | None = None,
    seeds: int = 5,
    feature_batch: int = 256,
    out: Path | None = None,
    device: str = "cpu",
) -> None:
    """Let the nearest training windows vote, by the cosine of a network's frozen features.

    Each of the k neighbours has one vote; for `regression` their mean is taken. Nothing is chosen,
    so that the validation split is not used.

    Args:
        run: Run folder or checkpoint of a trained network.
        data: Store with the splits train and test.
        k: Neighbours.
        task: `classification` of the store's classes, or `multilabel` or `regression` of its
            targets.
        channels: The store's channels to use; all by default.
        labels: Labelled training windows, a share in (0, 1) or their number; all by default.
        seeds: Number of seeds of the choice of labels; one is enough where all are used.
        feature_batch: Windows at once through the network.
        out: Folder for `scores.json` and `scores.csv`; by default only a table is shown.
        device: Where the network runs: `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        CheckpointError: There is no trained network.
        FileNotFoundError: There is no store.
        ValueError: An option is impossible, or the store lacks a channel, a split or labels.
    """
    store = open_store(data)
    outputs = count_outputs(store, task)
    found = split_features(
        run, store, ("train", "test"), channels=channels, batch_size=feature_batch, device=device
    )
    parts = {name: _labelled(store, each, task) for name, each in found.items()}

    def measure(seed: int) -> dict[str, float]:
        train = _few(parts["train"], found["train"], store, channels, labels, seed)
        return score_neighbours(train, parts["test"], task=task, outputs=outputs, k=k)

    used = seeds if labels is not None else 1
    name = f"{k} nearest neighbours"
    _over_seeds(name, measure, run=run, data=data, labels=labels, seeds=used, out=out)


def score_neighbours(
    train: Labelled, test: Labelled, *, task: WindowTask, outputs: int, k: int
) -> dict[str, float]:
    """Return the scores of the mean over each test window's k nearest training windows.

    Raises:
        ValueError: There are fewer training windows than k.
    """
    if not 1 <= k <= len(train.features):
        raise ValueError(f"k must lie in 1..{len(train.features)}, the labelled windows, got {k}")
    votes = one_hot(train.truth, outputs) if task == "classification" else train.truth
    neighbours = KNeighborsRegressor(n_neighbors=k, metric="cosine", algorithm="brute")
    neighbours.fit(train.features.numpy(), votes.numpy())
    means = torch.from_numpy(neighbours.predict(test.features.numpy())).reshape(-1, outputs)
    if task == "classification":
        means = means.clamp(min=NEVER).log()  # of which the scores take the softmax
    elif task == "multilabel":
        means = means.logit(eps=NEVER)
    return scores(task, means, test.truth)


def count_outputs(store: SignalStore, task: str) -> int:
    """Return how many classes or targets a store has.

    Raises:
        ValueError: It has none of those that the task is about.
    """
    if task in ("classification", "staging"):
        count = len(store.info.classes) or int(store.labels.max(initial=-1)) + 1
        if count < 2:
            raise ValueError(
                f"{store.folder} has {count} classes, expected 2 or more for {task}: prepare it "
                "with labels, or choose another task"
            )
        return count
    if not store.info.targets:
        raise ValueError(f"{store.folder} has no targets, which {task} needs")
    return len(store.info.targets)


def _labelled(store: SignalStore, found: Features, task: WindowTask) -> Labelled:
    return Labelled(found.vectors, truth_of(store, found.rows, task))


def _few(
    train: Labelled,
    found: Features,
    store: SignalStore,
    channels: list[str] | None,
    labels: float | None,
    seed: int,
) -> Labelled:
    """Return the training windows that keep their labels, the same ones as in fine-tuning."""
    kept = np.arange(len(found.rows))
    if labels is not None:
        chosen = SignalData(store.folder, seed=seed, channels=channels, labels=labels)
        chosen.setup("fit")
        kept = np.searchsorted(found.rows, chosen.training_rows)
    places = torch.from_numpy(kept)
    truth = train.truth[places]
    known = truth >= 0 if truth.ndim == 1 else ~truth.isnan().any(dim=1)
    if not known.any():
        raise ValueError(f"{store.folder} has no labelled training window")
    return Labelled(train.features[places][known], truth[known])


def _over_seeds(
    name: str,
    measure: Callable[[int], Mapping[str, float]],
    *,
    run: Path,
    data: Path,
    labels: float | None,
    seeds: int,
    out: Path | None,
) -> None:
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    condition = "" if labels is None else f"labels {labels:g}"
    scored = [
        Scored(arm=name, condition=condition, seed=seed, scores=measure(seed))
        for seed in range(seeds)
    ]
    summary = write_scores(out, scored, run=str(run), data=str(data))
    Console(soft_wrap=True).print(to_table(summary, title=f"{run} on the test split of {data}"))
