"""What h is trained on: alignment, discrimination, and a variance that weighs both (spec 2.2).

Shapes: B items, D dimensions of the new space, K classes. Everything is computed in float32 or
wider, under autocast too.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastfill.config import ObjectiveConfig


class ObjectiveTerms(NamedTuple):
    """The loss and what it is made of.

    Attributes:
        total: What is minimised.
        similarity: Mean of the alignment, without its weight.
        disc: Mean cross-entropy through the new head, without its weight; None where it is off.
        log_variance: Mean of s; None where the uncertainty is off.
        per_item: `[B]`, l of spec 2.2: the loss of an item before its variance weighs it, which
            exp(s) predicts.
    """

    total: Tensor
    similarity: Tensor
    disc: Tensor | None
    log_variance: Tensor | None
    per_item: Tensor


def fastfill_loss(
    z: Tensor,
    s: Tensor,
    new: Tensor,
    labels: Tensor | None,
    head_weight: Tensor | None,
    config: ObjectiveConfig,
) -> ObjectiveTerms:
    """Return FastFill's loss; gradients reach z and s alone, the new model and its head are frozen.

    With one variance for an item it weighs alignment and discrimination; with one for each
    dimension it weighs the alignment alone.

    Args:
        z: Transformed old embeddings `[B, D]`.
        s: Log-variances `[B]` or `[B, D]`.
        new: The new model's embeddings `[B, D]`.
        labels: Classes `[B]` int64; not needed for `labels="pseudo"` or without discrimination.
        head_weight: The new model's classifier `[K, D]`, or the classes' means.
        config: Which terms, and their weights.

    Raises:
        ValueError: Shapes do not fit, or a term lacks labels or head.
    """
    _check_shapes(z, s, new)
    with torch.autocast(z.device.type, enabled=False):
        z, s, new = _wide(z), _wide(s), _wide(new.detach())
        similarity = _similarity(z, new, config)
        aligned_B = similarity if similarity.ndim == 1 else similarity.mean(dim=1)
        disc_B = _discrimination(z, new, labels, head_weight, config)
        per_item = config.mu_sim * aligned_B
        if disc_B is not None:
            per_item = per_item + config.mu_disc * disc_B
        return ObjectiveTerms(
            total=_total(per_item, similarity, disc_B, s, config),
            similarity=aligned_B.mean(),
            disc=None if disc_B is None else disc_B.mean(),
            log_variance=s.mean() if config.uncertainty else None,
            per_item=per_item,
        )


def pseudo_labels(new: Tensor, head_weight: Tensor) -> Tensor:
    """Return the new head's most likely class of new embeddings, `[B]`."""
    return (_wide(new.detach()) @ _wide(head_weight.detach()).T).argmax(dim=1)


def class_means(new: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the classes' mean embeddings `[K, D]`, a head for a new model that has none.

    An extension: the paper's models have a head.

    Raises:
        ValueError: A class has no item, or a label is none of `num_classes`.
    """
    check_labels(labels, num_classes)
    counts = torch.bincount(labels, minlength=num_classes)
    if empty := (counts == 0).nonzero().flatten().tolist():
        raise ValueError(f"classes without an item have no mean: {empty[:5]}; leave them out")
    sums = new.new_zeros(num_classes, new.shape[1]).index_add_(0, labels, new)
    return sums / counts[:, None]


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that are no rows of the head; to be called once for a whole set.

    Raises:
        ValueError: As said; names the range found.
    """
    if not labels.numel():
        raise ValueError("there are no labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must be rows of the new head, 0..{num_classes - 1}, got {low}..{high}; use "
            "the classes the new model was trained on, or labels pseudo"
        )


def _check_shapes(z: Tensor, s: Tensor, new: Tensor) -> None:
    if z.ndim != 2 or z.shape != new.shape:
        raise ValueError(
            f"transformed and new embeddings must be [B, D] alike, got {list(z.shape)} and "
            f"{list(new.shape)}"
        )
    if s.shape not in (z.shape[:1], z.shape):
        raise ValueError(f"log-variances must be [B] or [B, D], got {list(s.shape)}")


def _similarity(z: Tensor, new: Tensor, config: ObjectiveConfig) -> Tensor:
    """Return the alignment: `[B, D]`, whose mean over D counts, or `[B]` for the cosine."""
    if config.similarity == "mse":
        return (new - z).square()
    if config.similarity == "l1":
        return (new - z).abs()
    return 1 - F.cosine_similarity(z, new, dim=1)


def _discrimination(
    z: Tensor,
    new: Tensor,
    labels: Tensor | None,
    head_weight: Tensor | None,
    config: ObjectiveConfig,
) -> Tensor | None:
    if config.mu_disc == 0:
        return None
    if head_weight is None:
        raise ValueError(
            "loss.mu_disc needs the new model's head, which has none; set it to 0 or loss.labels "
            "to means"
        )
    if head_weight.ndim != 2 or head_weight.shape[1] != z.shape[1]:
        raise ValueError(f"the head must be [K, {z.shape[1]}], got {list(head_weight.shape)}")
    head = _wide(head_weight.detach())
    if config.labels == "pseudo":
        labels = pseudo_labels(new, head)
    if labels is None:
        raise ValueError("loss.mu_disc needs labels; set it to 0 or loss.labels to pseudo")
    logits = z @ head.to(z.dtype).T
    return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing, reduction="none")


def _total(
    per_item: Tensor,
    similarity: Tensor,
    disc_B: Tensor | None,
    s: Tensor,
    config: ObjectiveConfig,
) -> Tensor:
    if not config.uncertainty:
        return per_item.mean()
    if s.ndim == 1:
        return (0.5 * torch.exp(-s) * per_item + config.mu_unc * s).mean()
    if similarity.ndim == 1:
        raise ValueError(
            "a variance for each dimension needs loss.similarity mse or l1, got "
            f"{config.similarity}; set model.per_dimension to false"
        )
    total = (0.5 * torch.exp(-s) * config.mu_sim * similarity + config.mu_unc * s).mean()
    return total if disc_B is None else total + config.mu_disc * disc_B.mean()


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
