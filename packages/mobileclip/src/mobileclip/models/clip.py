"""MobileCLIP: an image and a text tower with a learned temperature.

Shapes: B batch, C colours, H, W pixels, L tokens, D embedding.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.models.checkpointing import CheckpointedSequential
from mobileclip.models.towers import VARIANTS

INITIAL_SCALE = 1 / 0.07
MAX_SCALE = 100.0


class MobileCLIP(nn.Module):
    """Image and text towers into one embedding space.

    Args:
        image_tower: Maps `[B, 3, H, W]` to `[B, D]`.
        text_tower: Maps int64 `[B, L]` to `[B, D]`.
        name: Which of the models this is.
        image_size: Side of its images, in pixels.
        embed_dim: D.
        context_length: L.
    """

    def __init__(
        self,
        image_tower: nn.Module,
        text_tower: nn.Module,
        *,
        name: str,
        image_size: int,
        embed_dim: int,
        context_length: int,
    ) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.name = name
        self.image_size = image_size
        self.embed_dim = embed_dim
        self.context_length = context_length

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Embed images.

        Args:
            image_BCHW: Colours in 0..1, without further normalisation.

        Returns:
            `[B, D]` of unit norm, at least float32.
        """
        return _unit(self.image_tower(image_BCHW))

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Embed texts.

        Args:
            tokens_BL: int64 token ids, as `mobileclip.tokenizer.tokenize` gives them.

        Returns:
            `[B, D]` of unit norm, at least float32.

        Raises:
            ValueError: Another number of tokens than the model's.
        """
        if tokens_BL.shape[1] != self.context_length:
            raise ValueError(
                f"texts must have the model's {self.context_length} tokens, got "
                f"{tokens_BL.shape[1]}; tokenize with context_length={self.context_length}"
            )
        return _unit(self.text_tower(tokens_BL))

    def forward(self, image_BCHW: Tensor, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images and texts."""
        return self.encode_image(image_BCHW), self.encode_text(tokens_BL)

    def scale(self) -> Tensor:
        """Return the factor of cosine similarities, the inverse temperature."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def clamp_scale_(self) -> None:
        """Bring the factor back into 1..100, as open_clip does after each step."""
        self.logit_scale.clamp_(0, math.log(MAX_SCALE))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of both towers in the backward pass, for less memory."""
        towers: tuple[Any, Any] = (self.image_tower, self.text_tower)
        for tower in towers:
            blocks = [m for m in tower.modules() if isinstance(m, CheckpointedSequential)]
            if not blocks:  # transformers of timm and open_clip have no batch normalisation
                tower.set_grad_checkpointing(enable)
            for block in blocks:
                block.grad_checkpointing = enable


def build_model(name: str, *, image_size: int = 0) -> MobileCLIP:
    """Build a model with random weights.

    Args:
        name: `s0`, `s1`, `s2`, `b` or `tiny`.
        image_size: Side of the images, 0 for the model's own.

    Raises:
        ValueError: Unknown name, or a side that the model's stride does not divide.
    """
    if name not in VARIANTS:
        raise ValueError(f"model.name must be one of {', '.join(VARIANTS)}, got {name}")
    variant = VARIANTS[name]
    image_size = image_size or variant.image_size
    if image_size < 0 or image_size % variant.stride:
        raise ValueError(
            f"model.image_size of {name} must be a multiple of {variant.stride}, got {image_size}"
        )
    return MobileCLIP(
        variant.image(image_size),
        variant.text(),
        name=name,
        image_size=image_size,
        embed_dim=variant.embed_dim,
        context_length=variant.context_length,
    )


def _unit(features_BD: Tensor) -> Tensor:
    """Normalise rows, in float32 where the towers ran in half precision."""
    dtype = torch.promote_types(features_BD.dtype, torch.float32)
    return F.normalize(features_BD.to(dtype), dim=-1)
