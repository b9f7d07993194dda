"""A trained student from a checkpoint, ready to answer."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset_reinforcement.config import ModelConfig
from dataset_reinforcement.model import build_model
from dataset_reinforcement.weights import fit_config, read_classifier
from tenfold import checkpoints
from tenfold.devices import choose_device


@dataclass(frozen=True, eq=False)
class Student:
    """A classifier and the images that it takes.

    Attributes:
        network: From normalised images to logits, in `eval()`.
        config: Name, classes, image size, mean and deviation.
        classes: Names of its classes; none where its checkpoint has none.
        device: Where the network is.
        bf16: Whether it runs under bfloat16 autocast.
    """

    network: nn.Module
    config: ModelConfig
    classes: tuple[str, ...]
    device: torch.device
    bf16: bool = False

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Return float32 `[B, C]` on the CPU for uint8 images `[B, 3, H, W]`."""
        values = images.to(self.device, non_blocking=True).float() / 255
        mean, std = (
            values.new_tensor(channels).view(3, 1, 1)
            for channels in (self.config.mean, self.config.std)
        )
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.network((values - mean) / std).float().cpu()


def load_student(
    checkpoint: Path, *, ema: bool = False, device: str = "auto", bf16: bool = False
) -> Student:
    """Load the model of a checkpoint of `fit`.

    Args:
        checkpoint: Checkpoint or run folder.
        ema: Whether to take the moving average of the weights.
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`.
        bf16: Run it under bfloat16 autocast.

    Raises:
        CheckpointError: There is no checkpoint, or it does not verify.
        ValueError: No such device, no checkpoint of `fit`, or no moving average in it.
    """
    place = choose_device(device)
    path = checkpoints.find(checkpoint)
    config = model_config(path)
    network = build_model(config.name, num_classes=config.classes, image_size=config.image_size)
    saved = read_classifier(path, ema=ema)
    network.load_state_dict(saved.weights)
    return Student(network.to(place).eval(), config, saved.classes, place, bf16)


def model_config(checkpoint: Path) -> ModelConfig:
    """Return the configuration of a checkpoint's model.

    Raises:
        CheckpointError: The checkpoint does not verify.
        ValueError: It is no checkpoint of `fit`.
    """
    config = fit_config(checkpoints.load(checkpoint))
    if config is None:
        raise ValueError(f"{checkpoint} is no checkpoint of `fit`: it does not name its classifier")
    return config
