"""ResNets whose last block has as many channels as an embedding (spec 2.3).

The last block's output is reduced to `dim` and its shortcut projected with batch norm; its ReLU is
kept, so embeddings are >= 0. Everything before is torchvision's network, weights' initialisation
included.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from fastfill.backbone import Backbone, InputSpec
from fastfill.config import BackboneConfig

RESNETS = {
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "wide_resnet50_2": resnet.wide_resnet50_2,
    "wide_resnet101_2": resnet.wide_resnet101_2,
}
IMAGENET = InputSpec((3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ReducedResNet(Backbone):
    """A ResNet with a last block of `dim` channels, global average pooling, no normalisation.

    Images of any size from 32 pixels on are taken; the published recipes use 224.

    Args:
        config: `arch` is one of `RESNETS`.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config, inputs=IMAGENET)
        network = RESNETS[config.arch](weights=None)
        _reduce(network.layer4[-1], config.dim)
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4

    def embed(self, image_BCHW: Tensor) -> Tensor:
        """Return embeddings `[B, dim]`, all >= 0."""
        x = self.layer2(self.layer1(self.stem(image_BCHW)))
        return self.layer4(self.layer3(x)).mean(dim=(2, 3))


def _reduce(block: nn.Module, dim: int) -> None:
    """Give a residual block `dim` output channels and, where they change, a projected shortcut."""
    if isinstance(block, Bottleneck):
        inputs = block.conv1.in_channels
        block.conv3, block.bn3 = _conv(block.conv3.in_channels, dim), nn.BatchNorm2d(dim)
    else:
        assert isinstance(block, BasicBlock), type(block)
        # Of a basic block both convolutions are reduced, as in the published code.
        inputs = block.conv1.in_channels
        block.conv1, block.bn1 = _conv(inputs, dim, kernel=3), nn.BatchNorm2d(dim)
        block.conv2, block.bn2 = _conv(dim, dim, kernel=3), nn.BatchNorm2d(dim)
    if inputs != dim:
        block.downsample = nn.Sequential(_conv(inputs, dim), nn.BatchNorm2d(dim))


def _conv(inputs: int, outputs: int, *, kernel: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    with torch.no_grad():
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
