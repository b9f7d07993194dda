"""What each token may see: documents, causality and a window, in the form that a kernel wants.

Token i sees token j when both belong to the same document and, with w = `window`,

- causal: j in (i - w, i], that is itself and the w - 1 tokens before it (no window: all before it);
- full: |i - j| < w (no window: all).

A negative document id is padding: nobody outside the padding sees it, its output is zero and it
gives no gradient. Padding tokens do see each other inside the kernels, so that no softmax runs over
nothing and no NaN has to be cleaned up; only their output is set to zero.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tenfold.attention.checks import check_documents, check_window
from tenfold.attention.choice import Backend, Choice, Kernel, Mode, choose, workload_on

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Pattern(NamedTuple):
    """Who sees whom in the form of one kernel; all None where causality alone says it.

    `visible` (sdpa) is boolean `[B or 1, 1, L, L]`; `cu_seqlens` and `max_seqlen` (flash) describe
    the B * L tokens of the batch as packed sequences.
    """

    visible: Tensor | None = None
    block_mask: "BlockMask | None" = None
    cu_seqlens: Tensor | None = None
    max_seqlen: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentMask:
    """A batch's document ids, checked and translated once for all layers (see `document_mask`).

    `causal` and `window` stand as given; `mode` is "plain" where the documents ask for no mask;
    `is_padding` is boolean `[B, L]`, None where there is no padding.
    """

    causal: bool
    window: int | None
    batch_shape: tuple[int, int]
    device: torch.device
    mode: Mode
    choice: Choice
    pattern: Pattern
    is_padding: Tensor | None


def document_mask(
    documents_BL: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    backend: Backend = "auto",
) -> DocumentMask:
    """Translate document ids into a mask object; call it once per batch, outside torch.compile.

    Reading the values waits for the device. No mask is built where every row is one document
    (with `causal`, padding at its end included) and `window` does not bind.

    Args:
        documents_BL: Integer ids `[B, L]`; equal ids in a row are one document, negative is
            padding. For "flash" the tokens of a document must stand together.
        causal: Whether tokens see only what stands before them.
        window: Number of tokens seen, counted as in this module's docstring, or None.
        backend: As for `attention`; "auto" is flex on cuda and sdpa elsewhere.

    Raises:
        ValueError: Wrong shape or dtype, `window` below 1, unusable `backend`, or scattered
            documents for "flash".
    """
    check_documents(documents_BL)
    check_window(window)
    needed = needed_documents(documents_BL, causal=causal)
    mode = mode_of(needed.documents, window=window, length=documents_BL.shape[1])
    choice = choose(workload_on(documents_BL.device, mode), backend=backend)
    batch_shape = (documents_BL.shape[0], documents_BL.shape[1])
    return DocumentMask(
        causal=causal,
        window=window,
        batch_shape=batch_shape,
        device=documents_BL.device,
        mode=mode,
        choice=choice,
        pattern=build_pattern(
            choice.kernel,
            needed.documents,
            batch_shape=batch_shape,
            causal=causal,
            window=window,
            device=documents_BL.device,
        ),
        is_padding=needed.is_padding,
    )


class NeededDocuments(NamedTuple):
    """Document ids and padding `[B, L]`, each None where attention does not need it."""

    documents: Tensor | None
    is_padding: Tensor | None


def needed_documents(documents_BL: Tensor, *, causal: bool) -> NeededDocuments:
    """Drop the ids where each row is one document, and the padding where there is none.

    Under torch.compile values cannot be read and both are kept.
    """
    is_padding_BL = documents_BL < 0
    if torch.compiler.is_compiling():
        return NeededDocuments(documents_BL, is_padding_BL)
    has_padding = bool(is_padding_BL.any())
    one_document = bool(((documents_BL == documents_BL[:, :1]) | is_padding_BL).all())
    if has_padding:
        # Behind its document padding is invisible by causality alone.
        at_the_end = bool((is_padding_BL[:, :-1] <= is_padding_BL[:, 1:]).all())
        one_document = one_document and causal and at_the_end
    return NeededDocuments(
        None if one_document else documents_BL, is_padding_BL if has_padding else None
    )


def mode_of(documents_BL: Tensor | None, *, window: int | None, length: int) -> Mode:
    """Say whether a mask is needed: a window as long as the sequence hides nothing."""
    binds = window is not None and window < length
    return "masked" if binds or documents_BL is not None else "plain"


def build_pattern(
    kernel: Kernel,
    documents_BL: Tensor | None,
    *,
    batch_shape: tuple[int, int],
    causal: bool,
    window: int | None,
    device: torch.device,
) -> Pattern:
    """Build the pattern of one kernel; patterns without documents are kept for the next call.

    Raises:
        ValueError: `kernel` is "flash" and a document's tokens do not stand together.
    """
    batch_size, length = batch_shape
    if kernel == "sdpa" and mode_of(documents_BL, window=window, length=length) == "plain":
        return Pattern()
    if documents_BL is None:
        key_shape = batch_shape if kernel == "flash" else (1, length)
        build = _windowed if torch.compiler.is_compiling() else _windowed_cached
        return build(kernel, key_shape, causal, window, device)
    if kernel == "flash":
        return _pack(documents_BL)
    sees = _sees(documents_BL, length=length, causal=causal, window=window)
    if kernel == "flex":
        return Pattern(block_mask=_block_mask(sees, batch_size, length, device))
    return Pattern(visible=_boolean_mask(sees, batch_size, length, device))


def _windowed(
    kernel: Kernel,
    batch_shape: tuple[int, int],
    causal: bool,
    window: int | None,
    device: torch.device,
) -> Pattern:
    batch_size, length = batch_shape
    if kernel == "flash":
        ends = torch.arange(batch_size + 1, dtype=torch.int32, device=device) * length
        return Pattern(cu_seqlens=ends, max_seqlen=length)
    sees = _sees(None, length=length, causal=causal, window=window)
    if kernel == "flex":
        return Pattern(block_mask=_block_mask(sees, batch_size, length, device))
    return Pattern(visible=_boolean_mask(sees, batch_size, length, device))


# A tensor born in inference mode (a validation step) could not serve a later backward.
_windowed_cached = functools.lru_cache(maxsize=32)(torch.inference_mode(False)(_windowed))


_Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _sees(documents_BL: Tensor | None, *, length: int, causal: bool, window: int | None) -> _Sees:
    back = length if window is None else window
    ahead = 1 if causal else back

    # One body for all cases: flex compiles again for each other body.
    def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        near = (i - j < back) & (j - i < ahead)
        if documents_BL is None:
            return near
        return near & (documents_BL[b, i] == documents_BL[b, j])

    return sees


def _boolean_mask(sees: _Sees, batch_size: int, length: int, device: torch.device) -> Tensor:
    row = torch.arange(batch_size, device=device)[:, None, None]
    token = torch.arange(length, device=device)
    return sees(row, row, token[:, None], token[None, :]).view(batch_size, 1, length, length)


def _block_mask(sees: _Sees, batch_size: int, length: int, device: torch.device) -> "BlockMask":
    # Costs as much as importing torch itself, and few callers need it.
    from torch.nn.attention.flex_attention import create_block_mask

    # Uncompiled it holds several [B, L, L] tensors at a time.
    fused = device.type == "cuda" and not torch.compiler.is_compiling()
    create = _compiled(create_block_mask) if fused else create_block_mask
    return create(sees, batch_size, None, length, length, device=device)


@functools.cache
def _compiled(function: "Callable[..., BlockMask]") -> "Callable[..., BlockMask]":
    return torch.compile(function)


def _pack(documents_BL: Tensor) -> Pattern:
    starts_BL = torch.ones_like(documents_BL, dtype=torch.bool)
    starts_BL[:, 1:] = documents_BL[:, 1:] != documents_BL[:, :-1]
    _check_together(documents_BL, starts_BL)
    starts = starts_BL.flatten().nonzero().flatten()
    cu_seqlens = torch.cat([starts, starts.new_tensor([documents_BL.numel()])])
    longest = int(cu_seqlens.diff().max())
    return Pattern(cu_seqlens=cu_seqlens.to(torch.int32), max_seqlen=longest)


def _check_together(documents_BL: Tensor, starts_BL: Tensor) -> None:
    ids_BL = documents_BL.sort(dim=1).values
    is_new_BL = torch.ones_like(starts_BL)
    is_new_BL[:, 1:] = ids_BL[:, 1:] != ids_BL[:, :-1]
    num_runs_B = (starts_BL & (documents_BL >= 0)).sum(1)
    scattered_B = num_runs_B > (is_new_BL & (ids_BL >= 0)).sum(1)
    if bool(scattered_B.any()):
        row = int(scattered_B.nonzero()[0])
        raise ValueError(
            f"backend='flash' needs each document's tokens to stand together, row {row} has a "
            "scattered one; use 'flex' or 'sdpa', or sort the tokens by document"
        )
