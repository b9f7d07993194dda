"""Which kernel attention takes, what it builds for it, and what it refuses.

The numbers are checked in `test_attention.py`.
"""

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.attention import (
    DocumentMask,
    Workload,
    attention,
    choose,
    document_mask,
    varlen_attention,
)
from tenfold.attention import choice as choice_module
from tenfold.attention.choice import Backend, Mode
from tenfold.attention.masks import Pattern


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    choice_module._log_once.cache_clear()
    caplog.set_level(logging.INFO, logger="tenfold.attention")
    return caplog


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [2, 4, 13, 8], keys and values [2, 2, 13, 8]."""
    return random(2, 4, 13, 8), random(2, 2, 13, 8), random(2, 2, 13, 8)


def ends(*values: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def on_cuda(mode: Mode, dtype: torch.dtype = torch.bfloat16, **facts: Any) -> Workload:
    known: dict[str, Any] = {"head_dim": 64, "needs_grad": True, "capability": (9, 0), **facts}
    return Workload(mode=mode, device_type="cuda", dtype=dtype, **known)


CHOICES = [
    (on_cuda("plain"), "sdpa", "no mask is needed"),
    (on_cuda("masked"), "flex", "it skips the blocks that are masked out as a whole"),
    (on_cuda("packed"), "flash", "it reads packed tokens without any mask"),
    (on_cuda("packed", torch.float32), "flex", "flash needs float16 or bfloat16, got float32"),
    (on_cuda("packed", head_dim=20), "flex", "multiple of 8 up to 256, got 20"),
    (on_cuda("packed", head_dim=264), "flex", "multiple of 8 up to 256, got 264"),
    (on_cuda("packed", capability=(7, 5)), "flex", "capability 8.0, this GPU has 7.5"),
    (on_cuda("packed", flash_is_built=False), "flex", "torch has no flash kernels"),
    (on_cuda("packed", torch.float64), "sdpa", "got float64; flex needs float16"),
    (on_cuda("masked", torch.float64), "sdpa", "flex needs float16, bfloat16 or float32"),
    (Workload(mode="masked", device_type="cuda"), "flex", "it skips"),
    (Workload(mode="plain", device_type="cpu"), "sdpa", "no mask is needed"),
    (Workload(mode="masked", device_type="cpu"), "sdpa", r"\(flex\) need cuda, .* on cpu"),
    (Workload(mode="packed", device_type="mps"), "sdpa", r"\(flash, flex\) need cuda, .* on mps"),
]


@pytest.mark.parametrize(("workload", "kernel", "reason"), CHOICES)
def test_auto_chooses(workload: Workload, kernel: str, reason: str) -> None:
    chosen = choose(workload)
    assert chosen.kernel == kernel
    assert re.search(reason, chosen.reason)


@pytest.mark.parametrize(
    ("workload", "backend", "obstacle"),
    [
        (on_cuda("plain"), "flash_attn", "backend must be one of .*'flash'.* got 'flash_attn'"),
        (Workload(mode="packed", device_type="cpu"), "flash", "'flash' cannot .* on cuda only"),
        (on_cuda("masked", torch.float32), "flash", "needs float16 or bfloat16, got float32"),
        (on_cuda("masked", torch.float64), "flex", "needs float16, bfloat16 or float32"),
        (Workload(mode="plain", device_type="mps"), "flex", "cuda and cpu, .* on mps"),
        (Workload(mode="masked", device_type="cpu", needs_grad=True), "flex", "no backward on cpu"),
    ],
)
def test_unusable_backend_says_what_is_missing(
    workload: Workload, backend: Backend, obstacle: str
) -> None:
    with pytest.raises(ValueError, match=obstacle) as caught:
        choose(workload, backend=backend)
    assert "\n" not in str(caught.value)


def test_every_usable_backend_can_be_asked_for() -> None:
    backends: tuple[Backend, ...] = ("sdpa", "flex", "flash")
    for backend in backends:
        chosen = choose(on_cuda("plain"), backend=backend)
        assert (chosen.kernel, chosen.reason) == (backend, "the caller asked for it")


PLAIN = [
    # documents of one row, causal, window
    ([3, 3, 3, 3], True, None),
    ([3, 3, 3, 3], False, None),
    ([3, 3, 3, -1], True, None),  # behind its document, causality hides the padding
    ([-1, -1, -1, -1], True, None),
    ([3, 3, 3, 3], False, 4),
    ([3, 3, -1, -1], True, 9),
]
MASKED = [
    ([3, 3, 3, 4], True, None),
    ([3, 3, 3, -1], False, None),
    ([-1, 3, 3, 3], True, None),
    ([3, -1, -1, 3], True, None),
    ([3, 3, 3, 3], True, 3),
]


@pytest.mark.parametrize(
    ("documents", "causal", "window", "is_plain"),
    [(*case, True) for case in PLAIN] + [(*case, False) for case in MASKED],
)
def test_mask_is_built_only_where_needed(
    documents: list[int], causal: bool, window: int | None, is_plain: bool
) -> None:
    mask = document_mask(
        torch.tensor([documents, [5, 5, 5, 5]]), causal=causal, window=window, backend="sdpa"
    )
    assert (mask.mode == "plain") == is_plain
    assert (mask.pattern == Pattern()) == is_plain
    assert (mask.is_padding is not None) == (-1 in documents)


def test_packed_sequences_of_one_length_need_no_mask(log: pytest.LogCaptureFixture) -> None:
    cu_seqlens = torch.tensor([0, 3, 6], dtype=torch.int32)
    varlen_attention(*(random(6, 2, 8) for _ in range(3)), cu_seqlens=cu_seqlens, max_seqlen=3)
    assert log.messages == [
        "attention: sdpa without a mask for plain float32 on cpu, because no mask is needed"
    ]


def test_log_says_which_kernel_and_why_once(log: pytest.LogCaptureFixture) -> None:
    q, k, v = qkv()
    for _ in range(3):
        attention(q, k, v, window=3)
    attention(q.double(), k.double(), v.double(), window=3)
    reason = "because fused kernels (flex) need cuda, the tensors are on cpu"
    assert log.messages == [
        f"attention: sdpa with a boolean mask for masked float32 on cpu, {reason}",
        f"attention: sdpa with a boolean mask for masked float64 on cpu, {reason}",
    ]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_without_graph_breaks(dynamic: bool | None) -> None:
    q, k, v = (x.requires_grad_() for x in qkv())
    documents_BL = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 4, [2] * 13])
    compiled = torch.compile(attention, backend="eager", fullgraph=True, dynamic=dynamic)
    every_way: list[dict[str, Any]] = [
        {},
        {"window": 3},
        {"documents_BL": documents_BL},
        {"documents_BL": document_mask(documents_BL)},
    ]
    for settings in every_way:
        torch.testing.assert_close(compiled(q, k, v, **settings), attention(q, k, v, **settings))
    tokens = (random(9, 4, 8), random(9, 2, 8), random(9, 2, 8))
    settings = {"cu_seqlens": ends(0, 3, 9), "max_seqlen": 6}
    compiled = torch.compile(varlen_attention, backend="eager", fullgraph=True, dynamic=dynamic)
    torch.testing.assert_close(compiled(*tokens, **settings), varlen_attention(*tokens, **settings))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_new_documents_do_not_compile_again(backend: Backend) -> None:
    num_compilations = 0

    def counting(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        nonlocal num_compilations
        num_compilations += 1
        return graph.forward

    compiled = torch.compile(attention, backend=counting, fullgraph=True)
    q, k, v = qkv()
    for border in (3, 8, 12):
        documents_BL = (torch.arange(26).view(2, 13) >= border).long()
        mask = document_mask(documents_BL, backend=backend)
        wanted = attention(q, k, v, documents_BL=documents_BL)
        torch.testing.assert_close(compiled(q, k, v, documents_BL=mask), wanted)
    assert num_compilations == 1


def prepared(**settings: Any) -> DocumentMask:
    return document_mask(torch.zeros(2, 13, dtype=torch.int64), **settings)


def shaped(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_BHLD": shaped(2, 13, 16)}, r"must be \[B, H, L, D\]"),
        ({"v_BHLD": shaped(2, 2, 12, 16)}, "k and v of one shape"),
        ({"q_BHLD": shaped(2, 2, 12, 16)}, "differ in the number of heads only"),
        ({"q_BHLD": shaped(1, 2, 13, 16)}, "differ in the number of heads only"),
        ({"q_BHLD": shaped(2, 2, 13, 8)}, "differ in the number of heads only"),
        ({"q_BHLD": shaped(2, 3, 13, 16)}, "heads of q must be a multiple"),
        ({"q_BHLD": shaped(2, 2, 13, 16, dtype=torch.float64)}, "share dtype and device"),
        ({"window": 0}, "window must be >= 1 .* got 0"),
        ({"window": -3}, "window must be >= 1 .* got -3"),
        ({"scale": 0.0}, "scale must be > 0 .* got 0.0"),
        ({"scale": float("nan")}, "scale must be > 0"),
        ({"backend": "cudnn"}, "backend must be one of .* got 'cudnn'"),
        ({"backend": "flash"}, "flash runs on cuda only, the tensors are on cpu"),
        ({"documents_BL": shaped(2, 13)}, "signed integer ids .* got torch.float32"),
        ({"documents_BL": shaped(2, 13, dtype=torch.bool)}, "signed integer ids"),
        ({"documents_BL": shaped(13, dtype=torch.int64)}, r"shape \[B, L\]"),
        ({"documents_BL": shaped(2, 12, dtype=torch.int64)}, r"documents of shape \[2, 12\]"),
        ({"documents_BL": prepared(causal=False)}, "built with causal=False"),
        ({"documents_BL": prepared(window=3)}, "built with causal=True, window=3"),
        ({"documents_BL": prepared(), "causal": False}, "called with causal=False"),
        ({"documents_BL": prepared(), "backend": "flex"}, "mask built for 'sdpa'"),
    ],
)
def test_attention_refuses(change: dict[str, Any], message: str) -> None:
    names = ("q_BHLD", "k_BHLD", "v_BHLD")
    arguments: dict[str, Any] = {name: shaped(2, 2, 13, 16) for name in names} | change
    with pytest.raises(ValueError, match=message) as caught:
        attention(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens": ends(1, 4, 10)}, "from 0 to the number of tokens 10, got 1 to 10"),
        ({"cu_seqlens": ends(0, 4, 9)}, "from 0 to the number of tokens 10, got 0 to 9"),
        ({"cu_seqlens": ends(0, 4, 11)}, "got 0 to 11"),
        ({"cu_seqlens": ends(0, 6, 4, 10)}, "must not descend, .* after index 1"),
        ({"cu_seqlens": ends(0, 2, 10)}, "longest sequence 8, got 6"),
        ({"cu_seqlens": ends(0, 4, 10, dtype=torch.int64)}, "must be int32 .* got torch.int64"),
        ({"cu_seqlens": ends(0)}, r"shape \[N \+ 1\] with N >= 1"),
        ({"cu_seqlens": ends(0, 4, 10)[None]}, r"got torch.int32 of shape \[1, 3\]"),
        ({"max_seqlen": 0}, "max_seqlen must be the longest .* got 0"),
        ({"max_seqlen": 4}, "2 sequences that fill 10 tokens, got 4"),
        ({"max_seqlen": 11}, "10 tokens, got 11"),
        ({"q_THD": shaped(1, 2, 10, 8)}, r"must be \[T, H, D\]"),
        ({"q_THD": shaped(10, 3, 8)}, "heads of q must be a multiple"),
        ({"window": 0}, "window must be >= 1"),
        ({"scale": -1.0}, "scale must be > 0"),
        ({"backend": "flash"}, "flash runs on cuda only"),
        ({"backend": "none"}, "backend must be one of"),
    ],
)
def test_varlen_attention_refuses(change: dict[str, Any], message: str) -> None:
    names = ("q_THD", "k_THD", "v_THD")
    arguments: dict[str, Any] = {name: shaped(10, 2, 8) for name in names}
    arguments |= {"cu_seqlens": ends(0, 4, 10), "max_seqlen": 6} | change
    with pytest.raises(ValueError, match=message) as caught:
        varlen_attention(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("documents_BL", "settings", "message"),
    [
        (shaped(4, dtype=torch.int64), {}, r"of shape \[4\]"),
        (shaped(1, 4), {}, "signed integer ids"),
        (shaped(1, 4, dtype=torch.int32), {"window": 0}, "window must be >= 1"),
        (shaped(1, 4, dtype=torch.int32), {"backend": "triton"}, "backend must be one of"),
        (shaped(1, 4, dtype=torch.int32), {"backend": "flash"}, "flash runs on cuda only"),
    ],
)
def test_document_mask_refuses(
    documents_BL: Tensor, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        document_mask(documents_BL, **settings)
