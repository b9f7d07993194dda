"""Scores of a pass over a split (spec 4); what a class or a target lacks is left out, not guessed.

The names are scikit-learn's, except `mean_ovr_accuracy`: the released code calls that one
`bal_binary`, though it is no balanced accuracy.

Shapes: n windows, K outputs.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from biofame.config import Task

Numbers = NDArray[np.float64]

SELECTION: dict[Task, tuple[str, Literal["max", "min"]]] = {
    "classification": ("macro_f1", "max"),
    "staging": ("macro_f1", "max"),
    "multilabel": ("macro_f1", "max"),
    "regression": ("mae", "min"),
}
"""By which score of the validation split a checkpoint is chosen."""


def scores(
    task: Task, outputs: Tensor, labels: Tensor, *, outputs_names: Sequence[str] = ()
) -> dict[str, float]:
    """Return all scores of a task.

    Classes: accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1, auroc, auprc,
    mean_ovr_accuracy. Several labels: auroc, auprc, macro_f1, exact_match. Numbers: mae, rmse, r2,
    pearson. Precision, recall and F1 are means over the classes that occur or are predicted; auroc
    and auprc over those that tell windows apart; r2 and pearson over the targets that vary. A score
    that nothing is left for is NaN.

    Args:
        task: `staging` is scored as `classification` of its windows.
        outputs: Logits or numbers, `[..., K]`.
        labels: Classes, int64 `[...]`, or `[..., K]` zeros and ones or numbers. Windows of class -1
            or with a NaN are unknown and left out.
        outputs_names: Adds `f1_<name>` of each class, `auroc_<name>` of each label or `mae_<name>`
            of each number.

    Raises:
        ValueError: Shapes or names do not fit, a class is not among the outputs, or no window is
            known.
    """
    rows, known = _known(task, outputs, labels)
    if len(known) == 0:
        raise ValueError("scores need at least one labelled window, got none")
    width = rows.shape[1]
    if outputs_names and len(outputs_names) != width:
        raise ValueError(f"there are {width} outputs, got {len(outputs_names)} names of outputs")
    values = rows.detach().to("cpu", torch.float64)
    truth = known.detach().cpu().numpy()
    if task == "multilabel":
        return _label_scores(values.numpy(), truth, outputs_names)
    if task == "regression":
        return _number_scores(values.numpy(), truth.astype(np.float64), outputs_names)
    if truth.max() >= width:
        raise ValueError(f"classes must be below the {width} outputs, got {truth.max()}")
    return _class_scores(values.softmax(1).numpy(), truth, outputs_names)


class WindowScores(Metric):
    """`scores` of all windows of a pass, gathered from all ranks.

    Args:
        task: What is scored.
        outputs: K.
    """

    full_state_update = False
    outputs_seen: list[Tensor] | Tensor
    labels_seen: list[Tensor] | Tensor

    def __init__(self, task: Task, outputs: int) -> None:
        super().__init__()
        self.task: Task = task
        self.width = outputs
        self.add_state("outputs_seen", default=[], dist_reduce_fx="cat")
        self.add_state("labels_seen", default=[], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch; see `scores` for shapes and unknown windows."""
        if outputs.shape[-1] != self.width:
            raise ValueError(f"expected {self.width} outputs, got {outputs.shape[-1]}")
        rows, known = _known(self.task, outputs.detach(), labels.detach())
        # Kept when empty as well, so that all ranks gather the same states.
        assert isinstance(self.outputs_seen, list)
        assert isinstance(self.labels_seen, list)
        self.outputs_seen.append(rows.float())
        self.labels_seen.append(known)

    def compute(self) -> dict[str, Tensor]:
        """Return each score as a float32 scalar.

        Raises:
            ValueError: No window was labelled.
        """
        found = scores(self.task, dim_zero_cat(self.outputs_seen), dim_zero_cat(self.labels_seen))
        return {
            name: torch.tensor(value, dtype=torch.float32, device=self.device)
            for name, value in found.items()
        }


