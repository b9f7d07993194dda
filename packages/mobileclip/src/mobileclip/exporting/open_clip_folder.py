"""A folder that plain open_clip loads by `local-dir:`.

open_clip builds S1, S2 and B in the unfolded form. S0's text tower (MCt) is not in open_clip, so
that no configuration can describe it there. timm's image tower of B normalises with an epsilon of
1e-6 where the official weights were trained with 1e-5: its numbers move by that much.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor

from mobileclip.exporting.parity import Parity, compare
from mobileclip.models.clip import MobileCLIP
from mobileclip.models.fold import is_folded
from mobileclip.models.keymap import save_weights
from tenfold import atomic

NAMES = {"s1": "MobileCLIP-S1", "s2": "MobileCLIP-S2", "b": "MobileCLIP-B"}
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
VIT_SIZE = 224


def check_model(model: MobileCLIP) -> None:
    """Refuse a model that open_clip cannot build.

    Raises:
        ValueError: Says why, and what to do instead.
    """
    if model.name not in NAMES:
        raise ValueError(
            f"open_clip cannot build {model.name}: its text tower, MCt, is not in open_clip; "
            "export it with --format onnx or --format torch"
        )
    if is_folded(model):
        raise ValueError(
            "open_clip builds the unfolded model: export the checkpoint of fit, not folded weights"
        )
    if model.name == "b" and model.image_size != VIT_SIZE:
        raise ValueError(
            f"open_clip builds b for images of {VIT_SIZE}, got {model.image_size}; export it with "
            "--format onnx or --format torch"
        )


def write(model: MobileCLIP, folder: Path) -> None:
    """Write configuration and weights."""
    config = {"model_cfg": model_config(model), "preprocess_cfg": preprocess_config(model)}
    atomic.write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    save_weights(model, folder / WEIGHTS_FILE, layout="open_clip")


def check(model: MobileCLIP, folder: Path) -> Parity:
    """Load the folder as a user would and compare.

    Raises:
        ValueError: The numbers differ.
    """
    loaded: Any = open_clip.create_model(f"local-dir:{folder}").eval()

    def encode_image(images: Tensor) -> Tensor:
        return loaded.encode_image(images)

    def encode_text(tokens: Tensor) -> Tensor:
        return loaded.encode_text(tokens)

    return compare(model, encode_image, encode_text)


def model_config(model: MobileCLIP) -> dict[str, Any]:
    """Return open_clip's own configuration of the model, for its image size."""
    config = open_clip.get_model_config(NAMES[model.name])
    assert config is not None
    vision = {**config["vision_cfg"], "image_size": model.image_size}
    return {**config, "vision_cfg": vision}


def preprocess_config(model: MobileCLIP) -> dict[str, Any]:
    """Return the published preprocessing: bilinear, no mean, no deviation."""
    return {
        "size": model.image_size,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "interpolation": "bilinear",
        "resize_mode": "shortest",
    }
