"""Packed sequences against the same sequences padded, which `test_attention.py` checks."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.attention import attention, varlen_attention
from tenfold.attention.choice import Backend


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def packed(num_tokens: int, *, heads: tuple[int, int], head_dim: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    return [
        torch.randn(num_tokens, count, head_dim, generator=generator)
        for count in (heads[0], heads[1], heads[1])
    ]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["auto", "sdpa", "flex"])
@pytest.mark.parametrize(
    ("lengths", "max_seqlen"),
    [([5, 1, 7], 7), ([4, 4, 4], 4), ([0, 3, 0, 6], 6), ([3, 3, 3], 5), ([9], 9)],
)
def test_packed_equals_padded(lengths: list[int], max_seqlen: int, backend: Backend) -> None:
    tokens = packed(sum(lengths), heads=(4, 2))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    for causal, window in ((True, None), (False, None), (True, 2), (False, 2)):
        out = varlen_attention(
            *tokens,
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
            causal=causal,
            window=window,
            backend=backend,
        )
        batch = [
            torch.nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True)
            for x in tokens
        ]
        ids = [torch.arange(batch[0].shape[1]) < n for n in lengths]
        padded = attention(
            *(x.transpose(1, 2) for x in batch),
            documents_BL=torch.stack(ids).long() - 1,
            causal=causal,
            window=window,
        ).transpose(1, 2)
        wanted = torch.cat([row[:n] for row, n in zip(padded, lengths, strict=True)])
        assert out.shape == tokens[0].shape
        torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)


def test_gradcheck() -> None:
    q, k, v = (x.double().requires_grad_() for x in packed(5, heads=(4, 2), head_dim=3))
    cu_seqlens = torch.tensor([0, 2, 5], dtype=torch.int32)
    assert torch.autograd.gradcheck(
        lambda q, k, v: varlen_attention(q, k, v, cu_seqlens=cu_seqlens, max_seqlen=3, window=2),
        (q, k, v),
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="fused kernels need cuda")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["auto", "flash", "flex", "sdpa"])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 3), (False, 3)])
def test_cuda_packed_equals_cpu(backend: Backend, causal: bool, window: int | None) -> None:
    settings: dict[str, Any] = {"max_seqlen": 130, "causal": causal, "window": window}
    cu_seqlens = torch.tensor([0, 5, 135, 135, 142], dtype=torch.int32)
    q, k, v = packed(142, heads=(4, 2), head_dim=64)
    wanted = varlen_attention(q, k, v, cu_seqlens=cu_seqlens, **settings)
    out = varlen_attention(
        *(x.to("cuda", torch.bfloat16) for x in (q, k, v)),
        cu_seqlens=cu_seqlens.cuda(),
        backend=backend,
        **settings,
    )
    torch.testing.assert_close(out.cpu().float(), wanted, atol=5e-2, rtol=5e-2)
