"""What all embedding networks have: preprocessing, embedding, a linear classifier without bias."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastfill.config import BackboneConfig


class InputSpec(NamedTuple):
    """What images a network takes: `[channels, height, width]`, mean and deviation per channel."""

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone(nn.Module, ABC):
    """An embedding network with a classifier; images are `[B, C, H, W]`.

    Subclasses define `embed`. The embedding is not normalised.

    Args:
        config: Names the architecture, `dim` and `num_classes`.
        inputs: What images it takes. Resizing is the data's job.

    Attributes:
        config: As given.
        dim: Width of an embedding.
        num_classes: Rows of the head.
        input_size: Channels, height and width.
        mean: `[C, 1, 1]` of pixels scaled to 0..1.
        std: `[C, 1, 1]`.
        head: Classifier `[num_classes, dim]` without bias.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: BackboneConfig, *, inputs: InputSpec) -> None:
        super().__init__()
        self.config = config
        self.dim, self.num_classes = config.dim, config.num_classes
        self.input_size = inputs.size
        # Constants of the architecture: no part of the weights or of their digest.
        self.register_buffer("mean", torch.tensor(inputs.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(inputs.std).view(-1, 1, 1), persistent=False)
        self.head = nn.Linear(config.dim, config.num_classes, bias=False)

    @abstractmethod
    def embed(self, image_BCHW: Tensor) -> Tensor:
        """Return embeddings `[B, dim]` of preprocessed images."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits `[B, num_classes]` of preprocessed images."""
        return self.head(self.embed(image_BCHW))

    def preprocess(self, image_BCHW: Tensor) -> Tensor:
        """Return uint8 images scaled to 0..1, less the mean, over the deviation.

        Raises:
            ValueError: They are not uint8, or have other channels.
        """
        channels = self.input_size[0]
        if image_BCHW.dtype != torch.uint8 or image_BCHW.ndim != 4:
            raise ValueError(
                f"images must be uint8 [B, {channels}, H, W], got {image_BCHW.dtype} "
                f"{list(image_BCHW.shape)}"
            )
        if image_BCHW.shape[1] != channels:
            raise ValueError(f"images must have {channels} channels, got {image_BCHW.shape[1]}")
        return (image_BCHW.to(self.mean.dtype) / 255 - self.mean) / self.std

    def embed_uint8(self, image_BCHW: Tensor) -> Tensor:
        """Return embeddings `[B, dim]` of uint8 images of any size the network takes."""
        return self.embed(self.preprocess(image_BCHW))


def frozen(backbone: Backbone) -> Backbone:
    """Return the backbone in eval mode, without gradients: an old or a new model while h trains."""
    return backbone.eval().requires_grad_(False)
