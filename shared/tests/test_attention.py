"""Every path of attention against plain loops in float64, forward and gradient.

Kernels that need cuda are chosen and fed here on the cpu, and run by the tests marked `gpu`.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.attention import attention, document_mask
from tenfold.attention.choice import Backend, Kernel
from tenfold.attention.kernels import run_flash
from tenfold.attention.masks import build_pattern

CPU = torch.device("cpu")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="fused flex and flash kernels exist on cuda only"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One setting; `lengths` holds the documents of each row, the rest of the row is padding."""

    heads: tuple[int, int] = (2, 2)
    length: int = 13
    head_dim: int = 16
    causal: bool = True
    window: int | None = None
    lengths: tuple[tuple[int, ...], ...] | None = None
    scale: float | None = None
    batch_size: int = 2

    def documents(self) -> Tensor | None:
        if self.lengths is None:
            return None
        ids_BL = torch.full((len(self.lengths), self.length), -1)
        for row, lengths in enumerate(self.lengths):
            ids = torch.arange(len(lengths)).repeat_interleave(
                torch.tensor(lengths, dtype=torch.int64)
            )
            ids_BL[row, : len(ids)] = 7 - ids  # ids neither ascend nor start at 0
        return ids_BL

    def tensors(self, dtype: torch.dtype, device: torch.device = CPU) -> list[Tensor]:
        """Return q, k, v and the gradient of the output."""
        generator = torch.Generator().manual_seed(self.length + self.heads[0])
        return [
            torch.randn(self.batch_size, heads, self.length, self.head_dim, generator=generator)
            .to(device, dtype)
            .requires_grad_(name != "grad_out")
            for name, heads in zip(
                ("q", "k", "v", "grad_out"),
                (self.heads[0], self.heads[1], self.heads[1], self.heads[0]),
                strict=True,
            )
        ]


CASES = {
    "causal": Case(),
    "full": Case(causal=False),
    "scale": Case(scale=0.7, causal=False),
    "one token": Case(length=1),
    "long": Case(length=131, batch_size=1, heads=(1, 1), head_dim=8),
    "long window": Case(length=131, batch_size=1, heads=(1, 1), head_dim=8, window=37),
    "grouped": Case(heads=(4, 2)),
    "multi-query": Case(heads=(3, 1), causal=False),
    "window 1": Case(window=1),
    "window 4": Case(window=4, heads=(4, 2)),
    "window full": Case(window=4, causal=False),
    "window 1 full": Case(window=1, causal=False),
    "window too long": Case(window=99, causal=False),
    "documents": Case(lengths=((5, 1, 7), (13,))),
    "documents full": Case(lengths=((5, 1, 7), (6, 7)), causal=False),
    "documents padded": Case(lengths=((5, 4), (3, 3, 3)), heads=(4, 1)),
    "documents padded full": Case(lengths=((5, 4), ()), causal=False),
    "documents window": Case(lengths=((6, 5, 2), (9, 2)), window=3),
    "documents window full": Case(lengths=((6, 5, 2), (9, 2)), window=3, causal=False),
    "one document padded": Case(lengths=((9,), (4,))),
}
FLEX_CASES = [
    "full", "grouped", "window full", "documents padded", "documents window full", "long window",
]  # fmt: skip


def sees(i: int, j: int, *, causal: bool, window: int | None) -> bool:
    if causal:
        return j <= i and (window is None or j > i - window)
    return window is None or abs(i - j) < window


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    documents_BL: Tensor | None,
    window: int | None,
    scale: float | None,
) -> Tensor:
    """Attend one query at a time, as the definition says; zero where nothing may be seen."""
    batch_size, num_heads, length, head_dim = q.shape
    factor = head_dim**-0.5 if scale is None else scale
    out = []
    for b in range(batch_size):
        ids = [0] * length if documents_BL is None else documents_BL[b].tolist()
        for h in range(num_heads):
            group = h // (num_heads // k.shape[1])
            for i in range(length):
                js = [
                    j
                    for j in range(length)
                    if ids[i] == ids[j] and sees(i, j, causal=causal, window=window)
                ]
                if ids[i] < 0:
                    out.append(torch.zeros(head_dim, dtype=q.dtype))
                    continue
                weights = torch.exp(factor * (k[b, group, js] @ q[b, h, i]))
                out.append((weights / weights.sum()) @ v[b, group, js])
    return torch.stack(out).view(q.shape)


