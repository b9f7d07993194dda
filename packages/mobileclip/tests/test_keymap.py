"""Key layouts: strict both ways, and what open_clip's and timm's code make of ours."""

import copy
from functools import lru_cache

import open_clip
import pytest
import torch
from open_clip.convert import convert_state_dict
from timm.models.fastvit import checkpoint_filter_fn
from timm.utils.model import reparameterize_model

from mobileclip.models.clip import MobileCLIP, build_model
from mobileclip.models.fold import fold, randomise_
from mobileclip.models.fold_blocks import fold_branches_
from mobileclip.models.keymap import (
    detect_layout,
    load_state,
    load_weights,
    read_state,
    save_weights,
    to_layout,
)

LAYOUTS = ("ours", "official", "open_clip", "timm")

# Facts about the official files (spec 5): the first text block of MCt, without statistics.
OFFICIAL_REPMIXER = {
    "token_mixer.norm.rbr_skip.weight": (512,),
    "token_mixer.norm.rbr_skip.bias": (512,),
    "token_mixer.mixer.rbr_skip.weight": (512,),
    "token_mixer.mixer.rbr_skip.bias": (512,),
    "token_mixer.mixer.rbr_conv.0.conv.weight": (512, 1, 1, 11),
    "token_mixer.mixer.rbr_conv.0.bn.weight": (512,),
    "token_mixer.mixer.rbr_conv.0.bn.bias": (512,),
    "token_mixer.layer_scale": (512, 1, 1),
    "convffn.conv.conv.weight": (512, 1, 1, 11),
    "convffn.conv.bn.weight": (512,),
    "convffn.conv.bn.bias": (512,),
    "convffn.fc1.weight": (2048, 512, 1, 1),
    "convffn.fc1.bias": (2048,),
    "convffn.fc2.weight": (512, 2048, 1, 1),
    "convffn.fc2.bias": (512,),
    "layer_scale": (512, 1, 1),
}
OFFICIAL_ATTENTION = {
    "pre_norm_mha.0.weight": (512,),
    "pre_norm_mha.0.bias": (512,),
    "pre_norm_mha.1.qkv_proj.weight": (1536, 512),
    "pre_norm_mha.1.qkv_proj.bias": (1536,),
    "pre_norm_mha.1.out_proj.weight": (512, 512),
    "pre_norm_mha.1.out_proj.bias": (512,),
    "pre_norm_ffn.0.weight": (512,),
    "pre_norm_ffn.0.bias": (512,),
    "pre_norm_ffn.1.weight": (2048, 512),
    "pre_norm_ffn.1.bias": (2048,),
    "pre_norm_ffn.4.weight": (512, 2048),
    "pre_norm_ffn.4.bias": (512,),
}
OFFICIAL_TEXT_ENDS = {
    "embedding_layer.weight": (49408, 512),
    "positional_embedding.pos_embed.pos_embed": (1, 1, 77, 512),
    "final_layer_norm.weight": (512,),
    "final_layer_norm.bias": (512,),
    "projection_layer": (512, 512),
}


@lru_cache(maxsize=2)
def trained(name: str) -> MobileCLIP:
    """A model whose statistics and LayerScale are not those of a fresh one; not to be changed."""
    torch.manual_seed(0)
    model = build_model(name).eval()
    randomise_(model, torch.Generator().manual_seed(0))
    return model


def blank(model: MobileCLIP) -> MobileCLIP:
    """The same model, all zeros."""
    empty = copy.deepcopy(model)
    for tensor in empty.state_dict().values():
        tensor.zero_()
    return empty


def half_folded(model: MobileCLIP) -> MobileCLIP:
    """Folded as far as the official code folds."""
    half = copy.deepcopy(model)
    fold_branches_(half)
    return half


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("s0", "ours"), ("s0", "open_clip"), ("s0", "official"), ("tiny", "official")],
)
def test_round_trips_keep_every_tensor(name, layout):
    model = trained(name)
    other = blank(model)
    state = to_layout(model, layout)
    assert detect_layout(state) == layout
    assert load_state(other, state, source="memory") == layout
    assert same(model.state_dict(), other.state_dict())
    assert len(state) == len(model.state_dict()) + (layout == "open_clip")


