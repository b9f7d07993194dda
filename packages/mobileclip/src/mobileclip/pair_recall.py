"""Retrieval over all held-out pairs of all ranks, as a metric of a validation loop.

Pairs with the same caption are right for each other: with one image a caption the values are those
of `tenfold.zero_shot.recall_at_k`, and with several no image counts as wrong for a caption that it
has. Not here: benchmarks with several captions an image (`evaluation`).

Shapes: N pairs, T different captions, D embedding width, L tokens.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tenfold.zero_shot import recall_at_k


class PairRecall(NamedTuple):
    """Recall at 1 in both directions."""

    image_to_text: float
    text_to_image: float


class PairRecallMetric(Metric):
    """Collects embeddings and computes their recall."""

    full_state_update = False
    image: list[Tensor]
    text: list[Tensor]
    tokens: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("image", "text", "tokens"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, image_ND: Tensor, text_ND: Tensor, tokens_NL: Tensor) -> None:
        """Add pairs; their tokens tell which captions are the same."""
        self.image.append(image_ND.detach().float())
        self.text.append(text_ND.detach().float())
        self.tokens.append(tokens_NL)

    def compute(self) -> PairRecall:
        """Return the recall over all pairs."""
        image_ND, text_ND = dim_zero_cat(self.image), dim_zero_cat(self.text)
        _, caption_N = torch.unique(dim_zero_cat(self.tokens), dim=0, return_inverse=True)
        text_TD = text_ND.new_empty(int(caption_N.max()) + 1, text_ND.shape[1])
        text_TD[caption_N] = text_ND
        # Captions in the place of images: the function allows several partners on one side only.
        recall = recall_at_k(text_TD, image_ND, caption_N, ks=(1,))
        return PairRecall(recall.text_to_image[1], recall.image_to_text[1])
