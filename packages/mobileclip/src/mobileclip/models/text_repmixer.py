"""Text-RepMixer: a convolutional token mixer over the token axis (paper section 4.2; spec 2.3).

Sequences run as images of height 1. Submodules are named as timm names those of its FastViT, so
that one set of rules maps the official names of both towers.

Shapes: B batch, L tokens, C channels.
"""

from typing import Any

from timm.layers.conv_bn_act import ConvNormAct
from timm.models.fastvit import LayerScale2d
from torch import Tensor, nn

LAYER_SCALE = 1e-5
MLP_RATIO = 4


class TextMobileOne(nn.Module):
    """Sum of a depthwise convolution over tokens and an identity, each batch-normalised.

    The official code has no 1x1 branch here: it looks at the height of the kernel, which is 1.

    Args:
        channels: C.
        kernel_size: Tokens that the convolution sees, 0 for the identity alone.
    """

    def __init__(self, channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(channels)
        branches = [_depthwise(channels, kernel_size)] if kernel_size else []
        self.conv_kxk = nn.ModuleList(branches)

    def forward(self, x_BC1L: Tensor) -> Tensor:
        """Return the sum of the branches."""
        out_BC1L = self.identity(x_BC1L)
        for branch in self.conv_kxk:
            out_BC1L = out_BC1L + branch(x_BC1L)
        return out_BC1L


class TextRepMixer(nn.Module):
    """`x + g * (mixer(x) - norm(x))`; one depthwise convolution once folded.

    Args:
        channels: C.
        kernel_size: Tokens that the convolution sees, odd.
    """

    def __init__(self, channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.norm = TextMobileOne(channels, kernel_size=0)
        self.mixer = TextMobileOne(channels, kernel_size=kernel_size)
        self.layer_scale = LayerScale2d(channels, LAYER_SCALE)
        self.reparam_conv: nn.Conv2d | None = None

    def forward(self, x_BC1L: Tensor) -> Tensor:
        """Mix the tokens of each channel."""
        if self.reparam_conv is not None:
            return self.reparam_conv(x_BC1L)
        return x_BC1L + self.layer_scale(self.mixer(x_BC1L) - self.norm(x_BC1L))


class TextConvMlp(nn.Module):
    """A depthwise convolution over tokens, then two pointwise layers with GELU between.

    Args:
        channels: C.
        kernel_size: Tokens that the convolution sees, odd.
    """

    def __init__(self, channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.conv = _depthwise(channels, kernel_size)
        self.fc1 = nn.Conv2d(channels, MLP_RATIO * channels, kernel_size=1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(MLP_RATIO * channels, channels, kernel_size=1)
        for name, parameter in self.named_parameters():
            if name in ("fc1.bias", "fc2.bias"):
                nn.init.zeros_(parameter)
            elif not name.startswith("conv.bn."):
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x_BC1L: Tensor) -> Tensor:
        """Apply the layers."""
        return self.fc2(self.act(self.fc1(self.conv(x_BC1L))))


class TextRepMixerBlock(nn.Module):
    """Token mixer and convolutional feed-forward network, for sequences.

    Args:
        channels: C.
        kernel_size: Tokens that the convolutions see, odd.
    """

    def __init__(self, channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.token_mixer = TextRepMixer(channels, kernel_size=kernel_size)
        self.mlp = TextConvMlp(channels, kernel_size=kernel_size)
        self.layer_scale = LayerScale2d(channels, LAYER_SCALE)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Apply the block to `x_BLC`."""
        x_BC1L = x_BLC.transpose(1, 2).unsqueeze(2)
        x_BC1L = self.token_mixer(x_BC1L)
        x_BC1L = x_BC1L + self.layer_scale(self.mlp(x_BC1L))
        return x_BC1L.squeeze(2).transpose(1, 2)


def _depthwise(channels: int, kernel_size: int) -> ConvNormAct:
    size: Any = (1, kernel_size)  # timm takes pairs too, its annotation does not say so
    return ConvNormAct(channels, channels, kernel_size=size, groups=channels, apply_act=False)
