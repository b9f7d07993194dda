"""The verb `evaluate`: zero-shot classification, retrieval and word order on local data."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from mobileclip.datacomp import (
    NUM_CLASSES,
    TASKS,
    main_metric,
    require_classification,
    task_key,
)
from mobileclip.result_files import require_storable, store_result

if TYPE_CHECKING:
    from mobileclip.evaluation.embedding import Embedder

_log = logging.getLogger(__name__)

TaskKind = Literal["imagenet-folder", "wds", "retrieval", "order"]
Metrics = Mapping[str, float | None]

_OVER_CLASSES: tuple[TaskKind, ...] = ("imagenet-folder", "wds")


def evaluate(
    checkpoint: Path,
    *,
    task: TaskKind,
    root: Path,
    key: str = "",
    classnames: Path | None = None,
    templates: Path | None = None,
    ema: bool = True,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "auto",
    out: Path | None = None,
) -> None:
    """Measure a checkpoint on one data set, without training on it.

    Args:
        checkpoint: Checkpoint or run folder of `fit`, or a weights file.
        task: `imagenet-folder` (class folders), `wds` (a task of CLIP_benchmark or DataComp:
            `test/*.tar` with classnames.txt and zeroshot_classification_templates.txt; not
            FairFace, UTKFace and WinoGAViL, which do not count by classes),
            `retrieval` (`captions.json` beside images, or tars with `txt`), `order` (a JSON file of
            ARO-style records).
        root: The data's folder; for `order` the JSON file.
        key: Name of the task in the results; by default DataComp's for a folder named as its, else
            the folder's name. `imagenet1k`, `imagenetv2` and so on count in `aggregate`.
        classnames: File of class names, one a line, in the order of the labels.
        templates: File of prompts, one a line, with {} for the name.
        ema: Evaluate the moving average of the weights where the checkpoint has one.
        batch_size: Images at once.
        workers: Processes that decode images.
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`.
        out: Result file to add to (one JSON object a line, DataComp's format); a result of the same
            task is replaced.

    Raises:
        FileNotFoundError: Data are missing.
        ValueError: An option is impossible, there is no such checkpoint, the data have another
            form, the task is none of classes, or `out` cannot be written or is of another
            checkpoint.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size must be >= 1 and workers >= 0, got {batch_size}, {workers}")
    root = Path(root)
    key = key or task_key(root.stem)
    if task in _OVER_CLASSES:
        require_classification(key)
    if out is not None:
        require_storable(out, str(checkpoint))
    opened = _OPENERS[task](root, classnames, templates)
    embedder, image_size = _load(checkpoint, ema, batch_size, workers, device)
    metrics = opened.measure(embedder, image_size, key)
    result = {
        "key": key,
        "dataset": TASKS[key].dataset if key in TASKS else key,
        "metrics": {**metrics, "main_metric": main_metric(key, metrics)},
        "images": opened.images,
        "checkpoint": str(checkpoint),
    }
    Console(soft_wrap=True).print(_report(result))
    if out is not None:
        store_result(out, result)


class _Opened(NamedTuple):
    images: int
    measure: "Callable[[Embedder, int, str], Metrics]"


def _classification(root: Path, classnames: Path | None, templates: Path | None) -> _Opened:
    from mobileclip.evaluation.labelled import open_class_folders

    return _labelled(open_class_folders(root, classnames=classnames, templates=templates))


def _tars(root: Path, classnames: Path | None, templates: Path | None) -> _Opened:
    from mobileclip.evaluation.labelled import open_tar_task

    return _labelled(open_tar_task(root, classnames=classnames, templates=templates))


def _labelled(task: Any) -> _Opened:
    from mobileclip.evaluation import classification
    from mobileclip.evaluation.images import ModelInputs

    def measure(embedder: "Embedder", size: int, key: str) -> Metrics:
        _warn_of_other_classes(key, len(task.class_names))
        groups = classification.GROUPS.get(key)
        if groups is not None and task.metadata_NM is None:
            raise ValueError(f"{key} needs metadata: an npy member in each sample")
        image_ND = embedder.images(ModelInputs(task.images, size))
        ranked = classification.rank_classes(
            image_ND, embedder.texts, task.class_names, task.templates
        )
        metrics = classification.classification_metrics(ranked, task.label_N)
        if groups is None:
            return metrics
        worst = classification.group_metrics(groups, ranked, task.label_N, task.metadata_NM)
        return {**metrics, **worst}

    return _Opened(len(task.images), measure)


def _warn_of_other_classes(key: str, found: int) -> None:
    expected = NUM_CLASSES.get(key, found)
    if found != expected:
        text = "%s has %d classes, %d are measured: the result is not comparable; give another key"
        _log.warning(text, key, expected, found)


def _retrieval(root: Path, classnames: Path | None, templates: Path | None) -> _Opened:
    import torch

    from mobileclip.evaluation.captioned import open_captioned, retrieval_metrics
    from mobileclip.evaluation.images import ModelInputs

    _refuse_prompts(classnames, templates)
    task = open_captioned(root)

    def measure(embedder: "Embedder", size: int, key: str) -> Metrics:
        texts = [text for captions in task.captions for text in captions]
        counts = torch.tensor([len(captions) for captions in task.captions])
        pairs = torch.arange(len(counts)).repeat_interleave(counts)
        images = embedder.images(ModelInputs(task.images, size))
        return retrieval_metrics(images, embedder.texts(texts), pairs)

    return _Opened(len(task.images), measure)


def _order(root: Path, classnames: Path | None, templates: Path | None) -> _Opened:
    from mobileclip.evaluation.images import ModelInputs
    from mobileclip.evaluation.word_order import open_order_task, order_metrics

    _refuse_prompts(classnames, templates)
    task = open_order_task(root)

    def measure(embedder: "Embedder", size: int, key: str) -> Metrics:
        texts = [text for options in task.options for text in options]
        images = embedder.images(ModelInputs(task.images, size, boxes=task.boxes))
        counts = [len(options) for options in task.options]
        return order_metrics(images, embedder.texts(texts), counts, task.groups)

    return _Opened(len(task.images), measure)


_OPENERS: dict[TaskKind, Callable[[Path, Path | None, Path | None], _Opened]] = {
    "imagenet-folder": _classification,
    "wds": _tars,
    "retrieval": _retrieval,
    "order": _order,
}


def _refuse_prompts(classnames: Path | None, templates: Path | None) -> None:
    if classnames or templates:
        raise ValueError("classnames and templates belong to classification; leave them out")


def _load(
    checkpoint: Path, ema: bool, batch_size: int, workers: int, device: str
) -> "tuple[Embedder, int]":
    from mobileclip.checkpoint import load_model
    from mobileclip.evaluation.embedding import Embedder
    from tenfold.devices import choose_device

    chosen = choose_device(device)
    model = load_model(checkpoint, ema=ema).eval().to(chosen)
    embedder = Embedder(model, device=chosen, batch_size=batch_size, workers=workers)
    return embedder, model.image_size


def _report(result: Mapping[str, Any]) -> Table:
    table = Table("metric", title=f"{result['dataset']}, {result['images']:,} images")
    table.add_column("percent", justify="right")
    for name, value in result["metrics"].items():
        if value is not None:
            table.add_row(name, f"{100 * value:.2f}")
    return table
