"""The verb `few-shot`: what pre-training is worth where there are few labels (spec 4).

A scratch row always stands beside the pre-trained one: on some target sets random weights alone
reach more than 95 %.
"""

import math
from pathlib import Path

from rich.console import Console

from biofame.config import ModelConfig, Pooling
from biofame.passes import open_source, rows_with_channels
from biofame.probe import WindowTask
from biofame.score_tables import Scored, Summary, from_nullable, to_table, write_scores
from biofame.store import open_store
from biofame.training_jobs import Arm, TrainingJob, TrainingTask
from biofame.weights import load_network
from tenfold import atomic
from tenfold.devices import choose_device
from tenfold.jobs import run_jobs

LABELS = (0.01, 0.05, 0.1, 0.5)
SHOWN = {
    "classification": ("accuracy", "macro_f1", "auroc", "auprc"),
    "multilabel": ("auroc", "auprc", "macro_f1"),
    "regression": ("mae", "rmse", "r2", "pearson"),
}


def few_shot(
    data: Path,
    *,
    out: Path,
    run: Path | None = None,
    model: ModelConfig | None = None,
    labels: list[float] | None = None,
    seeds: int = 5,
    task: WindowTask = "classification",
    metric: str | None = None,
    channels: list[str] | None = None,
    steps: int = 1000,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    pooling: Pooling = "avg",
    mixup: float = 0.2,
    workers: int = 1,
    device: str = "cpu",
) -> None:
    """Fine-tune with few labels, from pre-trained and from random weights, and test.

    Weights are chosen on the validation split, and the test split is scored once, for each number
    of labels and seed. Both arms of a seed have the same labels. Started again after an
    interruption it goes on where it stopped.

    Args:
        data: Store with the splits train, val and test.
        out: Folder for `scores.json`, `scores.csv` and `few_shot.png`.
        run: Pre-trained run folder or checkpoint; without one only the scratch row is made.
        model: Network of the scratch row where there is no run; with one it has the run's.
        labels: Labelled training windows, each a share in (0, 1), their number, or 1 for all;
            by default 1, 5, 10 and 50 %.
        seeds: Number of seeds; fewer than 5 say little.
        task: `classification` of the store's classes, or `multilabel` or `regression` of its
            targets.
        metric: Score of the picture; macro_f1 or mae by default.
        channels: The store's channels to use; all by default.
        steps: Optimiser steps of each training.
        lr: Learning rate of Adam, constant.
        weight_decay: Its L2 penalty.
        batch_size: Windows of a step.
        pooling: `avg`, `cls` or `cat`; see `finetune --help`.
        mixup: Beta parameter of MixUp, of classification only; 0 for none.
        workers: Processes that train at once.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        CheckpointError: There is no trained network.
        FileNotFoundError: There is no store.
        JobError: A training failed.
        ValueError: An option is impossible, or `out` holds trainings made with other settings.
    """
    if run is not None and model is not None:
        raise ValueError("model is of the scratch row without run; with run it has the run's model")
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    amounts = tuple(labels or LABELS)
    choose_device(device)
    job = TrainingJob(
        run=run,
        model=model or ModelConfig(),
        data=data,
        task=task,
        pooling=pooling,
        mixup=mixup,
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        batch_size=batch_size,
        device=device,
    )
    _check_store(job, channels)
    tasks = plan(amounts, seeds=seeds, has_run=run is not None, channels=channels)
    settings = job.settings()
    results = run_jobs(job, tasks, out=out, settings=settings, workers=workers, title="few-shot")
    scored = [
        Scored(
            arm=each.arm,
            condition=labels_text(each.labels),
            seed=each.seed,
            scores=from_nullable(results[key]["test"]),
        )
        for key, each in tasks.items()
    ]
    summary = write_scores(out, scored, run=str(run), data=str(data), settings=settings)
    shown = metric or ("mae" if task == "regression" else "macro_f1")
    draw_curve(summary, shown, amounts, out / "few_shot.png")
    title = f"Test split of {data}, {seeds} seeds"
    Console(soft_wrap=True).print(to_table(summary, title=title, metrics=SHOWN[task]))


def plan(
    labels: tuple[float, ...], *, seeds: int, has_run: bool, channels: list[str] | None = None
) -> dict[str, TrainingTask]:
    """Return all trainings by name; those of a number of labels stand together.

    Raises:
        ValueError: A number of labels is there twice.
    """
    if len(set(labels)) < len(labels):
        raise ValueError(f"labels must be named once each, got {', '.join(map(str, labels))}")
    arms: tuple[Arm, ...] = ("pre-trained", "scratch") if has_run else ("scratch",)
    used = None if channels is None else tuple(channels)
    return {
        f"{arm}-{amount:g}-seed{seed}": TrainingTask(
            arm=arm, labels=float(amount), seed=seed, channels=used
        )
        for amount in labels
        for arm in arms
        for seed in range(seeds)
    }


def labels_text(amount: float) -> str:
    """Return how a number of labels is called in tables."""
    if amount == 1:
        return "all labels"
    return f"{100 * amount:g} % of labels" if amount < 1 else f"{amount:g} labels"


def draw_curve(summary: list[Summary], metric: str, labels: tuple[float, ...], path: Path) -> None:
    """Draw a score against the number of labels, a line with its spread for each arm.

    Raises:
        ValueError: There is no such score.
    """
    from matplotlib.figure import Figure

    known = list(dict.fromkeys(each.metric for each in summary))
    if metric not in known:
        raise ValueError(f"metric must be one of {', '.join(known)}, got {metric!r}")
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    place = {labels_text(amount): number for number, amount in enumerate(labels)}
    for arm in dict.fromkeys(each.arm for each in summary):
        line = [each for each in summary if each.arm == arm and each.metric == metric]
        axes.errorbar(
            [place[each.condition] for each in line],
            [each.mean for each in line],
            yerr=[0.0 if math.isnan(each.std) else each.std for each in line],
            marker="o",
            capsize=3,
            label=arm,
        )
    axes.set(xticks=range(len(place)), xticklabels=list(place), ylabel=f"test {metric}")
    axes.legend()
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _check_store(job: TrainingJob, channels: list[str] | None) -> None:
    """Find out what is missing before anything is trained."""
    store = open_store(job.data)
    source = open_source(store, channels)
    job.head(store)
    for split in ("train", "val", "test"):
        rows_with_channels(source, split)
    if job.run is not None:
        load_network(job.run)