def expected(case: Case, tensors: list[Tensor]) -> list[Tensor]:
    q, k, v, grad_out = (x.detach().to("cpu", torch.float64) for x in tensors)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = naive(
        *leaves,
        causal=case.causal,
        documents_BL=case.documents(),
        window=case.window,
        scale=case.scale,
    )
    return [out, *torch.autograd.grad(out, leaves, grad_out)]


def check(
    case: Case,
    dtype: torch.dtype,
    *,
    backend: Backend,
    device: torch.device = CPU,
    prepare: bool = False,
    gradient: bool = True,
    tolerance: float | None = None,
) -> None:
    """Compare output and gradients with the loops."""
    *qkv, grad_out = case.tensors(dtype, device)
    documents = case.documents()
    settings: dict[str, Any] = {"causal": case.causal, "window": case.window, "backend": backend}
    mask = None if documents is None else documents.to(device)
    if prepare and mask is not None:
        mask = document_mask(mask, **settings)
    if not gradient:
        qkv = [x.detach() for x in qkv]
    out = attention(*qkv, documents_BL=mask, scale=case.scale, **settings)
    assert out.dtype == dtype
    assert out.shape == qkv[0].shape
    actual = [out, *(torch.autograd.grad(out, qkv, grad_out) if gradient else ())]
    wanted = expected(case, [*qkv, grad_out])[: len(actual)]
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    for a, w in zip(actual, wanted, strict=True):
        torch.testing.assert_close(
            a.detach().cpu().double(), w.detach(), atol=tolerance, rtol=tolerance
        )


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CASES)
def test_auto_on_cpu_equals_loops(name: str) -> None:
    check(CASES[name], torch.float32, backend="auto")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["full", "window 4", "documents padded", "documents window full"])
def test_other_dtypes_equal_loops(name: str, dtype: torch.dtype) -> None:
    check(CASES[name], dtype, backend="sdpa", prepare=True)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", FLEX_CASES)
def test_flex_forward_on_cpu_equals_loops(name: str) -> None:
    check(CASES[name], torch.float32, backend="flex", prepare=True, gradient=False)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("auto", torch.bfloat16),
        ("auto", torch.float32),
        ("sdpa", torch.bfloat16),
        ("flex", torch.bfloat16),
        ("flash", torch.bfloat16),
    ],
)
def test_cuda_kernels_equal_loops(name: str, backend: Backend, dtype: torch.dtype) -> None:
    # Fused kernels sum in another order, and float32 may pass through tensor cores.
    tolerance = 2e-3 if dtype == torch.float32 else 5e-2
    case = dataclasses.replace(CASES[name], head_dim=64)
    device = torch.device("cuda", torch.cuda.current_device())
    for prepare in (False, True):
        check(case, dtype, backend=backend, device=device, prepare=prepare, tolerance=tolerance)


