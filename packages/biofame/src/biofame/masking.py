"""Which tokens are masked: a share of every channel's, drawn channel by channel (spec 2.4).

Shapes: B windows, C channels, N tokens, V visible and M masked ones of a channel, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Partition(NamedTuple):
    """Numbers of visible `[B, C, V]` and masked tokens `[B, C, M]`, int64 on the tokens' device."""

    visible: Tensor
    masked: Tensor


def draw_partition(
    windows: int, channels: int, tokens: int, *, ratio: float, device: torch.device
) -> Partition:
    """Mask exactly int(ratio N) tokens of each channel, independently of the other channels.

    Numbers come from torch's generator on `device`, which training seeds by the step.

    Raises:
        ValueError: No token would be masked, or none be visible.
    """
    masked = int(ratio * tokens)
    if not 0 < masked < tokens:
        raise ValueError(
            f"loss.mask_ratio {ratio} masks {masked} of {tokens} tokens; at least one must be "
            "masked and one visible: choose another ratio, longer windows or a smaller patch"
        )
    order = torch.rand(windows, channels, tokens, device=device).argsort(dim=-1)
    return Partition(visible=order[..., masked:], masked=order[..., :masked])


def take(tokens_BCND: Tensor, numbers_BCK: Tensor) -> Tensor:
    """Return the numbered tokens of each channel, `[B, C, K, D]`; B may be 1 in the tokens."""
    windows = numbers_BCK.shape[0]
    index = numbers_BCK[..., None].expand(-1, -1, -1, tokens_BCND.shape[-1])
    return tokens_BCND.expand(windows, -1, -1, -1).gather(2, index)


def is_masked(partition: Partition, tokens: int) -> Tensor:
    """Return which tokens are masked, bool `[B, C, N]`."""
    shape = (*partition.masked.shape[:2], tokens)
    mask = torch.zeros(shape, dtype=torch.bool, device=partition.masked.device)
    return mask.scatter(2, partition.masked, True)
