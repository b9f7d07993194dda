"""The verb `mismatch`: a trained model with sensors lost or swapped, other lengths and rates.

The paper claims that it stands modality dropout and substitution (abstract); spec 4 says how that
is tested.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from biofame.config import ModelConfig
from biofame.heads import Classifier
from biofame.metrics import SELECTION
from biofame.mismatch_conditions import (
    ALL_SUBSETS,
    Condition,
    Swap,
    dropped,
    kept_sensors,
    matched,
    parse_swaps,
    resampled,
    resized,
    substituted,
)
from biofame.mismatch_report import Outcome, mismatch_table, write_mismatch
from biofame.mismatch_views import sensors_of
from biofame.passes import open_source, rows_with_channels, score_classifier
from biofame.score_tables import from_nullable
from biofame.store import SignalStore, open_store
from biofame.training_jobs import TrainingJob, TrainingTask
from biofame.weights import load_classifier
from tenfold.devices import choose_device
from tenfold.jobs import run_jobs

TUNED = "fine-tuned as pre-trained"


def mismatch(
    run: Path,
    data: Path,
    *,
    out: Path,
    drop: list[str] | None = None,
    by_modality: bool = False,
    substitute: list[str] | None = None,
    lengths: list[float] | None = None,
    rates: list[float] | None = None,
    metric: str | None = None,
    pretrained: Path | None = None,
    labels: float = 1,
    seeds: int = 5,
    steps: int = 1000,
    lr: float = 1e-3,
    batch_size: int = 256,
    workers: int = 1,
    device: str = "cpu",
) -> None:
    """Test a fine-tuned model on windows that are not as it was trained.

    Each test is compared with the same model on all its channels, at the length and rate of the
    store: the relative drop is the share of that score that is lost. With `pretrained`, that
    network is fine-tuned anew for each set of sensors of `drop` and `substitute`, over seeds, and
    compared with its fine-tuning on all channels; interrupted, this goes on where it stopped.

    Args:
        run: Run folder or checkpoint of `finetune`.
        data: Store with the model's channels and a split test.
        out: Folder for `mismatch.csv`, `mismatch.json` and `mismatch.png`.
        drop: Sensors to leave out, several at once with `+` between; `all-subsets`, the default,
            for every subset that leaves a sensor. `none` for no such test.
        by_modality: Whether a sensor is all channels of a kind, such as acc_x, acc_y and acc_z.
        substitute: Words `<trained>=<other>`: another channel of the store in the place of one that
            the model was trained on.
        lengths: Lengths of windows, in those of the store; 0.5, 1 and 2 by default (of
            staging not 2). Shorter ones
            are cut from the middle; longer ones are joined with the windows that follow in the
            recording, without a gap and with the same label, or else repeated.
        rates: Samples per second to resample to; none by default.
        metric: Score of the table; macro_f1 or mae by default.
        pretrained: Run folder or checkpoint of a pre-trained network.
        labels: Labelled training windows of the fine-tunings: a share, their number, or 1 for all.
        seeds: Number of fine-tunings of each set of sensors.
        steps: Optimiser steps of each.
        lr: Learning rate of each.
        batch_size: Windows at once in tests; trainings take up to 128 of them a step.
        workers: Processes that fine-tune at once.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        CheckpointError: There is no fine-tuned model.
        FileNotFoundError: There is no store.
        JobError: A fine-tuning failed.
        ValueError: An option is impossible, or the store lacks a channel or a split.
    """
    place = choose_device(device)
    classifier, store = load_classifier(run).classifier, open_store(data)
    words = [ALL_SUBSETS] if drop is None else [word for word in drop if word != "none"]
    channels = classifier.network.config.channels
    usual_lengths = [0.5, 1] if classifier.config.task == "staging" else [0.5, 1, 2]
    swaps = parse_swaps(substitute or [], channels, store)
    start = matched(classifier, store)
    rows = rows_with_channels(start.view.source, "test")
    conditions = [
        start,
        *dropped(classifier, store, words, by_modality=by_modality),
        *substituted(classifier, store, swaps),
        *resized(classifier, start.view, rows, lengths or usual_lengths),
        *resampled(start.view, rates or []),
    ]
    shown = metric or SELECTION[classifier.config.task][0]
    tested = run_tests(classifier, conditions, batch_size=batch_size, device=place)
    if shown not in tested[0].scores[0]:
        raise ValueError(f"metric must be one of {', '.join(tested[0].scores[0])}, got {shown!r}")
    if pretrained is not None:
        sensors = sensors_of(channels, by_modality=by_modality)
        sets = channel_sets(sensors, kept_sensors(tuple(sensors), words), channels, swaps)
        job = TrainingJob(
            run=pretrained,
            model=ModelConfig(),
            data=data,
            task=classifier.config.task,
            pooling=classifier.config.pooling,
            mixup=classifier.config.mixup,
            steps=steps,
            lr=lr,
            weight_decay=1e-4,
            batch_size=min(batch_size, 128),
            device=device,
        )
        tested += fine_tuned(
            job, sets, labels=labels, seeds=seeds, out=out, workers=workers, store=store
        )
    write_mismatch(out, tested, shown, run=str(run), data=str(data), pretrained=str(pretrained))
    title = f"{run} on the test split of {data}"
    Console(soft_wrap=True).print(mismatch_table(tested, shown, title=title))


def run_tests(
    classifier: Classifier,
    conditions: Sequence[Condition],
    *,
    batch_size: int,
    device: torch.device,
) -> list[Outcome]:
    """Score a classifier under each condition."""
    classifier.to(device)
    tested: list[Outcome] = []
    for each in conditions:
        rows = rows_with_channels(each.view.source, "test")
        if each.view.kept is not None:
            there = each.view.store.present[rows][:, each.view.source.columns]
            rows = rows[(there & each.view.kept).any(axis=1)]
        found = score_classifier(classifier, each.view, rows, batch_size=batch_size, device=device)
        tested.append(
            Outcome(
                kind=each.kind,
                condition=each.name,
                windows=len(rows),
                note=each.note,
                scores=(found,),
            )
        )
    return tested


def channel_sets(
    sensors: dict[str, tuple[str, ...]],
    kept: Sequence[tuple[str, ...]],
    channels: Sequence[str],
    swaps: Sequence[Swap],
) -> dict[str, tuple[str, ...]]:
    """Return by condition the channels of each fine-tuning, first all of them."""
    sets = {"all channels": tuple(channels)}
    for left in kept:
        gone = [sensor for sensor in sensors if sensor not in left]
        lost = {name for sensor in gone for name in sensors[sensor]}
        label = f"without {', '.join(gone)}"
        sets[label] = tuple(name for name in channels if name not in lost)
    for swap in swaps:
        label = f"{swap.other} in the place of {swap.trained}"
        sets[label] = tuple(swap.applied(channels))
    return sets


def fine_tuned(
    job: TrainingJob,
    sets: dict[str, tuple[str, ...]],
    *,
    labels: float,
    seeds: int,
    out: Path,
    workers: int,
    store: SignalStore,
) -> list[Outcome]:
    """Fine-tune the pre-trained network for each set of channels and seed, and test it there.

    Raises:
        ValueError: The head is of staging, or there is no seed.
    """
    if job.task == "staging" or seeds < 1:
        raise ValueError(
            f"pretrained fine-tunes heads of single windows over seeds >= 1, got {job.task} and "
            f"seeds {seeds}"
        )
    tasks = {
        f"set{number}-seed{seed}": TrainingTask(
            arm="pre-trained", labels=float(labels), seed=seed, channels=channels
        )
        for number, channels in enumerate(sets.values())
        for seed in range(seeds)
    }
    results = run_jobs(
        job, tasks, out=out, settings=job.settings(), workers=workers, title="mismatch"
    )
    tested: list[Outcome] = []
    for number, (condition, channels) in enumerate(sets.items()):
        windows = rows_with_channels(open_source(store, list(channels)), "test")
        scores = tuple(
            from_nullable(results[f"set{number}-seed{seed}"]["test"]) for seed in range(seeds)
        )
        kind = TUNED if number == 0 else "fine-tuned"
        tested.append(
            Outcome(
                kind=kind,
                condition=condition,
                windows=len(windows),
                scores=scores,
                against=TUNED,
            )
        )
    return tested
