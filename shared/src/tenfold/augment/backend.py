"""The one door to torchvision, and the images that may go through it."""

import platform

import torch
from torch import Tensor

try:
    import torchvision
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional
except ImportError as error:
    raise ImportError(
        "tenfold.augment makes its pixels with torchvision; install it with tenfold[augment]"
    ) from error

__all__ = ["InterpolationMode", "check_image", "describe", "functional"]


def describe() -> dict[str, str]:
    """Return what the pixels of a replay depend on beside its parameters.

    Where all of these are equal, so are replays, between processors of one architecture.
    """
    # Measured on x86: AVX2 and AVX512 give equal pixels. Without either, torchvision resizes in
    # float32, which rounds differently, and so do the grey levels of Color.
    vectors = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    in_uint8 = vectors or platform.machine() in ("aarch64", "arm64")
    return {
        "backend": "torchvision.transforms.v2.functional, uint8 on CPU",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "resize": "uint8" if in_uint8 else "float32",
    }


def check_image(image: Tensor) -> None:
    """Refuse what is not an RGB uint8 image `[3, H, W]` on the CPU.

    Raises:
        ValueError: Another shape, dtype or device.
    """
    shape = tuple(image.shape)
    if image.ndim != 3 or shape[0] != 3:
        remedy = "convert it to RGB when decoding" if shape[:1] in ((1,), (4,)) else "decode to RGB"
        raise ValueError(f"image must have shape [3, H, W], got {list(shape)}: {remedy}")
    if image.dtype != torch.uint8:
        raise ValueError(f"image must be uint8, got {image.dtype}: augment before scaling to 0..1")
    if image.device.type != "cpu":
        raise ValueError(
            f"image must lie on the CPU, got {image.device}: other devices round differently"
        )
    if 0 in shape:
        raise ValueError(f"image must not be empty, got {list(shape)}")
