"""Losses that keep a new backbone comparable with an old one: BCT, LwF, RACT and kin (spec 2.7).

Shapes: B items of this rank, G of all ranks, D the width of an embedding, K and O the classes of
the new and the old head. The old model's embeddings and head are never differentiated. Losses are
computed in float32 or wider, under autocast too.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastfill.config import CompatConfig
from tenfold.gather import gather_rows, rank_and_size

logger = logging.getLogger(__name__)

_MISSING = float("-inf")


class CompatLoss(nn.Module):
    """The compatibility term that `config.method` names, without its weight.

    `bct` between models that share no class is `lwf`, as its authors do.

    Args:
        config: Method and its options.
        old_head: The old model's classifier `[O, D_old]`; `ract`, `triplet` and `l2` do without.
        class_map: `[K]` int64, a new class's row of the old head or -1, see `map_classes`.

    Raises:
        ValueError: The method needs a head or shared classes and there are none; `plain` has no
            such term.
    """

    old_head: Tensor | None
    class_map: Tensor

    def __init__(self, config: CompatConfig, *, old_head: Tensor | None, class_map: Tensor) -> None:
        super().__init__()
        if config.method == "plain":
            raise ValueError("compat.method plain has no compatibility term")
        self.config, self.method = config, config.method
        if self.method in ("bct", "lwf", "bct_ract") and old_head is None:
            raise ValueError(
                f"compat.method {self.method} needs the old model's head, which has none; use ract"
            )
        if old_head is not None and int(class_map.max()) >= len(old_head):
            raise ValueError(
                f"class_map names row {int(class_map.max())} of an old head of {len(old_head)}"
            )
        if not bool((class_map >= 0).any()):
            self._without_shared_classes()
        self.register_buffer("old_head", _frozen_copy(old_head), persistent=False)
        self.register_buffer("class_map", class_map.clone(), persistent=False)

    def forward(self, new_BD: Tensor, old_BD: Tensor, labels: Tensor, logits_BK: Tensor) -> Tensor:
        """Return the term of a batch: embeddings of both models, classes and new logits."""
        config = self.config
        with torch.autocast(new_BD.device.type, enabled=False):
            new_BD, old_BD, logits_BK = _wide(new_BD), _wide(old_BD.detach()), _wide(logits_BK)
            if self.method == "ract":
                return ract_loss(
                    new_BD, old_BD, labels, temperature=config.temperature, hardest=config.hardest
                )
            if self.method == "triplet":
                return triplet_loss(
                    new_BD, old_BD, labels, margin=config.margin, hardest=config.hardest
                )
            if self.method == "l2":
                return l2_loss(new_BD, old_BD)
            assert self.old_head is not None
            head = _wide(self.old_head)
            if self.method == "lwf":
                return lwf_loss(new_BD, old_BD, head)
            if self.method == "bct_ract":
                return bct_ract_loss(new_BD, head, labels, self.class_map, logits_BK)
            return bct_loss(new_BD, head, labels, self.class_map)

    def _without_shared_classes(self) -> None:
        if self.method == "bct_ract":
            raise ValueError("compat.method bct_ract needs a class that both models know; use lwf")
        if self.method == "bct":
            logger.info("the models share no class: bct takes the old model's probabilities (lwf)")
            self.method = "lwf"


def map_classes(new: Sequence[str], old: Sequence[str]) -> Tensor:
    """Return the old head's row of each new class by name, -1 where the old model lacks it.

    Raises:
        ValueError: A name comes twice.
    """
    for what, names in (("new", new), ("old", old)):
        if len(set(names)) != len(names):
            twice = next(name for name in names if list(names).count(name) > 1)
            raise ValueError(f"the {what} model's class {twice!r} comes twice")
    rows = {name: row for row, name in enumerate(old)}
    return torch.tensor([rows.get(name, -1) for name in new], dtype=torch.int64)


def bct_loss(new_BD: Tensor, old_head_OD: Tensor, labels: Tensor, class_map: Tensor) -> Tensor:
    """Return the cross-entropy of new embeddings through the old head (BCT, CVPR 2020).

    The mean over items whose class the old head has; 0 in a batch without any.
    """
    old_labels = class_map[labels]
    logits = fit_width(new_BD, old_head_OD.shape[1]) @ old_head_OD.detach().T
    return _mean_known(logits, old_labels)


def lwf_loss(new_BD: Tensor, old_BD: Tensor, old_head_OD: Tensor) -> Tensor:
    """Return the cross-entropy through the old head against the old model's probabilities."""
    head = old_head_OD.detach()
    targets = (old_BD.detach() @ head.T).softmax(dim=1)
    return F.cross_entropy(fit_width(new_BD, head.shape[1]) @ head.T, targets)


