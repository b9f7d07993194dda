"""Arguments that attention refuses; each message says what came and what is expected."""

import torch
from torch import Tensor

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


def check_batch(batch_shape: tuple[int, ...], device: torch.device, q_BHLD: Tensor) -> None:
    """Check that documents of `batch_shape` on `device` belong to these queries.

    Raises:
        ValueError: Another batch size, length or device.
    """
    if batch_shape != (q_BHLD.shape[0], q_BHLD.shape[2]) or device != q_BHLD.device:
        raise ValueError(
            f"documents of shape {list(batch_shape)} on {device} do not fit queries "
            f"[B, H, L, D] = {list(q_BHLD.shape)} on {q_BHLD.device}; they must be [B, L] there"
        )


def check_tensors(q: Tensor, k: Tensor, v: Tensor, *, layout: str) -> None:
    """Check queries, keys and values against each other; `layout` is "BHLD" or "THD".

    Raises:
        ValueError: Shapes, numbers of heads, dtypes or devices do not fit.
    """
    heads = layout.index("H")
    shapes = f"{list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
    if q.dim() != len(layout) or k.dim() != len(layout) or k.shape != v.shape:
        raise ValueError(
            f"q, k, v must be [{', '.join(layout)}], k and v of one shape, got shapes {shapes}"
        )
    if any(q.shape[d] != k.shape[d] for d in range(q.dim()) if d != heads):
        raise ValueError(f"q and k may differ in the number of heads only, got shapes {shapes}")
    if k.shape[heads] == 0 or q.shape[heads] % k.shape[heads]:
        raise ValueError(
            f"the heads of q must be a multiple of those of k and v, got shapes {shapes}"
        )
    if not (q.dtype == k.dtype == v.dtype and q.device == k.device == v.device):
        raise ValueError(
            "q, k, v must share dtype and device, got "
            + ", ".join(f"{x.dtype} on {x.device}" for x in (q, k, v))
        )


def check_scale(scale: float | None) -> None:
    """Check the factor on the scores.

    Raises:
        ValueError: Not above 0.
    """
    if scale is not None and not scale > 0:
        raise ValueError(f"scale must be > 0 or None (head_dim ** -0.5), got {scale}")


def check_cu_seqlens(cu_seqlens: Tensor, max_seqlen: int, q_THD: Tensor) -> None:
    """Check packed sequences against their tokens, the values on the cpu only.

    Raises:
        ValueError: Wrong shape, dtype or device, or not a division of the T tokens.
    """
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype != torch.int32:
        raise ValueError(
            "cu_seqlens must be int32 of shape [N + 1] with N >= 1, got "
            f"{cu_seqlens.dtype} of shape {list(cu_seqlens.shape)}"
        )
    if cu_seqlens.device != q_THD.device:
        raise ValueError(
            f"cu_seqlens must be on the device of q, {q_THD.device}, got {cu_seqlens.device}"
        )
    num_tokens = q_THD.shape[0]
    if not 1 <= max_seqlen <= num_tokens or max_seqlen * (cu_seqlens.shape[0] - 1) < num_tokens:
        raise ValueError(
            f"max_seqlen must be the longest of {cu_seqlens.shape[0] - 1} sequences that fill "
            f"{num_tokens} tokens, got {max_seqlen}"
        )
    if cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(cu_seqlens, max_seqlen, num_tokens)


def _check_values(cu_seqlens: Tensor, max_seqlen: int, num_tokens: int) -> None:
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != num_tokens:
        raise ValueError(
            f"cu_seqlens must run from 0 to the number of tokens {num_tokens}, "
            f"got {first} to {last}"
        )
    lengths = cu_seqlens.diff()
    if int(lengths.min()) < 0:
        raise ValueError(
            f"cu_seqlens must not descend, but its value after index {int(lengths.argmin())} does"
        )
    if int(lengths.max()) > max_seqlen:
        raise ValueError(
            f"max_seqlen must be at least the longest sequence {int(lengths.max())}, "
            f"got {max_seqlen}"
        )


def check_documents(documents_BL: Tensor) -> None:
    """Check shape and dtype of document ids.

    Raises:
        ValueError: Not two-dimensional or not of a signed integer dtype.
    """
    if documents_BL.dim() != 2 or documents_BL.dtype not in _INTEGERS:
        raise ValueError(
            "documents must be signed integer ids of shape [B, L], got "
            f"{documents_BL.dtype} of shape {list(documents_BL.shape)}"
        )


def check_window(window: int | None) -> None:
    """Check a window.

    Raises:
        ValueError: Below 1.
    """
    if window is not None and window < 1:
        raise ValueError(
            f"window must be >= 1 (1: each token sees itself only) or None, got {window}"
        )
