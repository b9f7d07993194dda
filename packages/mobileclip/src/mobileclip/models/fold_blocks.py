"""Folding of single blocks, in place (spec 2.3, reparameterisation).

Parallel branches become one convolution (timm's own code for its blocks, ours for the text tower).
Beyond the official code, every batch normalisation that is left goes into the layer beside it:
into the convolution before it, or, in front of attention, into the projections behind it.
"""

import copy
from typing import Any, NamedTuple

import torch
from timm.layers.conv_bn_act import ConvNormAct
from timm.models.fastvit import (
    AttentionBlock,
    MobileOneBlock,
    ReparamLargeKernelConv,
    RepConditionalPosEnc,
    RepMixer,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mobileclip.models.text_repmixer import TextRepMixer

TIMM_BLOCKS = (RepMixer, MobileOneBlock, ReparamLargeKernelConv, RepConditionalPosEnc)
BLOCKS = (*TIMM_BLOCKS, TextRepMixer, ConvNormAct, AttentionBlock)
"""What changes when it is folded."""


class Affine(NamedTuple):
    """`x * scale + shift` for each channel, what batch normalisation does in eval mode."""

    scale: Tensor
    shift: Tensor


@torch.no_grad()
def fold_branches_(model: nn.Module) -> None:
    """Fold parallel branches and skip connections, what the official code folds."""
    for module in list(model.modules()):
        if getattr(module, "reparam_conv", None) is not None:
            continue
        if isinstance(module, TIMM_BLOCKS):
            _fold_timm_block(module)
        elif isinstance(module, TextRepMixer):
            _fold_text_mixer(module)


@torch.no_grad()
def fold_norms_(model: nn.Module) -> None:
    """Fold the batch normalisation that `fold_branches_` leaves."""
    for module in list(model.modules()):
        if isinstance(module, ConvNormAct) and isinstance(module.bn, _BatchNorm):
            _fold_conv_norm(module)
        elif isinstance(module, AttentionBlock) and isinstance(module.norm, _BatchNorm):
            _fold_attention_norm(module)


# torch types the attributes of a module as tensor or module: hence Any below.


def _fold_timm_block(module: Any) -> None:
    # timm makes the new convolution on the default device, with random weights that it overwrites
    device = next(module.parameters()).device
    with torch.device(device), torch.random.fork_rng([device] if device.type == "cuda" else []):
        module.reparameterize()
    module.__dict__.pop("id_tensor", None)  # timm's scratch, of no further use


def _affine(norm: Any) -> Affine:
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return Affine(scale, norm.bias - norm.running_mean * scale)


def _fold_text_mixer(mixer: Any) -> None:
    """Apply `W = I + g (W_mixer - W_norm)`, `b = g (b_mixer - b_norm)`."""
    branch = mixer.mixer.conv_kxk[0]
    conv, skip, norm = map(_affine, (branch.bn, mixer.mixer.identity, mixer.norm.identity))
    weight = branch.conv.weight * conv.scale[:, None, None, None]
    center = mixer.kernel_size // 2
    weight[..., center] += (skip.scale - norm.scale)[:, None, None]
    gain = mixer.layer_scale.gamma[..., None]
    weight = gain * weight
    weight[..., center] += 1
    bias = gain.flatten() * (conv.shift + skip.shift - norm.shift)
    mixer.reparam_conv = _biased(branch.conv, weight, bias)
    del mixer.mixer, mixer.norm, mixer.layer_scale


def _fold_conv_norm(module: Any) -> None:
    scale, shift = _affine(module.bn)
    bias = shift if module.conv.bias is None else shift + scale * module.conv.bias
    weight = module.conv.weight * scale[:, None, None, None]
    module.conv = _biased(module.conv, weight, bias)
    module.bn = module.bn.act


def _fold_attention_norm(block: Any) -> None:
    """Move the normalisation into the projections: tokens are not padded, so this is exact."""
    scale, shift = _affine(block.norm)
    qkv = block.token_mixer.qkv
    qkv.bias = nn.Parameter(F.linear(shift, qkv.weight, qkv.bias))
    qkv.weight = nn.Parameter(qkv.weight * scale)
    block.norm = nn.Identity()


def _biased(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution like `conv` with other weights and a bias."""
    new = copy.deepcopy(conv)
    new.weight = nn.Parameter(weight)
    new.bias = nn.Parameter(bias)
    return new
