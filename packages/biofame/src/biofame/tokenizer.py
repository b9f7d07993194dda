"""Patches and their projection, the same for all channels (paper §3.1; spec 2.1).

Shapes: B windows, C channels, L samples, N patches, P samples of a patch, D width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from biofame.config import ModelConfig, Tail


def patchify(samples_BCL: Tensor, patch: int, *, tail: Tail = "trim") -> Tensor:
    """Cut windows into patches `[B, C, N, P]`.

    Args:
        samples_BCL: Windows.
        patch: P.
        tail: Samples after the last whole patch are cut off (`trim`) or filled with zeros (`pad`).

    Raises:
        ValueError: A window is shorter than one patch.
    """
    length = samples_BCL.shape[-1]
    if length < patch:
        raise ValueError(
            f"windows must have at least one patch of {patch} samples, got {length}: give longer "
            "windows, or train with a smaller model.patch"
        )
    over = length % patch
    if over and tail == "pad":
        samples_BCL = F.pad(samples_BCL, (0, patch - over))
    elif over:
        samples_BCL = samples_BCL[..., : length - over]
    return samples_BCL.unflatten(-1, (-1, patch))


class Tokenizer(nn.Module):
    """LayerNorm, projection, LayerNorm of each patch.

    Args:
        config: The model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_norm = nn.LayerNorm(config.patch) if config.patch_norm else nn.Identity()
        self.projection = nn.Linear(config.patch, config.dim)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Return tokens `[..., D]` of patches `[..., P]`."""
        return self.norm(self.projection(self.patch_norm(patches)))
