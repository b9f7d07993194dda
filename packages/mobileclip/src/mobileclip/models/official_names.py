"""Names of our tensors in the official `.pt` files of MobileCLIP.

Only strings: our names are timm's (image tower) and open_clip's (text tower), the official ones are
those that timm's `checkpoint_filter_fn` and open_clip's `convert.py` read.
"""

import re
from collections.abc import Iterable, Mapping

IMAGE = "image_tower."
TEXT = "text_tower."

# Ours -> official, applied in order.
_BRANCHES = (
    ("conv_kxk.", "rbr_conv."),
    ("conv_scale.", "rbr_scale."),
    ("identity.", "rbr_skip."),
    ("layer_scale.gamma", "layer_scale"),
)
_MCI = (
    ("downsample.proj.0.reparam_conv.", "downsample.proj.0.lkb_reparam."),
    ("large_conv.", "lkb_origin."),
    ("stem.", "patch_embed."),
    ("final_conv.se.fc1.", "final_conv.se.reduce."),
    ("final_conv.se.fc2.", "final_conv.se.expand."),
    ("final_conv.", "conv_exp."),
    ("mlp.", "convffn."),
    ("layer_scale_1.gamma", "layer_scale_1"),
    ("layer_scale_2.gamma", "layer_scale_2"),
    ("pos_emb.pos_enc.", "pos_emb.pe."),
    ("head.fc.weight", "head.proj"),
    *_BRANCHES,
)
_VIT = (
    ("blocks.", "transformer."),
    ("norm1.", "pre_norm_mha.0."),
    ("attn.qkv.", "pre_norm_mha.1.qkv_proj."),
    ("attn.proj.", "pre_norm_mha.1.out_proj."),
    ("norm2.", "pre_norm_ffn.0."),
    ("mlp.fc1.", "pre_norm_ffn.1."),
    ("mlp.fc2.", "pre_norm_ffn.4."),
    ("pos_embed", "pos_embed.pos_embed.pos_embed"),
    ("head.weight", "classifier.proj"),
)
_VIT_PATTERNS = (
    (r"^norm\.", "post_transformer_norm."),
    (r"^patch_embed\.backbone\.(\d)\.conv\.", r"patch_emb.\1.block.conv."),
    (r"^patch_embed\.backbone\.(\d)\.bn\.", r"patch_emb.\1.block.norm."),
)
_TEXT = (
    ("token_embedding.", "embedding_layer."),
    ("positional_embedding", "positional_embedding.pos_embed.pos_embed"),
    ("text_projection", "projection_layer"),
    ("transformer.resblocks.", "transformer."),
    ("ln_final.", "final_layer_norm."),
    ("ln_1.", "pre_norm_mha.0."),
    ("attn.in_proj_", "pre_norm_mha.1.qkv_proj."),
    ("attn.out_proj.", "pre_norm_mha.1.out_proj."),
    ("ln_2.", "pre_norm_ffn.0."),
    ("mlp.c_fc.", "pre_norm_ffn.1."),
    ("mlp.c_proj.", "pre_norm_ffn.4."),
    ("mlp.", "convffn."),
    *_BRANCHES,
)


def official_names(names: Iterable[str]) -> dict[str, str]:
    """Return the official name of each of a model's tensors.

    Args:
        names: All of our names; the official code numbers downsampling, positions and blocks of
            all stages through, so which of them there are matters.
    """
    names = list(names)
    network = _network(names)
    return {name: _official_name(name, network) for name in names}


def _official_name(name: str, network: Mapping[str, str]) -> str:
    if name.startswith(TEXT):
        return "text_encoder." + _replace(name.removeprefix(TEXT), _TEXT)
    if not name.startswith(IMAGE):
        return name
    name = name.removeprefix(IMAGE)
    if network:
        name = _replace(name, _MCI)
        for ours, official in network.items():
            name = name.replace(ours, official)
    else:
        for pattern, replacement in _VIT_PATTERNS:
            name = re.sub(pattern, replacement, name)
        name = _replace(name, _VIT)
    return "image_encoder.model." + name


def _network(names: Iterable[str]) -> dict[str, str]:
    """Number the parts of the stages, `stages.1.downsample.` -> `network.1.` and so on."""
    parts = ("downsample", "pos_emb", "blocks")
    pattern = re.compile(rf"^image_tower\.stages\.(\d+)\.({'|'.join(parts)})\.")
    found = {m.groups() for m in map(pattern.match, names) if m}
    ordered = sorted(found, key=lambda part: (int(part[0]), parts.index(part[1])))
    return {f"stages.{i}.{part}.": f"network.{n}." for n, (i, part) in enumerate(ordered)}


def _replace(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for ours, official in rules:
        name = name.replace(ours, official)
    return name
