"""Large batches on few devices: encode in micro-batches, with the gradient of the whole batch.

A contrastive loss needs the embeddings of all pairs, but not all activations at once. Each
micro-batch is encoded without keeping activations and encoded again in the backward pass, so that
the memory is that of one micro-batch, for one more forward pass (GradCache, Gao et al. 2021,
arXiv:2101.06983). The gradient is exact: gradient accumulation would lose the other micro-batches'
negatives.

Batch norm normalises each micro-batch by its own statistics, as it does each rank's. Its running
statistics, and the state of random generators, see every micro-batch once.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mobileclip.models.checkpointing import frozen_statistics


def encode_in_micro_batches(
    encode: Callable[[Tensor], tuple[Tensor, ...]],
    inputs: Tensor,
    *,
    size: int,
    network: nn.Module,
) -> tuple[Tensor, ...]:
    """Return what `encode` makes of all rows, keeping the activations of `size` rows at most.

    Args:
        encode: From some of the rows to tensors with as many rows; rows must not depend on each
            other otherwise than through batch norm.
        inputs: `[N, ...]`.
        size: Rows that are encoded at once, 0 for all.
        network: Where the batch norms are that `encode` uses.
    """
    if not 0 < size < len(inputs):
        return encode(inputs)
    contexts = partial(_contexts, network)
    parts: list[tuple[Tensor, ...]] = [
        checkpoint(encode, part, use_reentrant=False, context_fn=contexts)
        for part in inputs.split(size)
    ]
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def _contexts(
    network: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), frozen_statistics(network)
