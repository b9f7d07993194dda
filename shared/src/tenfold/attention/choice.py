"""Which attention kernel runs, and why: decided from metadata alone, logged once.

- "sdpa": `torch.nn.functional.scaled_dot_product_attention`, with a boolean mask where one is
  needed. Runs everywhere.
- "flex": `torch.nn.attention.flex_attention` with a block mask. Compiled on cuda; on the cpu torch
  2.15 has a forward but no backward, so there it is chosen only on request.
- "flash": `torch.nn.attention.varlen.varlen_attn`, torch's own variable-length FlashAttention. The
  `flash-attn` package is not used.
"""

import functools
import logging
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

Kernel: TypeAlias = Literal["sdpa", "flex", "flash"]
Backend: TypeAlias = Literal["auto", "sdpa", "flex", "flash"]
Mode: TypeAlias = Literal["plain", "masked", "packed"]

_PREFERENCE: dict[Mode, tuple[Kernel, ...]] = {
    "plain": ("sdpa",),
    "masked": ("flex", "sdpa"),
    "packed": ("flash", "flex", "sdpa"),
}
_MERIT: dict[tuple[Kernel, Mode], str] = {
    ("sdpa", "plain"): "no mask is needed",
    ("flex", "masked"): "it skips the blocks that are masked out as a whole",
    ("flash", "packed"): "it reads packed tokens without any mask",
}
_FORM: dict[tuple[Kernel, bool], str] = {
    ("sdpa", True): "sdpa without a mask",
    ("sdpa", False): "sdpa with a boolean mask",
}
_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_FLEX_CUDA_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_FLASH_CAPABILITY = (8, 0)
_FLASH_MAX_HEAD_DIM = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a kernel is asked to do; a field left at None is not known yet and rules nothing out.

    `mode` is "plain" (causal or full, no mask), "masked" (documents or a window) or "packed"
    (variable-length sequences). `capability` is the compute capability of a cuda device.
    """

    mode: Mode
    device_type: str
    dtype: torch.dtype | None = None
    head_dim: int | None = None
    needs_grad: bool = False
    capability: tuple[int, int] | None = None
    flash_is_built: bool = True


@dataclass(frozen=True)
class Choice:
    """The kernel that runs and the reason, ready to stand after "because"."""

    kernel: Kernel
    reason: str


def choose(workload: Workload, *, backend: Backend = "auto") -> Choice:
    """Choose the kernel for `workload`; no state, no device access.

    "auto" takes the first usable kernel of its preference (plain: sdpa; masked: flex, sdpa;
    packed: flash, flex, sdpa) on cuda, and sdpa on any other device.

    Raises:
        ValueError: `backend` is unknown, or is a kernel that cannot do this; the message names what
            is missing.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    if backend == "auto":
        return _choose_freely(workload)
    obstacle = _obstacle(backend, workload)
    if obstacle is not None:
        raise ValueError(f"backend={backend!r} cannot be used: {obstacle}; 'sdpa' always can")
    return Choice(backend, "the caller asked for it")


def _choose_freely(workload: Workload) -> Choice:
    preference = _PREFERENCE[workload.mode]
    if workload.device_type != "cuda" and workload.mode != "plain":
        fused, device_type = ", ".join(preference[:-1]), workload.device_type
        return Choice(
            "sdpa", f"fused kernels ({fused}) need cuda, the tensors are on {device_type}"
        )
    obstacles: list[str] = []
    for kernel in preference:
        obstacle = _obstacle(kernel, workload)
        if obstacle is None:
            return Choice(kernel, "; ".join(obstacles) or _MERIT[kernel, workload.mode])
        obstacles.append(obstacle)
    raise AssertionError("sdpa has no obstacle and ends every preference")


def _obstacle(kernel: Kernel, workload: Workload) -> str | None:
    if kernel == "flash":
        return _flash_obstacle(workload)
    if kernel == "flex":
        return _flex_obstacle(workload)
    return None


def _flex_obstacle(workload: Workload) -> str | None:
    if workload.device_type not in ("cuda", "cpu"):
        return f"flex runs on cuda and cpu, the tensors are on {workload.device_type}"
    if workload.device_type == "cpu" and workload.needs_grad:
        return "flex has no backward on cpu and the tensors require gradients"
    cuda_dtype = workload.dtype if workload.device_type == "cuda" else None
    if cuda_dtype is not None and cuda_dtype not in _FLEX_CUDA_DTYPES:
        return f"flex needs float16, bfloat16 or float32 on cuda, got {_name(cuda_dtype)}"
    return None


def _flash_obstacle(workload: Workload) -> str | None:
    if workload.device_type != "cuda":
        return f"flash runs on cuda only, the tensors are on {workload.device_type}"
    if not workload.flash_is_built:
        return "this build of torch has no flash kernels"
    if workload.capability is not None and workload.capability < _FLASH_CAPABILITY:
        major, minor = workload.capability
        return f"flash needs compute capability 8.0, this GPU has {major}.{minor}"
    if workload.dtype is not None and workload.dtype not in _FLASH_DTYPES:
        return f"flash needs float16 or bfloat16, got {_name(workload.dtype)}"
    head_dim = workload.head_dim
    if head_dim is not None and (head_dim % 8 or head_dim > _FLASH_MAX_HEAD_DIM):
        return f"flash needs a head dim that is a multiple of 8 up to 256, got {head_dim}"
    return None


# torch.compile calls this while it traces and keeps the answer: the arguments are plain metadata,
# and a log call inside the graph would break it. Constants pass by position.
@torch.compiler.assume_constant_result
def kernel_for(
    mode: Mode,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    needs_grad: bool,
    backend: Backend,
    reason: str | None = None,
) -> Kernel:
    """Choose for tensors of this kind, log the choice once per kind, return the kernel.

    `reason` replaces the choice's own one: it tells why a mask was built for `backend` earlier.

    Raises:
        ValueError: As `choose`.
    """
    workload = workload_on(device, mode, dtype=dtype, head_dim=head_dim, needs_grad=needs_grad)
    choice = choose(workload, backend=backend)
    form = _FORM.get((choice.kernel, mode == "plain"), choice.kernel)
    kind = f"{mode} {_name(dtype)} on {device.type}"
    _log_once(f"attention: {form} for {kind}, because {reason or choice.reason}")
    return choice.kernel


def workload_on(
    device: torch.device,
    mode: Mode,
    *,
    dtype: torch.dtype | None = None,
    head_dim: int | None = None,
    needs_grad: bool = False,
) -> Workload:
    """Describe a workload, adding what the device itself says."""
    on_cuda = device.type == "cuda"
    return Workload(
        mode=mode,
        device_type=device.type,
        dtype=dtype,
        head_dim=head_dim,
        needs_grad=needs_grad,
        capability=torch.cuda.get_device_capability(device) if on_cuda else None,
        flash_is_built=on_cuda and torch.backends.cuda.is_flash_attention_available(),
    )


@functools.cache
def _log_once(message: str) -> None:
    logger.info(message)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
