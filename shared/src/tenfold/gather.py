"""Rows of every rank as one tensor, with the exact gradient of the global batch.

Shapes: N rows on this rank, D columns, W ranks.

Not here: gathering of metrics (torchmetrics) or of Python objects (torch.distributed).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(
    x_ND: Tensor, *, group: dist.ProcessGroup | None = None, with_gradient: bool = True
) -> Tensor:
    """Return the rows of all ranks, in rank order, as `[W * N, D]`.

    Without an initialised process group, or with one rank, the input itself comes back (detached if
    `with_gradient` is false).

    The gradient of this rank's rows is the **sum** of what all ranks contribute. It is the choice
    that makes W ranks equal one process: DDP and FSDP then divide by W, which cancels
    the W copies of the loss when every rank computes the loss of the global batch, and turns
    the sum of per-rank means into the global mean when every rank computes its own rows only.
    A mean here would make encoder gradients W times too small.

    The ranks first compare shapes, one small collective that waits for the device. Stacking what is
    needed column-wise, and gathering once, costs one such wait instead of several.

    Args:
        x_ND: This rank's rows; the same shape and dtype on every rank.
        group: The ranks to gather over; the default group if absent.
        with_gradient: Whether gradients flow back to the rows, on this and on the other ranks.
            All ranks of the group must then run backward.

    Raises:
        ValueError: `x_ND` is not two-dimensional, or its shape differs between ranks (raised on
            every rank).
    """
    if x_ND.ndim != 2:
        raise ValueError(f"gather_rows needs rows [N, D], got shape {tuple(x_ND.shape)}")
    _, world_size = rank_and_size(group)
    if world_size == 1:
        return x_ND if with_gradient else x_ND.detach()
    _require_equal_shapes(x_ND, world_size, group)
    if with_gradient:
        return _GatherRows.apply(x_ND, group)
    return _all_gather(x_ND.detach(), world_size, group)


def rank_and_size(group: dist.ProcessGroup | None = None) -> tuple[int, int]:
    """Return this process's rank in `group` and the number of ranks; (0, 1) without a group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.shape = group, x_ND.shape
        return _all_gather(x_ND, rank_and_size(group)[1], group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        own_ND = gradients[0].new_empty(ctx.shape)
        dist.reduce_scatter_tensor(
            own_ND, gradients[0].contiguous(), op=dist.ReduceOp.SUM, group=ctx.group
        )
        return own_ND, None


def _all_gather(x_ND: Tensor, world_size: int, group: dist.ProcessGroup | None) -> Tensor:
    gathered = x_ND.new_empty((world_size * x_ND.shape[0], x_ND.shape[1]))
    dist.all_gather_into_tensor(gathered, x_ND.contiguous(), group=group)
    return gathered


def _require_equal_shapes(x_ND: Tensor, world_size: int, group: dist.ProcessGroup | None) -> None:
    # Checked on every call: a rank that skipped the comparison because its own shape did not
    # change would leave the rank whose shape did change waiting for ever.
    own = torch.tensor([x_ND.shape], dtype=torch.int64, device=x_ND.device)
    shapes = _all_gather(own, world_size, group).tolist()
    if any(shape != shapes[0] for shape in shapes):
        listed = ", ".join(f"rank {rank}: {shape}" for rank, shape in enumerate(shapes))
        raise ValueError(
            f"gather_rows needs the same shape on every rank, got {listed}; "
            "give every rank batches of equal size (drop_last=True)"
        )
