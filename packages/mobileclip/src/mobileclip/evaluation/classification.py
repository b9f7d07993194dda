"""Zero-shot classification: DataComp's metrics of ranked classes.

Shapes: N images, C classes, K ranks, M metadata columns.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mobileclip.evaluation.prompts import Template
from tenfold.zero_shot import class_embeddings, classify

RANKS = 5


class Groups(NamedTuple):
    """How a task of DataComp splits its images: a metadata column, and what its worst is called."""

    column: int
    field: str
    rank: int
    metric: str
    worst: str


GROUPS = {
    "wilds/fmow": Groups(0, "region", 1, "acc", "acc_worst_region"),
    "wilds/camelyon17": Groups(1, "slide", 1, "acc", "acc_wg"),
    "fairness/dollar_street": Groups(0, "income_ds", 5, "acc_top5", "acc_top5_wg"),
    "fairness/geode": Groups(0, "region", 1, "acc", "acc_wg"),
}
"""Tasks with metadata (`npy` members of their tars)."""


def rank_classes(
    image_ND: Tensor,
    encode_text: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[Template],
) -> Tensor:
    """Return the classes nearest to every image, best first, `[N, min(C, 5)]`."""
    class_CD = class_embeddings(encode_text, class_names, templates)
    rank = min(RANKS, len(class_names))
    parts = [classify(part, class_CD, scale=1.0).topk(rank, dim=1) for part in image_ND.split(4096)]
    return torch.cat([part.indices for part in parts])


def classification_metrics(ranked_NK: Tensor, label_N: Tensor) -> dict[str, float | None]:
    """Return accuracy, recall a class and F1 a class, the latter over the classes that occur.

    `acc5` is None with fewer than five classes, as in DataComp's files.

    Raises:
        ValueError: There is no image, or not one label an image.
    """
    if not len(label_N) or label_N.shape != ranked_NK.shape[:1]:
        raise ValueError(f"need one label an image, got {len(label_N)} for {len(ranked_NK)}")
    hit_NK = ranked_NK == label_N.unsqueeze(1)
    has_five = ranked_NK.shape[1] >= RANKS
    recall, f1 = _per_class(ranked_NK[:, 0], label_N)
    return {
        "acc1": hit_NK[:, 0].double().mean().item(),
        "acc5": hit_NK.any(1).double().mean().item() if has_five else None,
        "mean_per_class_recall": recall.mean().item(),
        "F1-macro_all": f1.mean().item(),
    }


def group_metrics(
    groups: Groups, ranked_NK: Tensor, label_N: Tensor, metadata_NM: Tensor
) -> dict[str, float]:
    """Return the accuracy of each group that has images, and the worst.

    Raises:
        ValueError: The metadata has no such column, or not one row an image.
    """
    if len(metadata_NM) != len(label_N) or metadata_NM.shape[1] <= groups.column:
        raise ValueError(
            f"metadata must have one row an image and column {groups.column} ({groups.field}), got "
            f"shape {tuple(metadata_NM.shape)} for {len(label_N)} images"
        )
    if ranked_NK.shape[1] < groups.rank:
        raise ValueError(f"{groups.metric} needs {groups.rank} classes, got {ranked_NK.shape[1]}")
    right_N = (ranked_NK[:, : groups.rank] == label_N.unsqueeze(1)).any(1).double()
    group_N = metadata_NM[:, groups.column].long()
    shares = {
        f"{groups.metric}_{groups.field}:{group}": right_N[group_N == group].mean().item()
        for group in group_N.unique().tolist()
    }
    return {**shares, groups.worst: min(shares.values())}


def _per_class(predicted_N: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return recall and F1 of each class that occurs among the labels."""
    size = int(torch.cat([predicted_N, label_N]).max()) + 1
    right_C = torch.bincount(label_N[predicted_N == label_N], minlength=size).double()
    labelled_C = torch.bincount(label_N, minlength=size)
    predicted_C = torch.bincount(predicted_N, minlength=size)
    f1_C = 2 * right_C / (labelled_C + predicted_C)
    occurs_C = labelled_C > 0
    return (right_C / labelled_C)[occurs_C], f1_C[occurs_C]
