"""What holds of the network by its making, measured on a trained one (spec 7a, 7c).

Shapes: B windows, C channels, L samples, N tokens a channel, D width.
"""

import torch
from torch import Tensor

from biofame.model import BioFame
from biofame.passes import open_source, rows_with_channels
from biofame.store import SignalStore

WINDOWS = 32


@torch.inference_mode()
def structural_differences(
    network: BioFame, store: SignalStore, *, pool: BioFame
) -> dict[str, float]:
    """Return the largest difference between what must be equal, over the largest value.

    Args:
        network: A trained one, in `eval()`.
        store: Its test windows are used.
        pool: One with the operator `pool`; a query holds the phase, so `query` does not follow a
            shift.

    Returns:
        By name: a channel marked absent against one left out; channels in another order; tokens
        shifted in a circle before and after the encoder of `pool`.
    """
    source = open_source(store)
    rows = rows_with_channels(source, "test")[:WINDOWS, None]
    samples_BCL = source.read(rows)["samples"]
    return {
        "absent channel = channel left out": _left_out(network, samples_BCL),
        "order of channels": _reordered(network, samples_BCL),
        "shift of tokens (pool)": _shifted(pool.eval(), samples_BCL),
    }


def _left_out(network: BioFame, samples_BCL: Tensor) -> float:
    names = network.config.channels
    present = torch.ones(samples_BCL.shape[:2], dtype=torch.bool)
    present[:, -1] = False
    marked = network(samples_BCL, channels=names, present_BC=present)[:, :-1]
    return _difference(marked, network(samples_BCL[:, :-1], channels=names[:-1]))


def _reordered(network: BioFame, samples_BCL: Tensor) -> float:
    names = network.config.channels
    turned = network(samples_BCL.flip(1), channels=names[::-1])
    return _difference(turned.flip(1), network(samples_BCL, channels=names))


def _shifted(network: BioFame, samples_BCL: Tensor) -> float:
    rate = network.config.rate
    cut = network.cut(samples_BCL, network.rows(samples_BCL, None))
    tokens = network.tokenizer(cut.patches)
    before = network.encoder(tokens.roll(3, dims=2), rate=rate)
    return _difference(before, network.encoder(tokens, rate=rate).roll(3, dims=2))


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())
