"""Compare what was exported with the model it came from, before anybody uses it.

Shapes: N images, M texts, D embedding width.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobileclip.models.clip import MobileCLIP
from mobileclip.tokenizer import tokenize

LARGEST_DIFFERENCE = 1e-4
"""Of cosines in float32: the same operations in another order."""
TEXTS = ("a photo of a cat", "two dogs running on the beach", "a red bicycle", "")
IMAGES = 3


class Samples(NamedTuple):
    """Inputs of both sides: float images `[N, 3, S, S]` and int64 tokens `[M, L]`."""

    images: Tensor
    tokens: Tensor


class Parity(NamedTuple):
    """How the exported model's numbers differ from the trained model's."""

    cosine: float
    logit: float
    largest_logit: float

    def __str__(self) -> str:
        return (
            f"largest difference of logits {self.logit:.3g} (of cosines {self.cosine:.3g}), "
            f"largest logit {self.largest_logit:.4g}"
        )


def samples(model: MobileCLIP) -> Samples:
    """Return images of plain noise at several contrasts, and texts of several lengths."""
    size = model.image_size
    draws = np.random.Generator(np.random.Philox(key=0)).random((IMAGES, 3, size, size))
    noise = torch.from_numpy(draws).float()
    contrast = torch.linspace(0.2, 1, IMAGES).view(-1, 1, 1, 1)
    return Samples(noise * contrast, tokenize(TEXTS, context_length=model.context_length))


def compare(
    model: MobileCLIP,
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[Tensor], Tensor],
) -> Parity:
    """Compare logits of all images with all texts, several at once and one alone.

    Args:
        model: The trained model, in evaluation mode.
        encode_image: The exported image tower.
        encode_text: The exported text tower.

    Raises:
        ValueError: They differ by more than rounding.
    """
    inputs = samples(model)
    scale = model.scale().item()
    with torch.inference_mode():
        expected = model.encode_image(inputs.images) @ model.encode_text(inputs.tokens).T
        found = _rows(encode_image, inputs.images) @ _rows(encode_text, inputs.tokens).T
    difference = (found - expected).abs().max().item()
    parity = Parity(difference, scale * difference, scale * expected.abs().max().item())
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(f"the exported model differs from the trained one: {parity}; not written")
    return parity


def _rows(encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Encode the first row alone and the rest together: exported batches must not be fixed."""
    rows = torch.cat([encode(inputs[:1]), encode(inputs[1:])])
    return F.normalize(rows.float(), dim=-1)
