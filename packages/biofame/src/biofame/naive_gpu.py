"""The autoencoder computed as the released code does it, the peer of `reproduce --scale gpu`.

The pool makes the tensor of all H products (`filters.pool_naive`); each channel's decoder, one
after the other in Python, decodes the tokens of all channels, of which all but its own masked ones
are thrown away (spec 2.4, 10). The code itself is not used: this is written from its description,
and the numbers are those of `MaskedAutoencoder`.

Shapes: G decoders, B windows, T tokens of all channels, Q wanted ones, D width, P samples a patch.
"""

import torch
from torch import Tensor, nn

from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.decoders import Decoders, GroupedLayer
from biofame.encoder import FilterBlock
from biofame.filters import FilterLayer, pool_naive
from biofame.mae import MaskedAutoencoder
from biofame.transformer import TransformerLayer


class NaiveFilter(nn.Module):
    """The operator `pool` by its definition.

    Args:
        layer: Whose filters to take.
    """

    def __init__(self, layer: FilterLayer) -> None:
        super().__init__()
        self.bank_HD2 = layer.bank_HD2

    def forward(self, tokens_BND: Tensor, *, rate: float | None = None) -> Tensor:
        """Return filtered tokens; see `FilterLayer.forward`."""
        spectrum_BFD = torch.fft.rfft(tokens_BND, dim=1, norm="ortho")
        chosen = pool_naive(spectrum_BFD, torch.view_as_complex(self.bank_HD2))
        return torch.fft.irfft(chosen, n=tokens_BND.shape[1], dim=1, norm="ortho")


class LoopedDecoders(nn.Module):
    """One decoder after another.

    Args:
        decoders: Whose weights to take.
        config: Theirs.
    """

    def __init__(self, decoders: Decoders, config: DecoderConfig) -> None:
        super().__init__()
        outputs = decoders.reconstruction
        groups = range(len(outputs.weight))
        self.decoders = nn.ModuleList(
            nn.ModuleList(_layer(layer, group, config) for layer in decoders.layers)  # pyright: ignore[reportArgumentType]
            for group in groups
        )
        _, inputs, patch = outputs.weight.shape
        self.reconstructions = nn.ModuleList(nn.Linear(inputs, patch) for _ in groups)
        for group, linear in zip(groups, self.reconstructions, strict=True):
            assert outputs.bias is not None
            state = {"weight": outputs.weight[group].T, "bias": outputs.bias[group].flatten()}
            linear.load_state_dict(state)

    def forward(
        self, tokens_BTD: Tensor, wanted_GBQ: Tensor, is_key_BT: Tensor | None = None
    ) -> Tensor:
        """Return predicted patches `[G, B, Q, P]`; see `Decoders.forward`."""
        found: list[Tensor] = []
        parts = zip(self.decoders, self.reconstructions, wanted_GBQ, strict=True)
        for layers, reconstruction, wanted_BQ in parts:
            x = tokens_BTD
            for layer in layers:  # pyright: ignore[reportGeneralTypeIssues]
                x = layer(x, is_key_BT)
            index = wanted_BQ[..., None].expand(-1, -1, x.shape[-1])
            found.append(reconstruction(x.gather(1, index)))
        return torch.stack(found)


def naive_autoencoder(
    model: ModelConfig, decoder: DecoderConfig, loss: LossConfig
) -> MaskedAutoencoder:
    """Return an autoencoder with random weights that computes the naive way.

    Raises:
        ValueError: The model's operator is not `pool`.
    """
    return make_naive(MaskedAutoencoder(model, decoder, loss), decoder)


def make_naive(autoencoder: MaskedAutoencoder, decoder: DecoderConfig) -> MaskedAutoencoder:
    """Let an autoencoder compute the naive way with the weights it has; return it.

    Raises:
        ValueError: The model's operator is not `pool`.
    """
    operator = autoencoder.network.config.operator
    if operator != "pool":
        raise ValueError(f"the naive filter is of operator pool, got {operator}")
    for block in autoencoder.network.encoder.blocks:
        assert isinstance(block, FilterBlock)
        block.filter = NaiveFilter(block.filter)  # pyright: ignore[reportAttributeAccessIssue]
    autoencoder.decoders = LoopedDecoders(autoencoder.decoders, decoder)  # pyright: ignore[reportAttributeAccessIssue]
    return autoencoder


def _layer(grouped: GroupedLayer, group: int, config: DecoderConfig) -> TransformerLayer:
    """Return one of the layers that lie side by side."""
    qkv = torch.cat([grouped.query.weight[group], grouped.key_value.weight[group]], dim=1)
    state = {"attention.qkv.weight": qkv.T}
    linears = {
        "attention.out.0": grouped.out,
        "feed_forward.0": grouped.up,
        "feed_forward.3": grouped.down,
    }
    for name, linear in linears.items():
        assert linear.bias is not None
        state[f"{name}.weight"] = linear.weight[group].T
        state[f"{name}.bias"] = linear.bias[group].flatten()
    for name in ("attention_norm", "feed_forward_norm"):
        norm = getattr(grouped, name)
        state[f"{name}.weight"] = norm.weight[group].flatten()
        state[f"{name}.bias"] = norm.bias[group].flatten()
    layer = TransformerLayer(len(qkv), config.heads, config.mlp, config.dropout)
    layer.load_state_dict(state)
    return layer
