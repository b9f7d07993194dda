"""What the trainings of the baselines ask of a batch, and draws that every validation shares."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from biofame.baselines.config import PatchTstConfig
from biofame.data import WindowBatch


def check_channels(batch: WindowBatch, channels: tuple[str, ...]) -> None:
    """Check that windows have a model's channels, in its order.

    Raises:
        ValueError: They have not.
    """
    if tuple(batch["channels"]) != channels:
        raise ValueError(
            f"the data's channels are {', '.join(batch['channels'])}, the model's "
            f"{', '.join(channels)}: set model.channels, or choose with data.channels"
        )


def check_windows(batch: WindowBatch, model: PatchTstConfig) -> None:
    """Check that PatchTST can take windows: its channels, all there, and its length.

    Raises:
        ValueError: It cannot.
    """
    check_channels(batch, model.channels)
    length = batch["samples"].shape[-1]
    if length != model.length:
        raise ValueError(
            f"windows have {length} samples, PatchTST takes {model.length}: set model.length"
        )
    if "present" in batch:
        raise ValueError(
            "PatchTST cannot leave out a channel that some windows lack: choose channels that all "
            "have with data.channels"
        )


@contextmanager
def fixed_draws(number: int, device: torch.device) -> Iterator[None]:
    """Draw from torch's generators as determined by `number`; afterwards all is as it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(number)
        yield
