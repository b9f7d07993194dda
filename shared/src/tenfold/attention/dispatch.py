"""The front door: check the arguments, choose a kernel, build what it needs, run it.

Shapes: B batch, H heads (fewer for keys and values: grouped queries), L tokens a row, D head dim,
T tokens of all sequences together.
"""

import operator
from typing import NamedTuple

import torch
from torch import Tensor

from tenfold.attention.checks import (
    check_batch,
    check_cu_seqlens,
    check_documents,
    check_scale,
    check_tensors,
    check_window,
)
from tenfold.attention.choice import Backend, Kernel, Mode, kernel_for
from tenfold.attention.kernels import run_flash, run_flash_packed, run_flex, run_sdpa
from tenfold.attention.masks import (
    DocumentMask,
    Pattern,
    build_pattern,
    mode_of,
    needed_documents,
)


def attention(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    *,
    causal: bool = True,
    documents_BL: Tensor | DocumentMask | None = None,
    window: int | None = None,
    backend: Backend = "auto",
    scale: float | None = None,
) -> Tensor:
    """Attend within each row, or within each document of a row.

    Args:
        q_BHLD: Queries.
        k_BHLD: Keys; H may be a divisor of the queries' H.
        v_BHLD: Values, shaped as the keys. All three finite everywhere, padding included.
        causal: Whether tokens see only what stands before them.
        documents_BL: Document ids, negative for padding (its output is zero), or what
            `document_mask` made of them with the same `causal` and `window`. Plain ids are
            translated in every call, which waits for the device: several layers want the mask.
        window: A token sees j in (i - window, i] (causal) or |i - j| < window (full).
        backend: "auto", "sdpa", "flex" or "flash"; see `choose`. A `DocumentMask` brings its own.
        scale: Factor on the scores; None is D ** -0.5.

    Returns:
        The output, shaped and typed as `q_BHLD`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit; `window` below 1; `scale` not above 0;
            a mask made with other settings; a `backend` that cannot do this.
    """
    check_tensors(q_BHLD, k_BHLD, v_BHLD, layout="BHLD")
    check_scale(scale)
    check_window(window)
    if isinstance(documents_BL, DocumentMask):
        check_batch(documents_BL.batch_shape, documents_BL.device, q_BHLD)
        _check_settings(documents_BL, causal=causal, window=window, backend=backend)
        plan = _adopt(documents_BL, q_BHLD, k_BHLD, v_BHLD)
    else:
        plan = _plan(
            documents_BL, q_BHLD, k_BHLD, v_BHLD, causal=causal, window=window, backend=backend
        )
    out_BHLD = _run(plan, q_BHLD, k_BHLD, v_BHLD, causal=causal, window=window, scale=scale)
    if plan.is_padding is None:
        return out_BHLD
    return out_BHLD.masked_fill(plan.is_padding[:, None, :, None], 0)