def test_flex_on_cpu_refuses_gradients() -> None:
    q, k, v, _ = CASES["causal"].tensors(torch.float32)
    with pytest.raises(ValueError, match="flex has no backward on cpu"):
        attention(q, k, v, backend="flex")
    mask = document_mask(torch.zeros(2, 13, dtype=torch.int64), backend="flex", window=3)
    with pytest.raises(ValueError, match="flex has no backward on cpu"):
        attention(q, k, v, documents_BL=mask, window=3)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_documents_equal_separate_forwards(causal: bool, window: int | None) -> None:
    case = Case(heads=(4, 2), length=24, batch_size=1, lengths=((5, 11, 1, 7),))
    q, k, v, grad_out = case.tensors(torch.float32)
    joint = attention(q, k, v, causal=causal, window=window, documents_BL=case.documents())
    parts = [
        attention(*part, causal=causal, window=window)
        for part in zip(*(x.split([5, 11, 1, 7], dim=2) for x in (q, k, v)), strict=True)
    ]
    separate = torch.cat(parts, dim=2)
    torch.testing.assert_close(joint, separate, atol=1e-5, rtol=1e-5)
    for a, b in zip(
        torch.autograd.grad(joint, (q, k, v), grad_out),
        torch.autograd.grad(separate, (q, k, v), grad_out),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_scattered_documents_see_each_other() -> None:
    q, k, v, _ = Case(length=6, batch_size=1).tensors(torch.float32)
    documents_BL = torch.tensor([[4, 9, 4, 9, 9, 4]])
    order = torch.tensor([0, 2, 5, 1, 3, 4])
    scattered = attention(q, k, v, documents_BL=documents_BL)
    together = attention(*(x[:, :, order] for x in (q, k, v)), documents_BL=documents_BL[:, order])
    torch.testing.assert_close(scattered[:, :, order], together)


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_gives_zeros_whatever_it_holds(backend: Backend, causal: bool) -> None:
    documents_BL = torch.tensor([[-1, 0, 0, -2, 1, -1], [-1] * 6])
    q, k, v, _ = Case(length=6).tensors(torch.float32)
    is_padding = (documents_BL < 0)[:, None, :, None]
    if backend == "flex":
        q, k, v = q.detach(), k.detach(), v.detach()
    settings: dict[str, Any] = {"documents_BL": documents_BL, "causal": causal, "backend": backend}
    out = attention(q, k, v, **settings)
    assert out.masked_select(is_padding).eq(0).all()
    loud = [x.masked_fill(is_padding, 1e4) for x in (q, k, v)]
    torch.testing.assert_close(attention(*loud, **settings), out)
    if backend == "sdpa":
        for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
            assert gradient.masked_select(is_padding).eq(0).all()
            assert gradient.isfinite().all()


def test_gradcheck() -> None:
    case = Case(heads=(4, 2), length=5, head_dim=3, batch_size=1, lengths=((2, 2),), window=2)
    q, k, v, _ = case.tensors(torch.float64)
    documents_BL = case.documents()
    assert documents_BL is not None
    mask = document_mask(documents_BL, window=2)
    assert torch.autograd.gradcheck(
        lambda q, k, v: attention(q, k, v, documents_BL=mask, window=2), (q, k, v)
    )


def contract(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """Follow the documented contract of `torch.nn.attention.varlen.varlen_attn` in plain loops."""
    assert cu_seq_q is cu_seq_k  # cuDNN takes causal attention only of one tensor for both
    assert cu_seq_q.dtype == torch.int32
    assert max_q == max_k
    assert enable_gqa == (q.shape[1] != k.shape[1])
    left, right = (10**9 if side < 0 else side for side in window_size)
    out = torch.full_like(q, torch.nan)
    bounds = cu_seq_q.tolist()
    for start, end in itertools.pairwise(bounds):
        assert end - start <= max_q
        for i in range(start, end):
            js = slice(max(start, i - left), min(end, i + right + 1))
            for h in range(q.shape[1]):
                group = h // (q.shape[1] // k.shape[1])
                scores = k[js, group] @ q[i, h] * (scale or q.shape[2] ** -0.5)
                out[i, h] = scores.softmax(0) @ v[js, group]
    return out


@pytest.mark.parametrize("name", [name for name in CASES if "long" not in name])
def test_flash_gets_what_its_contract_asks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", contract)
    case = CASES[name]
    tensors = [x.detach() for x in case.tensors(torch.float64)]
    pattern = build_pattern(
        "flash",
        case.documents(),
        batch_shape=(2, case.length),
        causal=case.causal,
        window=case.window,
        device=CPU,
    )
    out = run_flash(
        *tensors[:3], pattern=pattern, causal=case.causal, window=case.window, scale=case.scale
    )
    if (documents := case.documents()) is not None:
        out = out.masked_fill((documents < 0)[:, None, :, None], 0)
    torch.testing.assert_close(out, expected(case, tensors)[0].detach())


def test_flash_refuses_scattered_documents() -> None:
    settings: dict[str, Any] = {
        "batch_shape": (2, 4),
        "causal": True,
        "window": None,
        "device": CPU,
    }
    documents_BL = torch.tensor([[1, 1, 0, 0], [2, 3, 2, 2]])
    with pytest.raises(ValueError, match="row 1 has a scattered one"):
        build_pattern("flash", documents_BL, **settings)
    documents_BL[1] = torch.tensor([-1, 2, 2, -1])  # padding on both sides is no document
    pattern = build_pattern("flash", documents_BL, **settings)
    assert pattern.cu_seqlens is not None
    assert pattern.cu_seqlens.tolist() == [0, 2, 4, 5, 7, 8]
    assert pattern.max_seqlen == 2


@pytest.mark.parametrize("kernel", ["sdpa", "flash"])
def test_window_mask_of_a_validation_step_serves_training(kernel: Kernel) -> None:
    settings: dict[str, Any] = {"batch_shape": (3, 19), "causal": True, "window": 5, "device": CPU}
    with torch.inference_mode():
        pattern = build_pattern(kernel, None, **settings)
    assert build_pattern(kernel, None, **settings) is pattern
    tensor = pattern.visible if kernel == "sdpa" else pattern.cu_seqlens
    assert tensor is not None
    assert not tensor.is_inference()  # autograd refuses to save an inference tensor
