"""Folding for inference, exact in eval mode (paper section 4.1), and a check that it is.

The check runs in float64 on a copy with random statistics: with fresh weights it would pass by
accident, normalisation being the identity and LayerScale hiding the blocks.
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from timm.models.fastvit import LayerScale2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mobileclip.models.clip import MobileCLIP
from mobileclip.models.fold_blocks import BLOCKS, fold_branches_, fold_norms_

PAIRS = 2
"""Images and texts that the check embeds."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fold(model: ModuleT) -> ModuleT:
    """Return a copy of `model` without branches and batch normalisation, equal in eval mode.

    A folded model is returned as a copy of itself.

    Raises:
        ValueError: `model` is in training mode, where batch normalisation is not affine.
    """
    if model.training:
        raise ValueError("fold needs a model in eval mode; call model.eval() first")
    folded = copy.deepcopy(model)
    fold_branches_(folded)
    fold_norms_(folded)
    return folded


def is_folded(model: nn.Module) -> bool:
    """Return whether no batch normalisation is left."""
    return count_batchnorms(model) == 0


def count_batchnorms(model: nn.Module) -> int:
    """Return the number of batch normalisation layers."""
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def num_parameters(model: nn.Module) -> int:
    """Return the number of parameters; statistics of batch normalisation are none."""
    return sum(parameter.numel() for parameter in model.parameters())


class BlockDifference(NamedTuple):
    """How far a block's output moves when it is folded."""

    name: str
    kind: str
    max_abs_diff: float


@dataclass(frozen=True, kw_only=True)
class FoldReport:
    """What folding changes in float64.

    Args:
        blocks: Largest difference of each block's output, the same input given to both.
        image: Largest difference of image embeddings, of unit norm.
        text: Largest difference of text embeddings, of unit norm.
        batchnorms_left: Batch normalisation layers in the folded model.
    """

    blocks: tuple[BlockDifference, ...]
    image: float
    text: float
    batchnorms_left: int

    @property
    def max_abs_diff(self) -> float:
        """Return the largest difference of all."""
        return max(self.image, self.text, *(block.max_abs_diff for block in self.blocks))

    def by_kind(self) -> dict[str, float]:
        """Return the largest difference of each kind of block."""
        largest: dict[str, float] = {}
        for block in self.blocks:
            largest[block.kind] = max(largest.get(block.kind, 0.0), block.max_abs_diff)
        return largest


@torch.no_grad()
def check_fold(model: MobileCLIP, *, seed: int = 0) -> FoldReport:
    """Fold a copy of `model` with random statistics and compare the two, block by block.

    Args:
        model: Unfolded, in either mode; it is not changed.
        seed: Draws statistics and inputs.

    Raises:
        ValueError: `model` is folded, so that there is nothing to compare.
    """
    if is_folded(model):
        raise ValueError("check_fold needs the unfolded model, this one has no batch normalisation")
    generator = torch.Generator().manual_seed(seed)
    plain = copy.deepcopy(model).cpu().double().eval()
    randomise_(plain, generator)
    folded = fold(plain)
    blocks: list[BlockDifference] = []
    _compare_blocks(plain, folded, blocks)
    size, length = model.image_size, model.context_length
    images = torch.rand(PAIRS, 3, size, size, generator=generator, dtype=torch.float64)
    tokens = torch.randint(1, 49406, (PAIRS, length), generator=generator)
    image = _largest(plain.encode_image(images), folded.encode_image(images))
    text = _largest(plain.encode_text(tokens), folded.encode_text(tokens))
    return FoldReport(
        blocks=tuple(blocks),
        image=image,
        text=text,
        batchnorms_left=count_batchnorms(folded),
    )


@torch.no_grad()
def randomise_(model: nn.Module, generator: torch.Generator) -> None:
    """Draw batch normalisation and LayerScale as they might be after training."""

    def uniform(like: Tensor, low: float, high: float) -> None:
        like.copy_(torch.rand(like.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for name in ("weight", "running_var"):
                uniform(getattr(module, name), 0.5, 1.5)
            for name in ("bias", "running_mean"):
                uniform(getattr(module, name), -0.5, 0.5)
        elif isinstance(module, LayerScale2d):
            uniform(module.gamma, 0.1, 0.5)


def _compare_blocks(plain: nn.Module, folded: nn.Module, found: list[BlockDifference]) -> None:
    kept = dict(folded.named_modules())
    for name, module in plain.named_modules():
        if isinstance(module, BLOCKS) and name in kept:
            module.register_forward_hook(partial(_record, kept[name], name, found))


def _record(
    folded: nn.Module,
    name: str,
    found: list[BlockDifference],
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
) -> None:
    difference = _largest(output, folded(*inputs))
    found.append(BlockDifference(name, type(module).__name__, difference))


def _largest(left: Tensor, right: Tensor) -> float:
    return (left - right).abs().max().item()