def test_timm_files_hold_the_image_tower_alone():
    model = trained("tiny")
    other = blank(model)
    text = copy.deepcopy(other.text_tower.state_dict())
    assert load_state(other, to_layout(model, "timm"), source="memory") == "timm"
    assert same(model.image_tower.state_dict(), other.image_tower.state_dict())
    assert same(text, other.text_tower.state_dict())


def test_official_text_names_of_s0():
    with torch.device("meta"):
        model = build_model("s0")
    state = to_layout(model, "official")
    prefix = "text_encoder."
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    found = {
        name.removeprefix(prefix): tuple(tensor.shape)
        for name, tensor in state.items()
        if name.startswith(prefix) and not name.endswith(statistics)
    }
    expected = dict(OFFICIAL_TEXT_ENDS)
    for index in range(6):
        block = OFFICIAL_REPMIXER if index in (0, 5) else OFFICIAL_ATTENTION
        expected |= {f"transformer.{index}.{name}": shape for name, shape in block.items()}
    assert found == expected
    assert state["image_encoder.model.head.proj"].shape == (1024, 512)
    assert set(state) - {n for n in state if n.startswith(("text_encoder.", "image_encoder."))} == {
        "logit_scale"
    }


def test_timm_reads_our_official_image_tower_of_s0():
    model = trained("s0")
    converted = checkpoint_filter_fn(to_layout(model, "official"), model.image_tower)
    assert same(dict(converted), to_layout(model, "timm"))


@pytest.mark.parametrize("name", ["S1", "S2", "B"])
@torch.no_grad()
def test_open_clip_reads_both_layouts_and_embeds_alike(name):
    model = trained(name.lower())
    peer = open_clip.create_model(f"MobileCLIP-{name}", pretrained=None).eval()
    state = to_layout(model, "open_clip")
    converted = convert_state_dict(peer, to_layout(model, "official"))
    assert same(converted, state)

    peer.load_state_dict(state, strict=True)
    for module in peer.visual.modules():  # timm's ViT has 1e-6, the official one 1e-5
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    images = torch.rand(1, 3, model.image_size, model.image_size)
    tokens = torch.randint(1, 49407, (1, 77))
    ours = torch.cat(model(images, tokens))
    theirs = torch.cat(
        [peer.encode_image(images, normalize=True), peer.encode_text(tokens, normalize=True)]
    )
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert peer.logit_scale == model.logit_scale


@pytest.mark.parametrize("name", ["tiny", "s0", "b"])
def test_folded_official_files_load_into_folded_models(name):
    model = trained(name)
    folded = fold(model)
    other = blank(folded)
    state = to_layout(half_folded(model), "official")
    assert load_state(other, state, source="memory") == "official"
    assert same(folded.state_dict(), other.state_dict())


def test_official_names_of_folded_blocks():
    with torch.device("meta"):
        half = build_model("s0").eval()
        fold_branches_(half)
    names = set(to_layout(half, "official"))
    assert {
        "image_encoder.model.patch_embed.0.reparam_conv.weight",
        "image_encoder.model.network.0.1.token_mixer.reparam_conv.bias",
        "image_encoder.model.network.1.proj.0.lkb_reparam.weight",
        "image_encoder.model.network.1.proj.1.reparam_conv.weight",
        "image_encoder.model.network.6.reparam_conv.weight",
        "image_encoder.model.network.7.0.norm.running_var",
        "image_encoder.model.network.7.1.convffn.conv.bn.bias",
        "image_encoder.model.conv_exp.reparam_conv.bias",
        "image_encoder.model.conv_exp.se.reduce.weight",
        "text_encoder.transformer.5.token_mixer.reparam_conv.weight",
    } <= names
    assert not any("rbr_" in name or "lkb_origin" in name for name in names)


def test_files_folded_by_timm_load_into_folded_models():
    model = trained("tiny")
    folded = fold(model)
    other = blank(folded)
    state = {
        **reparameterize_model(model.image_tower).state_dict(),
        "head.fc.bias": torch.zeros(64),
    }
    assert load_state(other, state, source="memory") == "timm"
    assert same(folded.image_tower.state_dict(), other.image_tower.state_dict())
    assert not other.text_tower.token_embedding.weight.any()


