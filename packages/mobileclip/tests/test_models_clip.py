"""Whole models: published sizes, embeddings, temperature, checkpointing."""

import math
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobileclip.config import MODELS
from mobileclip.models.checkpointing import frozen_statistics
from mobileclip.models.clip import MobileCLIP, build_model
from mobileclip.models.fold import fold, num_parameters, randomise_
from mobileclip.models.fold_blocks import fold_branches_
from mobileclip.models.towers import VARIANTS

# Paper table 1 and spec 2.3: parameters of image and text tower, as trained and as the official
# code folds them, and multiply-adds of the image tower at 256 pixels in units of 1e9.
PUBLISHED = {
    "s0": ((11_406_464, 42_441_216), (11_356_992, 42_435_072), 2.4),
    "s1": ((21_541_120, 63_428_096), (21_460_544, 63_428_096), 4.7),
    "s2": ((35_814_720, 63_428_096), (35_702_480, 63_428_096), 7.8),
    "b": ((86_348_544, 63_428_096), (86_348_544, 63_428_096), None),
}


@pytest.fixture
def tiny() -> MobileCLIP:
    torch.manual_seed(0)
    model = build_model("tiny")
    randomise_(model, torch.Generator().manual_seed(0))
    return model


def inputs(model: MobileCLIP, pairs: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(pairs, 3, model.image_size, model.image_size, generator=generator)
    tokens = torch.randint(1, 49407, (pairs, model.context_length), generator=generator)
    return images, tokens


def on_meta(name: str) -> MobileCLIP:
    with torch.device("meta"):
        return build_model(name).eval()


@cache
def folded_on_meta(name: str) -> MobileCLIP:
    return fold(on_meta(name))


def towers(model: MobileCLIP) -> tuple[int, int]:
    return num_parameters(model.image_tower), num_parameters(model.text_tower)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    trained, inference, _ = PUBLISHED[name]
    model = on_meta(name)
    assert towers(model) == trained
    assert num_parameters(model) == sum(trained) + 1
    fold_branches_(model)
    assert towers(model) == inference


@pytest.mark.parametrize(
    ("name", "beyond"),
    # a convolution's normalisation (2 a channel) becomes its bias (1); in front of attention it
    # becomes the bias of three projections (3): stages of 64, 128, 256 and 512 channels, 80 on
    [
        ("s0", (-(2 * 64 + 6 * 128 + 10 * 256 + 2 * 512) + 2 * 512, -2 * 512)),
        ("s1", (-(4 * 64 + 12 * 128 + 20 * 256 + 4 * 512) + 4 * 512, 0)),
        ("s2", (-(4 * 80 + 12 * 160 + 24 * 320 + 4 * 640) + 4 * 640, 0)),
        ("b", (-2 * 192, 0)),
    ],
)
def test_folding_the_remaining_normalisation_saves_what_it_must(name, beyond):
    image, text = PUBLISHED[name][1]
    assert towers(folded_on_meta(name)) == (image + beyond[0], text + beyond[1])


@pytest.mark.parametrize("name", ["s0", "s1", "s2"])
def test_multiply_adds_are_the_published_ones(name):
    tower = folded_on_meta(name).image_tower
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(torch.empty(1, 3, 256, 256, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(PUBLISHED[name][2], rel=0.03)


def test_models_are_those_of_the_configuration():
    assert tuple(VARIANTS) == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_size_and_context_of_models(name):
    model = on_meta(name)
    assert model.image_size == {"b": 224, "tiny": 32}.get(name, 256)
    assert model.context_length == (16 if name == "tiny" else 77)
    assert model.embed_dim == (64 if name == "tiny" else 512)
    assert model.text_tower.positional_embedding.shape[0] == model.context_length


def test_embeddings_have_unit_norm(tiny):
    image, text = tiny(*inputs(tiny))
    assert image.shape == text.shape == (4, 64)
    for embedding in (image, text):
        assert torch.allclose(embedding.norm(dim=1), torch.ones(4), atol=1e-6)


def test_embeddings_are_float32_under_autocast(tiny):
    images, tokens = inputs(tiny)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = tiny.image_tower(images)
        image, text = tiny(images, tokens)
    assert low.dtype == torch.bfloat16
    assert image.dtype == text.dtype == torch.float32
    assert (image.norm(dim=1) - 1).abs().max() < 1e-6


def test_temperature_starts_at_clips_and_is_clamped(tiny):
    assert tiny.scale().item() == pytest.approx(1 / 0.07, rel=1e-6)
    for value, clamped in ((10.0, 100.0), (-1.0, 1.0), (math.log(50), 50.0)):
        tiny.logit_scale.data.fill_(value)
        tiny.clamp_scale_()
        assert tiny.scale().item() == pytest.approx(clamped, rel=1e-5)
    assert tiny.logit_scale.requires_grad


@pytest.mark.parametrize("side", [32, 64])
def test_image_size_can_be_chosen(side):
    model = build_model("tiny", image_size=side)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # channels-last at 64 pixels ends the process here
    try:
        rows = model.encode_image(torch.rand(16, 3, side, side))
        rows.sum().backward()
    finally:
        torch.set_num_threads(threads)
    assert rows.shape == (16, 64)
    assert all(p.grad is not None for p in model.image_tower.parameters())


def test_vit_has_positions_for_its_image_size():
    with torch.device("meta"):
        tower = build_model("b", image_size=256).image_tower
    assert tower.pos_embed.shape == (1, 256, 768)
    norms = [m for m in tower.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 25
    assert {norm.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("s9", 0, "model.name must be one of s0, s1, s2, b, tiny, got s9"),
        ("s0", 250, "model.image_size of s0 must be a multiple of 32, got 250"),
        ("b", 225, "model.image_size of b must be a multiple of 16, got 225"),
        ("tiny", -8, "model.image_size of tiny must be a multiple of 8, got -8"),
    ],
)
def test_wrong_models_are_refused(name, size, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, image_size=size)


def test_texts_of_another_length_are_refused(tiny):
    with pytest.raises(ValueError, match="16 tokens, got 77; tokenize with context_length=16"):
        tiny.encode_text(torch.zeros(1, 77, dtype=torch.int64))


def test_every_parameter_is_trained(tiny):
    tiny.double()
    images, tokens = inputs(tiny)
    image, text = tiny(images.double(), tokens)
    (tiny.scale() * image @ text.T).logsumexp(dim=1).sum().backward()
    idle = [n for n, p in tiny.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_checkpointing_changes_neither_gradients_nor_statistics(tiny):
    results = []
    for enable in (False, True):
        model = build_model("tiny")
        model.load_state_dict(tiny.state_dict())
        model.set_grad_checkpointing(enable)
        image, text = model(*inputs(model))
        (image @ text.T).square().sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append({**gradients, **dict(model.named_buffers())})
    plain, checkpointed = results
    assert plain.keys() == checkpointed.keys()
    for name, tensor in plain.items():
        assert torch.equal(tensor, checkpointed[name]), name
    assert plain["image_tower.stages.0.blocks.0.mlp.conv.bn.num_batches_tracked"] == 1


def test_checkpointing_recomputes_blocks(tiny):
    calls: list[str] = []
    block = tiny.image_tower.stages[0].blocks[0]
    block.register_forward_pre_hook(lambda *_: calls.append("block"))
    for enable, expected in ((False, 1), (True, 2)):
        calls.clear()
        tiny.set_grad_checkpointing(enable)
        tiny.encode_image(inputs(tiny)[0]).sum().backward()
        assert len(calls) == expected


def test_checkpointing_of_the_transformers_is_theirs():
    model = on_meta("b")
    for enable in (True, False):
        model.set_grad_checkpointing(enable)
        assert model.image_tower.grad_checkpointing is enable
        assert model.text_tower.transformer.grad_checkpointing is enable


def test_frozen_statistics_come_back_after_an_error():
    norm = nn.BatchNorm1d(3)
    before = norm.running_mean.clone()
    with frozen_statistics(norm):
        norm(torch.randn(4, 3) + 7)
    with pytest.raises(ValueError, match="expected 2D or 3D"), frozen_statistics(norm):
        norm(torch.randn(4))
    assert torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 0
    norm(torch.randn(4, 3) + 7)
    assert not torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 1
