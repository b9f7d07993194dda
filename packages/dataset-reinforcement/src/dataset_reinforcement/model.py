"""Students and teachers by name: timm's, and two small families for images of 8 to 32 pixels.

Shapes: B images, C classes, H and W pixels. Not here: weights (`weights.py`).
"""

import difflib
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

OURS = re.compile(r"(conv|separable)([1-9]\d*)")
MAX_STAGES = 5
VISION_TRANSFORMER = "timm.models.vision_transformer"


def build_model(name: str, *, num_classes: int, image_size: int) -> nn.Module:
    """Build a classifier of RGB images with random weights.

    Args:
        name: A timm model such as `resnet50`, or `conv<width>` (residual) or `separable<width>`
            (depthwise separable), both with batch norm and of any image size.
        num_classes: Outputs of the head.
        image_size: Side of the images; sets the depth of our models and the position table of
            transformers.

    Returns:
        A module from images `[B, 3, H, W]` to logits `[B, C]` with timm's `get_classifier()`.

    Raises:
        ValueError: There is no such model.
    """
    if found := OURS.fullmatch(name):
        family, width = found.groups()
        blocks = {"conv": ResidualBlock, "separable": SeparableBlock}
        return SmallNet(blocks[family], int(width), num_classes=num_classes, image_size=image_size)
    return _build_timm(name, num_classes=num_classes, image_size=image_size)


class SmallNet(nn.Module):
    """A convolution, one block a stage with the width doubled at half the side, a mean, a head.

    From 32 pixels on the first convolution halves the side; stages follow down to 4 pixels.

    Args:
        block: Makes a stage from its input width, output width and stride.
        width: Channels of the first stage.
        num_classes: Outputs of the head.
        image_size: Side that the depth is made for; other sides work too.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        width: int,
        *,
        num_classes: int,
        image_size: int,
    ) -> None:
        super().__init__()
        stem_stride = 2 if image_size >= 32 else 1
        widths = [width << stage for stage in range(_num_stages(image_size // stem_stride))]
        self.stem = _convolution(3, width, stride=stem_stride)
        inputs = [width, *widths[:-1]]
        self.stages = nn.Sequential(
            *(block(i, o, 1 if i == o else 2) for i, o in zip(inputs, widths, strict=True))
        )
        self.head = nn.Linear(widths[-1], num_classes)
        self.num_classes = num_classes

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits `[B, C]` of normalised images `[B, 3, H, W]`."""
        return self.head(self.stages(self.stem(image_BCHW)).mean(dim=(2, 3)))

    def get_classifier(self) -> nn.Linear:
        """Return the head, as timm's models do."""
        return self.head


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions round a shortcut (ResNet's basic block).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride=stride)
        self.second = _convolution(outputs, outputs, activate=False)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.activation = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `[B, outputs, H / stride, W / stride]`."""
        return self.activation(self.second(self.first(x_BCHW)) + self.shortcut(x_BCHW))


class SeparableBlock(nn.Module):
    """Two depthwise separable 3x3 convolutions (MobileNetV1's) round a shortcut (Xception's).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Of the first depthwise convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(inputs, inputs, stride=stride, groups=inputs),
            _convolution(inputs, outputs, kernel=1),
            _convolution(outputs, outputs, groups=outputs),
            _convolution(outputs, outputs, kernel=1, activate=False),
        )
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.activation = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `[B, outputs, H / stride, W / stride]`."""
        return self.activation(self.body(x_BCHW) + self.shortcut(x_BCHW))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if (inputs, stride) == (outputs, 1):
        return nn.Identity()
    return _convolution(inputs, outputs, kernel=1, stride=stride, activate=False)


def _convolution(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activate: bool = True,
) -> nn.Sequential:
    layers = [
        nn.Conv2d(
            inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if activate else []))


def _num_stages(side: int) -> int:
    stages = 1
    while side >= 8 and stages < MAX_STAGES:
        side //= 2
        stages += 1
    return stages


def unknown_model(name: str) -> str | None:
    """Say why timm has no model of this name and which are nearest; None if there is one."""
    import timm

    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        return f"there is no model {name!r}; nearest: {', '.join(_nearest(model))}"
    tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        close = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:3]
        names = ", ".join(f"{model}.{each}" for each in close) or model
        return f"{model} has no weights {tag!r}; nearest: {names}"
    return None


def _nearest(name: str) -> list[str]:
    """Return names of the same beginning, then alike ones; our two families are always there."""
    import timm

    known, text = timm.list_models(), name.lower()
    alike = [*difflib.get_close_matches(text, known, n=3)]
    alike += sorted((other for other in known if text and other.startswith(text)), key=len)
    ours = ("conv<width> such as conv8", "separable<width> such as separable8")
    return [*list(dict.fromkeys(alike))[:3], *ours]


def _build_timm(name: str, *, num_classes: int, image_size: int) -> nn.Module:
    import timm  # seconds that our own small models need not pay

    if (reason := unknown_model(name)) is not None:
        raise ValueError(reason)
    options: dict[str, Any] = {}
    default = timm.get_pretrained_cfg(name)
    if default is not None and default.fixed_input_size:
        options["img_size"] = image_size
        if timm.model_entrypoint(name).__module__ == VISION_TRANSFORMER:
            options["dynamic_img_size"] = True  # other sizes resample the position table
    return timm.create_model(name, num_classes=num_classes, **options)