def _known(task: Task, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs `[n, K]` and labels `[n]` or `[n, K]` of the windows that have some."""
    per_output = task in ("multilabel", "regression")
    expected = outputs.shape if per_output else outputs.shape[:-1]
    if labels.shape != expected:
        raise ValueError(
            f"labels of {task} must have shape {list(expected)} beside outputs "
            f"{list(outputs.shape)}, got {list(labels.shape)}"
        )
    rows = outputs.reshape(-1, outputs.shape[-1])
    if per_output:
        flat = labels.reshape(rows.shape)
        is_known = ~flat.isnan().any(1)
    else:
        flat = labels.reshape(-1)
        is_known = flat >= 0
    return rows[is_known], flat[is_known]


def _class_scores(
    shares: Numbers, truth: NDArray[np.int64], names: Sequence[str]
) -> dict[str, float]:
    windows, classes = shares.shape
    predicted = shares.argmax(1)
    pairs = np.bincount(truth * classes + predicted, minlength=classes * classes)
    confusion = pairs.reshape(classes, classes)
    hits, occurs, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    is_seen = (occurs + guessed) > 0
    precision = _share(hits, guessed)
    recall = _share(hits, occurs)
    f1 = _share(2 * hits, occurs + guessed)
    is_class = np.equal(truth[:, None], np.arange(classes))
    errors = windows - hits.sum()
    found = {
        "accuracy": hits.sum() / windows,
        "balanced_accuracy": recall[occurs > 0].mean(),
        "macro_precision": precision[is_seen].mean(),
        "macro_recall": recall[is_seen].mean(),
        "macro_f1": f1[is_seen].mean(),
        "auroc": _mean(_ranking(roc_auc_score, is_class, shares)),
        "auprc": _mean(_ranking(average_precision_score, is_class, shares)),
        # A window that is wrong is wrong for two of the K questions "this class or not".
        "mean_ovr_accuracy": 1 - 2 * errors / (windows * classes),
    }
    found |= {f"f1_{name}": value for name, value in zip(names, f1, strict=False)}
    return {name: float(value) for name, value in found.items()}


def _label_scores(
    logits: Numbers, truth: NDArray[np.float32], names: Sequence[str]
) -> dict[str, float]:
    is_label = truth > 0.5
    is_guess = logits > 0
    f1 = _share(2 * (is_label & is_guess).sum(0), is_label.sum(0) + is_guess.sum(0))
    auroc = _ranking(roc_auc_score, is_label, logits)
    found = {
        "auroc": _mean(auroc),
        "auprc": _mean(_ranking(average_precision_score, is_label, logits)),
        "macro_f1": f1.mean(),
        "exact_match": (is_label == is_guess).all(1).mean(),
    }
    found |= {f"auroc_{name}": value for name, value in zip(names, auroc, strict=False)}
    return {name: float(value) for name, value in found.items()}


def _number_scores(values: Numbers, truth: Numbers, names: Sequence[str]) -> dict[str, float]:
    errors = values - truth
    mae = np.abs(errors).mean(0)
    of_truth, of_values = truth - truth.mean(0), values - values.mean(0)
    spread = (of_truth**2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 0, 1 - (errors**2).sum(0) / spread, np.nan)
        scale = np.sqrt(spread * (of_values**2).sum(0))
        pearson = np.where(scale > 0, (of_truth * of_values).sum(0) / scale, np.nan)
    found = {
        "mae": mae.mean(),
        "rmse": np.sqrt((errors**2).mean(0)).mean(),
        "r2": _mean(r2),
        "pearson": _mean(pearson),
    }
    found |= {f"mae_{name}": value for name, value in zip(names, mae, strict=False)}
    return {name: float(value) for name, value in found.items()}


def _ranking(score: Callable[..., float], is_class: NDArray[np.bool_], values: Numbers) -> Numbers:
    """Return a ranking score of each column, NaN where all windows or none are of the class."""
    counts = is_class.sum(0)
    tells = (counts > 0) & (counts < len(is_class))
    return np.array(
        [
            score(is_class[:, column], values[:, column]) if tells[column] else np.nan
            for column in range(values.shape[1])
        ]
    )


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Numbers:
    """Return the quotient, 0 where there is nothing to divide."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def _mean(values: Numbers) -> float:
    """Return the mean of what is not NaN; NaN where all is."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
