"""The three kernels behind one set of arguments; each knows its own library's conventions."""

import functools
import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.attention.masks import Pattern


def run_sdpa(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    *,
    pattern: Pattern,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Run torch's scaled dot product attention; a mask already holds the causality."""
    return F.scaled_dot_product_attention(
        q_BHLD,
        k_BHLD,
        v_BHLD,
        attn_mask=pattern.visible,
        is_causal=causal and pattern.visible is None,
        scale=scale,
        enable_gqa=_is_grouped(q_BHLD, k_BHLD),
    )


def run_flex(
    q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, *, pattern: Pattern, scale: float | None
) -> Tensor:
    """Run FlexAttention: fused on cuda, unfused and forward only on the cpu."""
    # Costs as much as importing torch itself, and few callers need it.
    from torch.nn.attention.flex_attention import flex_attention

    run = flex_attention
    if not torch.compiler.is_compiling():
        run = _compiled(flex_attention, "inductor" if q_BHLD.is_cuda else "eager")
    return run(
        q_BHLD,
        k_BHLD,
        v_BHLD,
        block_mask=pattern.block_mask,
        scale=scale,
        enable_gqa=_is_grouped(q_BHLD, k_BHLD),
    )


@functools.cache
def _compiled(function: Callable[..., Tensor], compiler: str) -> Callable[..., Tensor]:
    # fullgraph: past torch's recompile limit an error, not a quiet return to unfused attention.
    return torch.compile(function, backend=compiler, fullgraph=True)


def run_flash(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    *,
    pattern: Pattern,
    causal: bool,
    window: int | None,
    scale: float | None,
) -> Tensor:
    """Run FlashAttention on a batch, its rows and documents laid end to end."""
    assert pattern.cu_seqlens is not None, "pattern was built for another kernel"
    out_THD = run_flash_packed(
        *(x_BHLD.transpose(1, 2).flatten(0, 1) for x_BHLD in (q_BHLD, k_BHLD, v_BHLD)),
        cu_seqlens=pattern.cu_seqlens,
        max_seqlen=pattern.max_seqlen,
        causal=causal,
        window=window,
        scale=scale,
    )
    return out_THD.unflatten(0, (q_BHLD.shape[0], q_BHLD.shape[2])).transpose(1, 2)


def run_flash_packed(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    *,
    cu_seqlens: Tensor,
    max_seqlen: int,
    causal: bool,
    window: int | None,
    scale: float | None,
) -> Tensor:
    """Run torch's variable-length FlashAttention on packed tokens."""
    from torch.nn.attention.varlen import varlen_attn

    # Its window does not count the token itself.
    reach = -1 if window is None else window - 1
    out_THD = varlen_attn(
        q_THD,
        k_THD,
        v_THD,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        scale=scale,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=_is_grouped(q_THD, k_THD),
    )
    assert isinstance(out_THD, Tensor), "nothing but the output was asked for"
    return out_THD


def _is_grouped(q: Tensor, k: Tensor) -> bool:
    # operator.index: a plain bool even where torch.compile made the sizes symbolic.
    return operator.index(q.shape[1]) != operator.index(k.shape[1])
