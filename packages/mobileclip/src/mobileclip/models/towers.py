"""Towers of the published models and of `tiny` (paper table 1; spec 2.3).

Image towers are timm's, with the official bias-free projection; the Base text tower is open_clip's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from open_clip.transformer import TextTransformer
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from torch import nn

from mobileclip.models.checkpointing import CheckpointedSequential
from mobileclip.models.mct import MCt, TextConfig

TINY_SIZE = 32
TINY_TEXT = TextConfig(
    blocks=("repmixer", "attention"), width=64, heads=2, context_length=16, embed_dim=64
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a model is put together.

    Args:
        image: Builds the image tower for images of a given side.
        text: Builds the text tower.
        image_size: Side of the images that the model was made for.
        stride: Pixels of a cell of the last feature map; sides must be multiples of it.
        embed_dim: Numbers of an embedding.
        context_length: Tokens of a text.
    """

    image: Callable[[int], nn.Module]
    text: Callable[[], nn.Module]
    image_size: int = 256
    stride: int = 32
    embed_dim: int = 512
    context_length: int = 77


def _mci(name: str, image_size: int) -> nn.Module:
    del image_size  # convolutions and attention without positions: any multiple of the stride fits
    return _with_projection(timm.create_model(name, num_classes=512), embed_dim=512)


def _vit(image_size: int) -> nn.Module:
    # timm's own epsilon is 1e-6, the official weights were trained with 1e-5
    norm_layer = partial(nn.LayerNorm, eps=1e-5)
    tower: Any = timm.create_model(
        "vit_base_mci_224", num_classes=512, img_size=image_size, norm_layer=norm_layer
    )
    tower.head = _projection(tower.head.in_features, embed_dim=512)
    return tower


def _tiny_image(image_size: int) -> nn.Module:
    positions: Any = partial(RepConditionalPosEnc, spatial_shape=(7, 7))
    tower = FastVit(
        layers=(1, 1),
        embed_dims=(16, 64),
        mlp_ratios=(2, 2),
        token_mixers=("repmixer", "attention"),
        downsamples=(False, True),
        se_downsamples=(False, True),
        pos_embs=(None, positions),
        lkc_use_act=True,
        num_classes=64,
    )
    _with_projection(tower, embed_dim=64)
    # Weights in this layout make the whole tower run in it, a third faster on a CPU; torch 2.15
    # crashes in its backward pass on larger images with several threads.
    return tower.to(memory_format=torch.channels_last) if image_size == TINY_SIZE else tower


def _base_text(*, causal: bool) -> nn.Module:
    return TextTransformer(no_causal_mask=not causal)


def _with_projection(tower: Any, *, embed_dim: int) -> nn.Module:
    tower.head.fc = _projection(tower.num_features, embed_dim=embed_dim)
    for stage in tower.stages:
        stage.blocks = CheckpointedSequential(*stage.blocks)
    return tower


def _projection(features: int, *, embed_dim: int) -> nn.Linear:
    projection = nn.Linear(features, embed_dim, bias=False)
    nn.init.normal_(projection.weight, std=features**-0.5)
    return projection


VARIANTS: dict[str, Variant] = {
    "s0": Variant(image=partial(_mci, "fastvit_mci0"), text=partial(MCt, TextConfig())),
    "s1": Variant(image=partial(_mci, "fastvit_mci1"), text=partial(_base_text, causal=False)),
    "s2": Variant(image=partial(_mci, "fastvit_mci2"), text=partial(_base_text, causal=False)),
    "b": Variant(image=_vit, text=partial(_base_text, causal=True), image_size=224, stride=16),
    "tiny": Variant(
        image=_tiny_image,
        text=partial(MCt, TINY_TEXT),
        image_size=TINY_SIZE,
        stride=8,
        embed_dim=TINY_TEXT.embed_dim,
        context_length=TINY_TEXT.context_length,
    ),
}
"""Models by name, as in `mobileclip.config.MODELS`."""
