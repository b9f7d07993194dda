"""PatchTST of transformers (Nie et al. 2023): built from our options, and found in checkpoints.

It treats channels alike and apart, so that pre-trained weights fit any of them, and has positions
from sines, so that they fit any length; its head, a linear layer over all channels' means, fits
neither other channels nor windows that lack one.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from biofame.baselines.config import PatchTstConfig
from biofame.weights import differing_fields
from tenfold import checkpoints

if TYPE_CHECKING:
    from transformers import PatchTSTForClassification, PatchTSTForPretraining

PREFIX = "patchtst."
BACKBONE = "model."
POSITIONS = "encoder.positional_encoder.position_enc"
FREE = ("channels", "length", "dropout", "mask_ratio")
"""Fields that may differ between a checkpoint's model and the one wanted."""


class SavedBackbone(NamedTuple):
    """The options of a trained PatchTST and its weights without a head."""

    config: PatchTstConfig
    state: dict[str, Tensor]


def build_pretraining(config: PatchTstConfig) -> "PatchTSTForPretraining":
    """Return a PatchTST with random weights that predicts masked patches.

    Raises:
        ModuleNotFoundError: The extra is not installed.
    """
    return _library().PatchTSTForPretraining(_library_config(config))


def build_classifier(
    config: PatchTstConfig, *, outputs: int, backbone: SavedBackbone | None = None
) -> "PatchTSTForClassification":
    """Return a PatchTST with a random head, and a random or trained backbone.

    Args:
        config: The model.
        outputs: Width of the head.
        backbone: Trained weights; random ones by default.

    Raises:
        ModuleNotFoundError: The extra is not installed.
    """
    classifier = _library().PatchTSTForClassification(_library_config(config, num_targets=outputs))
    if backbone is not None:
        wanted = classifier.model.state_dict()
        # Not learned; and of another length they are others.
        wanted_positions = {POSITIONS: wanted[POSITIONS]}
        classifier.model.load_state_dict(backbone.state | wanted_positions)
    return classifier


def load_backbone(path: Path) -> SavedBackbone:
    """Return what `pretrain-patchtst` or `finetune-patchtst` trained.

    Args:
        path: Run folder or checkpoint.

    Raises:
        CheckpointError: Nothing is there, or it is damaged.
        ValueError: It holds something else.
    """
    path = checkpoints.find(path)
    saved = checkpoints.load(path)
    prefix = PREFIX + BACKBONE
    names = {name: name.replace("_orig_mod.", "") for name in saved.get("state_dict", {})}
    state = {
        clean.removeprefix(prefix): saved["state_dict"][name]
        for name, clean in names.items()
        if clean.startswith(prefix)
    }
    settings = saved.get("hyper_parameters", {}).get("model")
    if POSITIONS not in state or not isinstance(settings, Mapping):
        raise ValueError(f"{path} is no checkpoint of pretrain-patchtst or finetune-patchtst")
    return SavedBackbone(_config_of(settings, source=path), state)


def check_same(saved: PatchTstConfig, wanted: PatchTstConfig, *, source: Path) -> None:
    """Check that a checkpoint's model is the one wanted, but for what its weights do not know.

    Raises:
        ValueError: They differ; the message names every field with both values.
    """
    differing = differing_fields(saved, wanted, free=FREE)
    if differing:
        raise ValueError(f"{source} holds another PatchTST: {differing}")


def embed(network: "PatchTSTForPretraining", samples_BCL: Tensor) -> Tensor:
    """Return what the encoder makes of whole windows, nothing masked, `[B, C, N, D]`."""
    backbone = network.model
    samples_BLC = samples_BCL.transpose(1, 2)
    standardised, _, _ = backbone.scaler(samples_BLC, torch.ones_like(samples_BLC))
    return backbone.encoder(patch_input=backbone.patchifier(standardised)).last_hidden_state


def freeze(classifier: nn.Module) -> None:
    """Let only the head be trained; batch statistics stay what they are."""
    backbone = classifier.get_submodule("model")
    backbone.requires_grad_(False).eval()


def _library() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "PatchTST needs transformers: install biofame[patchtst]"
        ) from error
    return transformers


def _library_config(config: PatchTstConfig, **further: int) -> Any:
    return _library().PatchTSTConfig(
        num_input_channels=len(config.channels),
        context_length=config.length,
        patch_length=config.patch,
        patch_stride=config.patch,
        d_model=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        ffn_dim=config.mlp,
        norm_type=config.norm,
        attention_dropout=config.dropout,
        ff_dropout=config.dropout,
        head_dropout=config.dropout,
        random_mask_ratio=config.mask_ratio,
        use_cls_token=False,
        **further,
    )


def _config_of(settings: Mapping[str, Any], *, source: Path) -> PatchTstConfig:
    unknown = sorted(set(settings) - {field.name for field in fields(PatchTstConfig)})
    if unknown:
        raise ValueError(f"{source} has options that this version does not know: {unknown}")
    return PatchTstConfig(**{**settings, "channels": tuple(settings["channels"])})