def bct_ract_loss(
    new_BD: Tensor,
    old_head_OD: Tensor,
    labels: Tensor,
    class_map: Tensor,
    logits_BK: Tensor,
) -> Tensor:
    """Return BCT with the new head's other classes as further negatives (RACT, ICLR 2022)."""
    own = F.one_hot(labels, logits_BK.shape[1]).bool()
    old_logits = fit_width(new_BD, old_head_OD.shape[1]) @ old_head_OD.detach().T
    logits = torch.cat([old_logits, logits_BK.masked_fill(own, _MISSING)], dim=1)
    return _mean_known(logits, class_map[labels])


def ract_loss(
    new_BD: Tensor, old_BD: Tensor, labels: Tensor, *, temperature: float, hardest: int
) -> Tensor:
    """Return `contra_ract`: own old embedding against the hardest of other classes, old and new.

    Embeddings are normalised; negatives come from all ranks. Gradients also reach the new
    embeddings that are negatives of others, on other ranks too, so that ranks equal one process
    (the authors' code drops those of other ranks). Where widths differ, new embeddings are cut or
    padded as for BCT.
    """
    new_BD, old_BD = _comparable(new_BD, old_BD)
    same_BG = labels[:, None] == _all_labels(labels)[None, :]
    positive_B1 = (new_BD * old_BD).sum(dim=1, keepdim=True)
    old_BG = new_BD @ gather_rows(old_BD, with_gradient=False).T
    new_BG = new_BD @ gather_rows(new_BD).T
    negatives = [_hardest(old_BG, same_BG, hardest), _hardest(new_BG, same_BG, hardest)]
    logits = torch.cat([positive_B1, *negatives], dim=1) / temperature
    return F.cross_entropy(logits, labels.new_zeros(len(labels)))


def triplet_loss(
    new_BD: Tensor, old_BD: Tensor, labels: Tensor, *, margin: float, hardest: int
) -> Tensor:
    """Return the mean of `relu(|a - b| - |a - b'| + margin)` over the nearest other-class b'.

    a is a normalised new embedding, b the same item's old one, b' old ones of all ranks.
    """
    new_BD, old_BD = _comparable(new_BD, old_BD)
    same_BG = labels[:, None] == _all_labels(labels)[None, :]
    positive_B1 = _distance((new_BD * old_BD).sum(dim=1, keepdim=True))
    nearest = _hardest(new_BD @ gather_rows(old_BD, with_gradient=False).T, same_BG, hardest)
    found = nearest != _MISSING
    # A finite value where a negative is missing: the root's gradient there must not be NaN.
    terms = F.relu(positive_B1 - _distance(nearest.masked_fill(~found, 0.0)) + margin)
    return (terms * found).sum() / found.sum().clamp(min=1)


def l2_loss(new_BD: Tensor, old_BD: Tensor) -> Tensor:
    """Return the mean squared difference of the normalised embeddings of both models."""
    return F.mse_loss(*_comparable(new_BD, old_BD))


def fit_width(x_BD: Tensor, width: int) -> Tensor:
    """Return the first `width` dimensions, or as many with zeros behind (BCT, section 2.7)."""
    missing = width - x_BD.shape[1]
    return F.pad(x_BD, (0, missing)) if missing > 0 else x_BD[:, :width]


def _comparable(new_BD: Tensor, old_BD: Tensor) -> tuple[Tensor, Tensor]:
    new_BD = fit_width(new_BD, old_BD.shape[1])
    return F.normalize(new_BD, dim=1), F.normalize(old_BD.detach(), dim=1)


def _hardest(similarity_BG: Tensor, same_BG: Tensor, hardest: int) -> Tensor:
    """Return the largest similarities to other classes; -inf where there are fewer."""
    others = similarity_BG.masked_fill(same_BG, _MISSING)
    return others.topk(min(hardest, others.shape[1]), dim=1).values


def _distance(cosine: Tensor) -> Tensor:
    """Return the distance of unit vectors from their inner product, its gradient finite at 0."""
    return (2 - 2 * cosine).clamp(min=1e-12).sqrt()


def _all_labels(labels: Tensor) -> Tensor:
    if rank_and_size()[1] == 1:
        return labels
    return gather_rows(labels[:, None], with_gradient=False)[:, 0]


def _mean_known(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over targets >= 0; 0 without any, without waiting for it."""
    sums = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    return sums / (targets >= 0).sum().clamp(min=1)


def _frozen_copy(head: Tensor | None) -> Tensor | None:
    return None if head is None else head.detach().clone()


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
