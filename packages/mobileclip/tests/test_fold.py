"""Folding is exact: each kind of block and whole models, in float64 with random statistics."""

import copy
from functools import partial

import pytest
import torch
from timm.layers import ConvNormAct
from timm.models import fastvit
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mobileclip.models.clip import build_model
from mobileclip.models.fold import check_fold, count_batchnorms, fold, is_folded, randomise_
from mobileclip.models.fold_blocks import BLOCKS
from mobileclip.models.text_repmixer import TextRepMixer, TextRepMixerBlock

TOLERANCE = 1e-12

KINDS = {
    "MobileOne": partial(fastvit.MobileOneBlock, 8, 8, 3, group_size=1),
    "MobileOne with SE, wider": partial(
        fastvit.MobileOneBlock, 8, 16, 3, group_size=1, use_se=True
    ),
    "MobileOne 1x1": partial(fastvit.MobileOneBlock, 8, 8, 1),
    "MobileOne stride 2": partial(fastvit.MobileOneBlock, 8, 8, 3, stride=2),
    "large kernel": partial(fastvit.ReparamLargeKernelConv, 8, 16, 7, 2, 1, 3, use_se=True),
    "RepMixer": partial(fastvit.RepMixer, 8),
    "positions": partial(fastvit.RepConditionalPosEnc, 8),
    "ConvFFN": partial(fastvit.ConvMlp, 8, 24),
    "RepMixer block": partial(fastvit.RepMixerBlock, 8),
    "attention block": partial(fastvit.AttentionBlock, 32),
    "patch embedding": partial(fastvit.PatchEmbed, 7, 2, 8, 16, lkc_use_act=True, use_se=True),
    "stem": partial(fastvit.convolutional_stem, 8, 16),
    "ViT stem": partial(ConvNormAct, 8, 16, 2, stride=2, act_layer=nn.GELU),
    "convolution with bias": partial(ConvNormAct, 8, 16, 3, bias=True, apply_act=False),
    "text RepMixer": partial(TextRepMixer, 8, kernel_size=11),
}


def randomised(module: nn.Module) -> nn.Module:
    randomise_(module, torch.Generator().manual_seed(0))
    return module.double().eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_blocks_fold_exactly(kind):
    torch.manual_seed(0)
    block = randomised(KINDS[kind]())
    channels = 32 if kind == "attention block" else 8
    height = 1 if kind.startswith("text") else 13
    x = torch.randn(2, channels, height, 13, dtype=torch.float64)
    folded = fold(block)
    assert count_batchnorms(folded) == 0
    assert (block(x) - folded(x)).abs().max() < TOLERANCE
    assert (block(x) - x.mean()).abs().max() > 0.01


@torch.no_grad()
def test_text_block_folds_exactly():
    block = randomised(TextRepMixerBlock(8, kernel_size=5))
    x_BLC = torch.randn(2, 9, 8, dtype=torch.float64)
    folded = fold(block)
    assert (block(x_BLC) - folded(x_BLC)).abs().max() < TOLERANCE
    names = [name for name, _ in folded.named_parameters()]
    assert [n for n in names if n.startswith("token_mixer")] == [
        "token_mixer.reparam_conv.weight",
        "token_mixer.reparam_conv.bias",
    ]


# S1, S2 and B are smaller images of themselves here: the same blocks, a sixteenth of the work.
@pytest.mark.parametrize(
    ("name", "size", "text_blocks"),
    [("tiny", 32, 1), ("s0", 256, 2), ("s1", 64, 0), ("s2", 64, 0), ("b", 64, 0)],
)
def test_whole_models_fold_exactly(name, size, text_blocks):
    report = check_fold(build_model(name, image_size=size))
    assert report.max_abs_diff < TOLERANCE
    assert report.batchnorms_left == 0
    kinds = {"ConvNormAct"} if name == "b" else {kind.__name__ for kind in BLOCKS}
    assert report.by_kind().keys() == kinds - (set() if text_blocks else {"TextRepMixer"})
    assert sum(block.kind == "TextRepMixer" for block in report.blocks) == text_blocks


def test_check_sees_a_wrong_fold(monkeypatch):
    import mobileclip.models.fold as folding

    def wrong(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.zero_()
        fold_norms(model)

    fold_norms = folding.fold_norms_
    monkeypatch.setattr(folding, "fold_norms_", wrong)
    report = check_fold(build_model("tiny"))
    assert report.image > 1e-3
    assert report.text > 1e-3
    assert report.by_kind()["AttentionBlock"] > 1e-3
    assert report.by_kind()["TextRepMixer"] < TOLERANCE


def test_check_leaves_the_model_as_it_was():
    model = build_model("tiny").train()
    before = copy.deepcopy(model.state_dict())
    check_fold(model)
    assert model.training
    assert not is_folded(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_folding_twice_is_folding_once():
    model = build_model("tiny").eval()
    randomise_(model, torch.Generator().manual_seed(0))
    once = fold(model)
    twice = fold(once)
    assert is_folded(once)
    assert not is_folded(model)
    assert once.state_dict().keys() == twice.state_dict().keys()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(once.encode_image(images), twice.encode_image(images))
    assert (once.encode_image(images) - model.encode_image(images)).abs().max() < 1e-6


def test_training_models_are_not_folded():
    with pytest.raises(ValueError, match=r"eval mode; call model.eval\(\) first"):
        fold(build_model("tiny").train())


def test_a_folded_model_has_nothing_to_check():
    with pytest.raises(ValueError, match="check_fold needs the unfolded model"):
        check_fold(fold(build_model("tiny").eval()))
