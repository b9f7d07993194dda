"""Zero-shot classification and image-text retrieval from embeddings.

Shapes: N images, M texts, C classes, D embedding width. Everything is computed in float32 or wider
on unit rows; embeddings of any length may be given.

Not here: running an image encoder over a data set, metrics accumulated over batches (torchmetrics).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.losses.numerics import widen

Template = str | Callable[[str], str]


@torch.no_grad()
def class_embeddings(
    encode_text: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[Template],
) -> Tensor:
    """Return one unit text embedding a class, `[C, D]`, from an ensemble of prompts.

    The embedding of every prompt is normalised, their mean over templates is normalised again
    (Radford et al. 2021, arXiv:2103.00020, sec. 3.1.4).

    Args:
        encode_text: Maps a list of texts to embeddings `[len(texts), D]`; called once a class with
            one prompt a template.
        class_names: The names in the order of the labels.
        templates: Texts with `{}` in the place of the name, or functions of the name.

    Raises:
        ValueError: No class, no template, or a template without `{}`.
    """
    if not class_names or not templates:
        raise ValueError(
            "class_embeddings needs at least one class and one template, "
            f"got {len(class_names)} and {len(templates)}"
        )
    rows: list[Tensor] = []
    for name in class_names:
        prompts_TD = widen(encode_text([_fill(template, name) for template in templates]))
        rows.append(F.normalize(F.normalize(prompts_TD, dim=-1).mean(0), dim=-1))
    return torch.stack(rows)


def _fill(template: Template, name: str) -> str:
    if not isinstance(template, str):
        return template(name)
    if "{}" not in template:
        raise ValueError(f"template {template!r} has no {{}} where the class name goes")
    return template.replace("{}", name)


def classify(image_ND: Tensor, class_CD: Tensor, *, scale: float) -> Tensor:
    """Return logits `[N, C]`: `scale` times the cosine of every image with every class.

    Args:
        image_ND: Image embeddings.
        class_CD: Class embeddings, as `class_embeddings` makes them.
        scale: The model's logit scale (inverse temperature); it changes probabilities, not ranks.

    Raises:
        ValueError: The widths differ.
    """
    _require_widths(image_ND, class_CD)
    return scale * _unit(image_ND) @ _unit(class_CD).T


def top_k_accuracy(logits_NC: Tensor, label_N: Tensor, *, k: int = 1) -> Tensor:
    """Return the fraction of rows whose label is among the k highest logits, a scalar.

    torchmetrics' functional builds two one-hot `[N, C]` tensors for k > 1 (50 times slower at 1,000
    classes), hence these lines.

    Raises:
        ValueError: k is not in 1..C, or there is not one label a row.
    """
    if not 1 <= k <= logits_NC.shape[1]:
        raise ValueError(f"k must lie in 1..{logits_NC.shape[1]} (classes), got {k}")
    if label_N.shape != logits_NC.shape[:1]:
        raise ValueError(f"need {len(logits_NC)} labels, got shape {tuple(label_N.shape)}")
    hit_NK = logits_NC.topk(k, dim=1).indices == label_N.unsqueeze(1)
    return hit_NK.any(1).float().mean()


class Recall(NamedTuple):
    """Recall at each k, in both directions of retrieval."""

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]


@torch.no_grad()
def recall_at_k(
    image_ND: Tensor,
    text_MD: Tensor,
    pairs_M: Tensor,
    *,
    ks: Sequence[int] = (1, 5, 10),
    max_scores: int = 1 << 24,
) -> Recall:
    """Compute retrieval recall in both directions, several texts an image allowed.

    Image to text counts an image as found when any of its texts is among the k best (the protocol
    of Flickr30k and COCO). A wrong candidate that scores the same as the right one counts as ahead
    of it, so that collapsed embeddings score 0, not 1.

    Args:
        image_ND: Image embeddings.
        text_MD: Text embeddings.
        pairs_M: For every text the row of its image; every image has at least one text.
        ks: The cut-offs.
        max_scores: Scores held at once; bounds the memory (64 MiB by default), not the result.

    Raises:
        ValueError: Widths differ, `pairs_M` does not fit, or an image has no text.
    """
    _require_widths(image_ND, text_MD)
    num_images = len(image_ND)
    _require_pairs(pairs_M, num_images, len(text_MD))
    image_ND, text_MD = _unit(image_ND), _unit(text_MD)
    image_ids = torch.arange(num_images, device=pairs_M.device)
    return Recall(
        _recalls(_ranks(image_ND, text_MD, image_ids, pairs_M, max_scores), ks),
        _recalls(_ranks(text_MD, image_ND, pairs_M, image_ids, max_scores), ks),
    )


def _ranks(
    queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor, max_scores: int
) -> Tensor:
    """Return for every query how many wrong gallery rows come before its best right one."""
    size = max(1, max_scores // len(gallery))
    ranks: list[Tensor] = []
    for query, ids in zip(queries.split(size), query_ids.split(size), strict=True):
        scores = query @ gallery.T
        right = ids.unsqueeze(1) == gallery_ids
        best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
        ranks.append(((scores >= best) & ~right).sum(1))
    return torch.cat(ranks)


def _recalls(ranks: Tensor, ks: Sequence[int]) -> dict[int, float]:
    return {k: (ranks < k).double().mean().item() for k in ks}


def _unit(x: Tensor) -> Tensor:
    return F.normalize(widen(x), dim=-1)


def _require_widths(left: Tensor, right: Tensor) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            "embeddings must be rows of one width, got shapes "
            f"{tuple(left.shape)} and {tuple(right.shape)}"
        )


def _require_pairs(pairs_M: Tensor, num_images: int, num_texts: int) -> None:
    if pairs_M.shape != (num_texts,) or pairs_M.is_floating_point():
        raise ValueError(
            f"pairs must hold one integer a text, shape ({num_texts},), "
            f"got {pairs_M.dtype} of shape {tuple(pairs_M.shape)}"
        )
    outside = pairs_M[(pairs_M < 0) | (pairs_M >= num_images)]
    if len(outside):
        raise ValueError(f"pairs must lie in 0..{num_images - 1} (images), got {outside[0].item()}")
    texts_of_image = torch.bincount(pairs_M.long(), minlength=num_images)
    if texts_of_image.min() == 0:
        raise ValueError(f"image {int(texts_of_image.argmin())} has no text; leave it out")
