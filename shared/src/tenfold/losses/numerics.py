"""Numerics that the losses share: full precision and means over valid rows."""

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32, or in float64 if that is what it has.

    Under autocast everything computed from it stays that wide, except matrix products.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def fill_invalid(tensor: Tensor, valid: Tensor | None, value: float) -> Tensor:
    """Overwrite the rows (all but the last axis) that are not `valid`.

    Masking the input, not only the loss, keeps a NaN in an ignored row out of the gradient.
    """
    return tensor if valid is None else torch.where(valid.unsqueeze(-1), tensor, value)


def mean_over_valid(rows: Tensor, valid: Tensor | None) -> Tensor:
    """Average per-row losses over the valid rows; 0, still in the graph, if there are none."""
    if valid is None:
        return rows.sum() / max(rows.numel(), 1)
    return torch.where(valid, rows, 0.0).sum() / valid.sum().clamp_min(1)


def require_rows_mask(valid: Tensor | None, rows_shape: torch.Size) -> None:
    """Check that `valid` is a boolean mask with one entry a row.

    Raises:
        ValueError: Its dtype or shape is another one.
    """
    if valid is None:
        return
    if valid.dtype != torch.bool:
        raise ValueError(f"valid must be a bool mask, got dtype {valid.dtype}; pass labels != 255")
    if valid.shape != rows_shape:
        raise ValueError(
            f"valid must have one entry a row, shape {tuple(rows_shape)}, got {tuple(valid.shape)}"
        )
