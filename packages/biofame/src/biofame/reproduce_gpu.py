"""The scale `gpu` of `reproduce`: 200,000 windows of four sensors, on one GPU (spec 7b).

Recordings, pre-trainings, fine-tunings and timings are jobs of four kinds; an interrupted run goes
on at the first that is missing. Not here: what is concluded (`claims_gpu.py`).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from biofame.claims_gpu import judge_speed, judge_training, start_name
from biofame.config import LossConfig
from biofame.mismatch_views import all_subsets
from biofame.recordings_gpu import sleep_store
from biofame.resident_gpu import Place, ResidentWindows
from biofame.speed_gpu import (
    ATTENTION,
    FILTER,
    Curve,
    LengthTask,
    SpeedTask,
    plot_curves,
    time_encoders,
    time_training,
)
from biofame.store import SignalStore
from biofame.study_gpu import (
    KEYS,
    FinetuneTask,
    GpuScale,
    finetune,
    finetune_tasks,
    pretrain,
    pretrain_tasks,
)
from tenfold import atomic
from tenfold.jobs import run_jobs
from tenfold.results import Result

PRETRAINED, FINETUNED, SPEED = "pretrained", "finetuned", "speed"


def compare_on_gpu(
    size: GpuScale,
    folder: Path,
    *,
    recordings: Path,
    out: Path,
    seeds: int,
    workers: int,
    place: Place,
) -> dict[str, Result]:
    """Make what is missing, train and time every arm, and judge.

    Args:
        size: Sizes of everything.
        folder: Of what is trained and timed.
        recordings: Of the store, which does not change with the code of the network.
        out: For the plot of the crossover, `crossover_curves_gpu.png`.
        seeds: Fine-tunings of each start, and rounds of each timing.
        workers: Processes that draw people.
        place: Where and how networks run.

    Returns:
        Results by file name.
    """
    store = sleep_store(recordings, size.sleep, shares=size.shares, workers=workers)
    settings = {"store": atomic.sha256_file(store.folder / "store.json")}
    errors = _pretrained(size, store, folder / PRETRAINED, settings, place=place)
    accuracy = _finetuned(size, store, folder, settings, seeds=seeds, place=place)
    rates, curves = _timed(size, folder / SPEED, rounds=seeds, place=place)
    plot_curves(curves, out / "crossover_curves_gpu.png")
    repeated = {
        metric: {arm: [value] * seeds for arm, value in arms.items()}
        for metric, arms in errors.items()
    }
    notes = _notes(size)
    return judge_training(repeated, accuracy, notes=notes) | judge_speed(rates, curves, notes=notes)


def _pretrained(
    size: GpuScale, store: SignalStore, folder: Path, settings: Mapping[str, Any], *, place: Place
) -> dict[str, dict[str, float]]:
    """Return metric to arm to value."""
    tasks = pretrain_tasks(size)
    windows = ResidentWindows(store, place.device)
    job = partial(pretrain, windows=windows, data=store.folder, place=place)
    found = run_jobs(
        job,
        {KEYS[arm]: task for arm, task in tasks.items()},
        out=folder,
        settings=settings,
        title="pre-training",
    )
    return {
        metric: {arm: found[KEYS[arm]][metric] for arm in tasks}
        for metric in ("masked_error", "windows_per_s")
    }


def _finetuned(
    size: GpuScale,
    store: SignalStore,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    seeds: int,
    place: Place,
) -> dict[str, dict[str, list[float]]]:
    """Return set of sensors, all of them first, to start to percent, one value a seed."""
    tasks = finetune_tasks(pretrain_tasks(size), folder / PRETRAINED, size, seeds=seeds)
    job = partial(finetune, pretrained=folder / PRETRAINED, data=store.folder, place=place)
    found = run_jobs(job, tasks, out=folder / FINETUNED, settings=settings, title="fine-tuning")
    # In this order, as marks of jobs have their keys sorted.
    sets = ["+".join(kept) for kept in all_subsets(store.info.channels)]
    values: dict[str, dict[str, list[float]]] = {sensors: {} for sensors in sets}
    for key, task in tasks.items():
        for sensors in sets:
            percent = found[key]["accuracy"][sensors]
            values[sensors].setdefault(_start(task), []).append(percent)
    return values


def _timed(
    size: GpuScale, folder: Path, *, rounds: int, place: Place
) -> tuple[dict[int, dict[str, list[float]]], list[Curve]]:
    """Return windows a second by batch, and time a token by length."""
    trainings = {
        f"batch-{batch}": SpeedTask(
            model=size.network,
            decoder=size.decoder,
            loss=LossConfig(target="raw"),
            length=size.sleep.samples,
            batch_size=batch,
            steps=size.speed_steps,
            rounds=rounds,
        )
        for batch in size.speed_batches
    }
    lengths = {
        f"tokens-{tokens}": LengthTask(
            model=replace(size.network, dropout=0.0),
            tokens=tokens,
            windows=max(size.tokens_in_all // tokens, 1),
            rounds=rounds,
        )
        for tokens in size.lengths
    }
    steps = run_jobs(
        partial(time_training, place=place), trainings, out=folder, settings={}, title="steps"
    )
    encoders = run_jobs(
        partial(time_encoders, place=place), lengths, out=folder, settings={}, title="encoders"
    )
    rates = {task.batch_size: steps[key] for key, task in trainings.items()}
    return rates, [
        Curve(task.tokens, encoders[key][FILTER], encoders[key][ATTENTION])
        for key, task in lengths.items()
    ]


def _start(task: FinetuneTask) -> str:
    return start_name(task.arm, "pre-trained" if task.weights else "scratch")


def _notes(size: GpuScale) -> str:
    people, windows = size.sleep.subjects, size.sleep.windows_per_subject
    return (
        f"{people} people, {windows} windows of {size.sleep.seconds:g} s of "
        f"{', '.join(size.sleep.channels)} each, split by person; {size.windows:,} windows seen "
        f"in each pre-training, in steps of {size.batch_size} ({size.large_batch} for the large "
        f"batch), the published recipe has 7.7 million; {size.labels} labels, "
        f"{size.finetune_steps} steps of fine-tuning."
    )
