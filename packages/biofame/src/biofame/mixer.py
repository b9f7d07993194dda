"""The second encoder: attention over the tokens of all channels (paper §3.3; spec 2.3).

Shapes: B windows, C channels, N tokens a channel, T tokens of all channels, D width.
"""

from torch import Tensor, nn

from biofame.config import ModelConfig
from biofame.positions import ChannelTimeTable, TimeTable
from biofame.transformer import TransformerLayer


class Mixer(nn.Module):
    """An ordinary transformer; without tables of positions it knows no order of its tokens.

    Args:
        config: The model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        positional = config.mixer_positional
        self.time = TimeTable(config) if positional in ("time", "both") else None
        self.modality = ChannelTimeTable(config) if positional in ("modality", "both") else None
        self.layers = nn.ModuleList(
            TransformerLayer(
                config.dim,
                config.mixer_heads,
                config.mixer_mlp,
                config.dropout,
                post_norm=config.post_norm,
            )
            for _ in range(config.mixer_depth)
        )

    def place(self, latent_BCND: Tensor, rows_C: Tensor, *, rate: float) -> Tensor:
        """Return latents with the tables added.

        Args:
            latent_BCND: Latents of all tokens.
            rows_C: Row of each channel in the tables, -1 for unknown ones.
            rate: Samples per second of the recording.
        """
        tokens = latent_BCND.shape[2]
        if self.time is not None:
            latent_BCND = latent_BCND + self.time(tokens, rate=rate)
        if self.modality is not None:
            latent_BCND = latent_BCND + self.modality(rows_C, tokens, rate=rate)
        return latent_BCND

    def forward(self, tokens_BTD: Tensor, is_key_BT: Tensor | None = None) -> Tensor:
        """Return mixed tokens.

        Args:
            tokens_BTD: Tokens of all channels, placed.
            is_key_BT: Which of them exist, all by default.
        """
        for layer in self.layers:
            tokens_BTD = layer(tokens_BTD, is_key_BT)
        return tokens_BTD
