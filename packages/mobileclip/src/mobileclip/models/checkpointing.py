"""Activation checkpointing that leaves batch normalisation as it would be without.

Recomputing a block in the backward pass would update the running statistics a second time.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class CheckpointedSequential(nn.Sequential):
    """Blocks in sequence that, if asked to, keep only their inputs for the backward pass."""

    grad_checkpointing = False

    def forward(self, input: Tensor) -> Tensor:
        """Apply the blocks in order."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return super().forward(input)
        x = input
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
        return x


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of `module` while it runs in training mode.

    Autograd saves the same tensors as without, which recomputation relies on.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), frozen_statistics(block)
