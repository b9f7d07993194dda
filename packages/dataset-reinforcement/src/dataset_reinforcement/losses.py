"""Targets of the three ways to train; the losses themselves are `tenfold.losses.distillation`'s.

Shapes: B images, C classes, K stored classes of an image.
"""

import torch
from torch import Tensor
from torchvision.transforms import v2

from dataset_reinforcement.config import Rest


def densify(classes: Tensor, probabilities: Tensor, *, num_classes: int, rest: Rest) -> Tensor:
    """Complete stored labels to distributions over all classes (spec 2.1).

    With `r = 1 - sum_k p_k`, other classes get `r / (C - K)` each (`uniform`), or 0 while the
    stored ones are divided by their sum (`renormalise`). Where half precision makes the sum exceed
    1, and with K = C, the row is divided by its sum.

    Args:
        classes: int64 `[B, K]`, none twice in a row.
        probabilities: float `[B, K]`.
        num_classes: C.
        rest: Where the probability that was not stored goes.

    Returns:
        float `[B, C]`, rows that sum to 1.
    """
    rows, stored = classes.shape
    missing = (1 - probabilities.sum(-1, keepdim=True)).clamp_min(0)
    share = missing / max(num_classes - stored, 1)
    if rest == "renormalise" or stored == num_classes:
        share = torch.zeros_like(share)
    dense = share.expand(rows, num_classes).scatter(-1, classes, probabilities)
    return dense / dense.sum(-1, keepdim=True)


def official_probabilities(
    probabilities: Tensor, *, rest: Rest, reinforced: Tensor | None = None
) -> Tensor:
    """Return stored probabilities as the official training code takes them (`compat: apple`).

    The paper completes `p_k` by the rest `r = 1 - sum_k p_k`, spread over the other classes. The
    official `densify` (apple/ml-dr, dr/utils.py) does so while r >= 0 only. Where rounding makes r
    negative, and with its method `zeros` (`rest` `renormalise` here) always, it replaces the K
    probabilities by their softmax `exp(p_k) / sum_j exp(p_j)`, with 0 elsewhere: a target that is
    almost even over the K classes, however sure the teacher was. `densify` and
    `sparse_target_loss` give the official target of what this returns, up to rounding.

    A store in half precision exceeds 1 in far more rows than the official float32 values: import
    with `prob_dtype` float32 to meet the same rows. Sums within rounding of 1 may fall on the other
    side, since the official order of the K values is not kept.

    Args:
        probabilities: float `[B, K]`.
        rest: What the loss does with the probability that was not stored.
        reinforced: bool `[B]`; the other rows are hard labels, which are left. None for all.

    Returns:
        float `[B, K]`.
    """
    flat = probabilities.softmax(-1)
    if rest == "renormalise":
        taken = torch.ones_like(probabilities[:, :1], dtype=torch.bool)
    else:
        taken = 1 - probabilities.sum(-1, keepdim=True) < 0
    if reinforced is not None:
        taken = taken & reinforced.unsqueeze(-1)
    return torch.where(taken, flat, probabilities)


def whole_label(probabilities: Tensor) -> Tensor:
    """Return a teacher's `[B, C]` as a store of all C classes in fp32 gives them back.

    Through the same roundings (`top_labels`, `densify`), so that training on such a store is
    distillation on the fly bit for bit.
    """
    values, classes = probabilities.sort(dim=-1, descending=True, stable=True)
    sums = values.sum(-1, keepdim=True)
    values = torch.where(sums > 1, values / sums, values)
    return densify(classes, values, num_classes=probabilities.shape[-1], rest="uniform")


def mix_batch(
    image_BCHW: Tensor,
    label_B: Tensor,
    *,
    num_classes: int,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[Tensor, Tensor]:
    """Mix each image of a batch with its neighbour, by MixUp or CutMix (official ERM recipes).

    Draws come from torch's generator, which `tenfold.callbacks.StepSeed` seeds at every step.

    Args:
        image_BCHW: float `[B, 3, H, W]`.
        label_B: int64 `[B]`.
        num_classes: C.
        mixup_alpha: Beta parameter of MixUp, 0 for none.
        cutmix_alpha: Likewise of CutMix; with both, a fair draw takes one of them.

    Returns:
        Images, and float labels `[B, C]` that are mixed alike.
    """
    choices: list[v2.Transform] = []
    if mixup_alpha:
        choices.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
    if cutmix_alpha:
        choices.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))
    chosen = choices[int(torch.randint(len(choices), ()))]
    return chosen(image_BCHW, label_B)
