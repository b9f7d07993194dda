"""Feature maps of a timm trunk whose classifier was trained with `fit`.

timm's `features_only` models keep the classifier's tensor names, so any trunk of timm with the
right strides can be taken over, ResNets above all.
"""

import logging
from pathlib import Path
from typing import Any, cast

import timm
from timm.layers.norm_act import freeze_batch_norm_2d
from timm.models import FeatureInfo
from torch import Tensor, nn

from dataset_reinforcement.model import unknown_model
from dataset_reinforcement.student import model_config
from dataset_reinforcement.transfer_config import BackboneConfig
from dataset_reinforcement.weights import read_weights, weights_file
from tenfold import checkpoints

PYRAMID_STRIDES = (4, 8, 16, 32)

logger = logging.getLogger(__name__)


class Features(nn.Module):
    """The last feature maps of a trunk.

    Args:
        config: The trunk; its weights are random until `start` is called.
        count: Number of maps, counted from the last one.
        output_stride: Largest stride; later stages are dilated to keep it.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map.

    Raises:
        ValueError: There is no such model, or its last map has another stride.
    """

    def __init__(self, config: BackboneConfig, *, count: int, output_stride: int = 32) -> None:
        super().__init__()
        if (reason := unknown_model(config.name)) is not None:
            raise ValueError(f"backbone.name must be a timm model such as resnet50: {reason}")
        options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        try:
            self.trunk = timm.create_model(config.name, features_only=True, **options)
        except (TypeError, RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(_unfit(config.name, output_stride)) from error
        self.config = config
        self.count = count
        info = cast(FeatureInfo, self.trunk.feature_info)
        self.channels: list[int] = info.channels()[-count:]
        self.strides: list[int] = info.reduction()[-count:]
        if self.strides[-1] != output_stride:  # some models take the option and ignore it
            raise ValueError(_unfit(config.name, output_stride))

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Return maps `[B, channels, H / stride, W / stride]` of normalised images."""
        return self.trunk(image_BCHW)[-self.count :]

    def start(self) -> None:
        """Load `init_from`, if there is one.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds another model, or it was trained with another normalisation.
        """
        if self.config.init_from is None:
            return
        path = weights_file(self.config.init_from)
        check_same_input(path, self.config)
        saved = read_weights(path, ema=self.config.ema)
        own = self.trunk.state_dict()
        unlike = [n for n, t in own.items() if n not in saved or saved[n].shape != t.shape]
        if unlike:
            raise ValueError(
                f"backbone.init_from {path} does not fit {self.config.name}: {len(unlike)} tensors "
                f"differ, first {unlike[0]}; give the backbone.name that it was trained with"
            )
        self.trunk.load_state_dict({name: saved[name] for name in own})
        logger.info("trunk of %d tensors from %s", len(own), path)

    def freeze_norm(self) -> None:
        """Make batch norm constant; `start` still loads its statistics and gains."""
        self.trunk = freeze_batch_norm_2d(self.trunk)


def check_same_input(path: Path, config: BackboneConfig) -> None:
    """Compare model and normalisation with those of a checkpoint of `fit`; other files say nothing.

    Raises:
        ValueError: They differ.
    """
    if not checkpoints.manifest_path(path).is_file() or path.suffix == ".safetensors":
        return
    trained = model_config(path)
    for name in ("name", "mean", "std"):
        ours, theirs = getattr(config, name), getattr(trained, name)
        if ours != theirs:
            raise ValueError(
                f"backbone.{name} is {ours}, but {path} was trained with {theirs}; set it to that"
            )


def _unfit(name: str, stride: int) -> str:
    return f"backbone.name {name} has no feature maps down to stride {stride}; take a ResNet"