def test_loading_leaves_the_global_generator_alone():
    model = trained("tiny")
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        if drawn:
            load_state(fold(model), to_layout(half_folded(model), "official"), source="memory")
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_round_trip(tmp_path, layout, suffix):
    model = trained("tiny")
    other = blank(model)
    path = tmp_path / f"weights{suffix}"
    save_weights(model, path, layout=layout)
    assert load_weights(other, path) == layout
    assert same(to_layout(model, layout), to_layout(other, layout))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_folded_models_round_trip_in_our_layout(tmp_path):
    folded = fold(trained("tiny"))
    other = blank(folded)
    save_weights(folded, tmp_path / "folded.safetensors", layout="ours")
    load_weights(other, tmp_path / "folded.safetensors")
    assert same(folded.state_dict(), other.state_dict())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrapped_and_compiled_names_are_read(tmp_path, wrapper):
    model = trained("tiny")
    state = {f"module._orig_mod.{n}": t for n, t in to_layout(model, "open_clip").items()}
    torch.save({"epoch": 3, wrapper: state}, tmp_path / "run.pt")
    assert same(read_state(tmp_path / "run.pt"), to_layout(model, "open_clip"))


def without(state: dict, name: str) -> dict:
    return {n: t for n, t in state.items() if n != name}


@pytest.mark.parametrize("layout", ["ours", "official", "open_clip", "timm"])
def test_missing_added_and_reshaped_tensors_are_named(layout):
    model = copy.deepcopy(trained("tiny"))
    state = to_layout(model, layout)
    name = next(name for name in state if name.endswith("fc2.weight"))
    cases = [
        (without(state, name), f"1 missing .{name}"),
        ({**state, "extra.weight": torch.zeros(1)}, r"1 unexpected .extra.weight"),
        ({**state, name: state[name][:3]}, f"1 reshaped .{name}"),
    ]
    before = copy.deepcopy(model.state_dict())
    for changed, message in cases:
        with pytest.raises(ValueError, match=message):
            load_state(model, changed, source="weights.pt")
    assert same(model.state_dict(), before)


def test_what_does_not_fit_says_what_to_do():
    model = trained("tiny")
    folded = fold(model)
    with pytest.raises(ValueError, match=r"holds folded weights, load them into fold\(model\)"):
        load_state(model, to_layout(folded, "ours"), source="weights.pt")
    with pytest.raises(ValueError, match="load them into the unfolded model and fold that"):
        load_state(folded, to_layout(model, "ours"), source="weights.pt")
    with torch.device("meta"):
        other = build_model("s0")
    with pytest.raises(ValueError, match=r"weights.pt, layout ours, does not fit s0: .*model.name"):
        load_state(other, to_layout(model, "ours"), source="weights.pt")
    with pytest.raises(ValueError, match="layout timm cannot hold a folded model"):
        to_layout(folded, "timm")


@pytest.mark.parametrize("layout", ["open_clip", "timm"])
def test_a_projection_bias_is_refused_unless_zero(layout):
    model = copy.deepcopy(trained("tiny"))
    state = to_layout(model, layout)
    bias = next(name for name in state if name.endswith("head.fc.bias"))
    load_state(model, without(state, bias), source="weights.pt")
    with pytest.raises(ValueError, match=f"has a bias, {bias}, that is not zero"):
        load_state(model, {**state, bias: torch.ones(64)}, source="weights.pt")


def test_unusable_files_are_refused(tmp_path):
    model = trained("tiny")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*none.pt"):
        load_weights(model, tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold tensors by name, got list"):
        load_weights(model, tmp_path / "list.pt")
    torch.save({"model": trained}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="cannot be read safely"):
        load_weights(model, tmp_path / "code.pt")
    torch.save({"a.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"no known layout .*: a.weight"):
        load_weights(model, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"weights are written to \.safetensors, .*, got .*\.npz"):
        save_weights(model, tmp_path / "weights.npz", layout="ours")
    with pytest.raises(ValueError, match=r"layout must be one of ours, .*, got theirs"):
        save_weights(model, tmp_path / "weights.pt", layout="theirs")
