"""Devices by name: one that was asked for, and those that the workers of a pool share."""

import os
import re
from collections.abc import Sequence
from multiprocessing import current_process

import torch


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the GPU where there is one.

    Raises:
        ValueError: torch does not know it, or it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device {name} is not there: torch sees {count} GPUs; choose cpu or auto")
    return device


def check_devices(devices: Sequence[str], *, workers: int) -> None:
    """Refuse devices that are not here, or more of them than there are workers.

    Raises:
        ValueError: Names the device.
    """
    if not devices:
        raise ValueError("devices is empty, expected names such as cpu or cuda:0")
    if len(devices) > workers:
        raise ValueError(f"{len(devices)} devices need as many workers, got workers {workers}")
    count = torch.cuda.device_count()
    for name in devices:
        found = re.fullmatch(r"cuda(?::(\d+))?", name)
        if name != "cpu" and (found is None or int(found[1] or 0) >= count):
            raise ValueError(
                f"devices has {name!r}, which is not here: expected cpu or cuda:<n>, and torch "
                f"sees {count} GPUs"
            )


def worker_device(devices: Sequence[str]) -> str:
    """Return the device of this process: the workers of `tenfold.jobs` share them evenly."""
    if len(devices) == 1:
        return devices[0]
    # A pool numbers its processes one after the other; on Ray they have no number.
    number = re.search(r"\d+$", current_process().name)
    return devices[(int(number[0]) if number else os.getpid()) % len(devices)]
