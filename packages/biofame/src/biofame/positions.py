"""Learned tables of positions, read at physical times (spec 2.1, 2.3; the reading is ours).

A table has a row for each patch of a training window. A recording of another rate or patch count
reads it at the times of its own patches' centres, between rows linearly; beyond the last row the
last one holds.

Shapes: N tokens read, T rows, D width, K known channels, C channels.
"""

import torch
from torch import Tensor, nn

from biofame.channel_rows import select_rows
from biofame.config import ModelConfig

STD = 0.02


class TimeTable(nn.Module):
    """A row for each time, the same for all channels.

    Args:
        config: The model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rate = config.rate
        self.table_TD = nn.Parameter(torch.randn(config.tokens, config.dim) * STD)

    def forward(self, tokens: int, *, rate: float) -> Tensor:
        """Return rows `[N, D]` of `tokens` patches recorded with `rate` samples per second."""
        return read_at(self.table_TD, tokens, share=self.rate / rate)


class ChannelTimeTable(nn.Module):
    """A row for each channel and time; unknown channels get zeros.

    Args:
        config: The model's.
        std: Standard deviation of the numbers at the start.
    """

    def __init__(self, config: ModelConfig, *, std: float = STD) -> None:
        super().__init__()
        self.rate = config.rate
        table = torch.randn(len(config.channels), config.tokens, config.dim) * std
        self.table_KTD = nn.Parameter(table)

    def forward(self, rows_C: Tensor, tokens: int, *, rate: float) -> Tensor:
        """Return rows `[C, N, D]`; see `TimeTable.forward`.

        Args:
            rows_C: Row of each channel, -1 for unknown ones.
            tokens: Patches of each channel.
            rate: Samples per second of the recording.
        """
        table_CTD = select_rows(self.table_KTD, rows_C)
        return read_at(table_CTD, tokens, share=self.rate / rate)


def read_at(table: Tensor, tokens: int, *, share: float) -> Tensor:
    """Return `[..., N, D]` of a table `[..., T, D]`, a token being `share` rows long."""
    rows = table.shape[-2]
    if share == 1 and tokens <= rows:
        return table[..., :tokens, :]
    centres = (torch.arange(tokens, device=table.device) + 0.5) * share - 0.5
    place = centres.clamp(0, rows - 1)
    low = place.floor().long().clamp(max=max(rows - 2, 0))
    high = (low + 1).clamp(max=rows - 1)
    weight = (place - low)[:, None].to(table.dtype)
    return table[..., low, :] * (1 - weight) + table[..., high, :] * weight