def varlen_attention(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    *,
    cu_seqlens: Tensor,
    max_seqlen: int,
    causal: bool = True,
    window: int | None = None,
    backend: Backend = "auto",
    scale: float | None = None,
) -> Tensor:
    """Attend within each of the packed sequences that lie end to end in T tokens.

    Sequences that are all `max_seqlen` long become a batch and need no mask. Without flash the
    others share one T x T mask, built in every call.

    Args:
        q_THD: Queries.
        k_THD: Keys; H may be a divisor of the queries' H.
        v_THD: Values, shaped as the keys.
        cu_seqlens: Where sequences start and the last one ends, int32 `[N + 1]`: 0, ..., T.
            Repeated values are empty sequences. The values are checked on the cpu only, as reading
            them elsewhere would wait for the device, and not under torch.compile.
        max_seqlen: Length of the longest sequence or more; not more than T.
        causal: As for `attention`.
        window: As for `attention`.
        backend: As for `attention`.
        scale: As for `attention`.

    Returns:
        The output, shaped and typed as `q_THD`.

    Raises:
        ValueError: As `attention`; or `cu_seqlens` and `max_seqlen` do not describe the T tokens.
    """
    check_tensors(q_THD, k_THD, v_THD, layout="THD")
    check_scale(scale)
    check_window(window)
    check_cu_seqlens(cu_seqlens, max_seqlen, q_THD)
    num_tokens, num_sequences = q_THD.shape[0], cu_seqlens.shape[0] - 1
    if num_sequences * max_seqlen == num_tokens:
        out_BHLD = attention(
            *(_as_batch(x_THD, num_sequences) for x_THD in (q_THD, k_THD, v_THD)),
            causal=causal,
            window=window,
            backend=backend,
            scale=scale,
        )
        return out_BHLD.transpose(1, 2).flatten(0, 1)
    kernel = _kernel("packed", q_THD, k_THD, v_THD, backend)
    if kernel == "flash":
        return run_flash_packed(
            q_THD,
            k_THD,
            v_THD,
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
            causal=causal,
            window=window,
            scale=scale,
        )
    token = torch.arange(num_tokens, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    pattern = build_pattern(
        kernel,
        torch.bucketize(token, cu_seqlens[1:], right=True)[None],
        batch_shape=(1, num_tokens),
        causal=causal,
        window=window,
        device=q_THD.device,
    )
    q, k, v = (_as_batch(x_THD, 1) for x_THD in (q_THD, k_THD, v_THD))
    out_BHLD = _run(
        _Plan(kernel, pattern, None), q, k, v, causal=causal, window=window, scale=scale
    )
    return out_BHLD.transpose(1, 2).flatten(0, 1)


def _as_batch(x_THD: Tensor, batch_size: int) -> Tensor:
    return x_THD.unflatten(0, (batch_size, x_THD.shape[0] // batch_size)).transpose(1, 2)


def _kernel(
    mode: Mode, q: Tensor, k: Tensor, v: Tensor, backend: Backend, *, reason: str | None = None
) -> Kernel:
    # operator.index: a number even where torch.compile made the head dim symbolic.
    head_dim = operator.index(q.shape[-1])
    needs_grad = q.requires_grad or k.requires_grad or v.requires_grad
    return kernel_for(mode, q.device, q.dtype, head_dim, needs_grad, backend, reason)


class _Plan(NamedTuple):
    kernel: Kernel
    pattern: Pattern
    is_padding: Tensor | None


def _plan(
    documents_BL: Tensor | None,
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    *,
    causal: bool,
    window: int | None,
    backend: Backend,
) -> _Plan:
    batch_shape = (q_BHLD.shape[0], q_BHLD.shape[2])
    ids_BL, is_padding_BL = None, None
    if documents_BL is not None:
        check_documents(documents_BL)
        check_batch(tuple(documents_BL.shape), documents_BL.device, q_BHLD)
        ids_BL, is_padding_BL = needed_documents(documents_BL, causal=causal)
    mode = mode_of(ids_BL, window=window, length=batch_shape[1])
    kernel = _kernel(mode, q_BHLD, k_BHLD, v_BHLD, backend)
    pattern = build_pattern(
        kernel,
        ids_BL,
        batch_shape=batch_shape,
        causal=causal,
        window=window,
        device=q_BHLD.device,
    )
    return _Plan(kernel, pattern, is_padding_BL)


def _adopt(mask: DocumentMask, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> _Plan:
    choice = mask.choice
    kernel = _kernel(mask.mode, q_BHLD, k_BHLD, v_BHLD, choice.kernel, reason=choice.reason)
    return _Plan(kernel, mask.pattern, mask.is_padding)


def _check_settings(
    mask: DocumentMask, *, causal: bool, window: int | None, backend: Backend
) -> None:
    if (mask.causal, mask.window) != (causal, window):
        raise ValueError(
            f"the document mask was built with causal={mask.causal}, window={mask.window}, but "
            f"attention was called with causal={causal}, window={window}; pass the same to both"
        )
    if backend not in ("auto", mask.choice.kernel):
        raise ValueError(
            f"backend={backend!r} does not fit a document mask built for {mask.choice.kernel!r}; "
            f"build it with document_mask(..., backend={backend!r})"
        )


def _run(
    plan: _Plan,
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
) -> Tensor:
    qkv, pattern = (q_BHLD, k_BHLD, v_BHLD), plan.pattern
    if plan.kernel == "sdpa":
        return run_sdpa(*qkv, pattern=pattern, causal=causal, scale=scale)
    if plan.kernel == "flex":
        return run_flex(*qkv, pattern=pattern, scale=scale)
    return run_flash(*qkv, pattern=pattern, causal=causal, window=window, scale=scale)
