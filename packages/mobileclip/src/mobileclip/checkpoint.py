"""A trained model from a checkpoint of `fit`, a run folder, or a file of weights.

Nothing is unpickled. Files of weights may have any layout of `models.keymap`, folded or not.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mobileclip.models.clip import MobileCLIP, build_model
from mobileclip.models.fold import fold
from mobileclip.models.keymap import detect_layout, load_state, read_state
from tenfold import checkpoints

logger = logging.getLogger(__name__)

NETWORK = "network."
AVERAGE = "ema.module."
IMAGE_PREFIXES = {
    "ours": "image_tower.",
    "official": "image_encoder.",
    "open_clip": "visual.",
    "timm": "",
}
MODEL_OF_BLOCKS = {20: "s0", 40: "s1", 44: "s2", 2: "tiny"}
"""Convolutional models by their number of blocks, which all layouts keep, folded or not."""

VIT_PATCH = 16


def load_model(checkpoint: Path, *, ema: bool = True) -> MobileCLIP:
    """Return a trained model in `eval()` on the CPU.

    Args:
        checkpoint: Run folder, checkpoint of `fit` (`.ckpt`), or weights in our, the official,
            open_clip's or timm's layout; folded weights make a folded model.
        ema: Whether to take the moving average of the weights where the run has kept one.

    Raises:
        CheckpointError: Nothing is there, or no checkpoint of the run verifies.
        ValueError: It holds something else than one of the models.
    """
    path = checkpoints.find(checkpoint)
    if path.suffix == ".ckpt":
        return _of_fit(path, ema=ema)
    state = read_state(path)
    name, image_size = recognise(state, source=str(path))
    model = build_model(name, image_size=image_size).eval()
    if _is_folded(state):
        model = fold(model)
    layout = load_state(model, state, source=str(path))
    if layout == "timm":
        logger.warning("%s holds an image tower alone: the text tower is untrained", path)
    return model


def recognise(state: Mapping[str, Tensor], *, source: str) -> tuple[str, int]:
    """Return name and image size of the model whose weights these are, 0 for any size.

    Raises:
        ValueError: It is none of the models.
    """
    prefix = IMAGE_PREFIXES[detect_layout(state)]
    tower = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    positions = [t for name, t in tower.items() if name.endswith("pos_embed")]
    if positions:  # of the patches; only the vision transformer has them
        return "b", VIT_PATCH * math.isqrt(positions[0].shape[-2])
    # Squeeze-and-excitation has an fc1 of its own in timm.
    blocks = sum(name.endswith(".fc1.weight") and ".se." not in name for name in tower)
    if blocks not in MODEL_OF_BLOCKS:
        known = ", ".join(f"{name} {count}" for count, name in MODEL_OF_BLOCKS.items())
        raise ValueError(f"{source} has an image tower of {blocks} blocks; our models have {known}")
    return MODEL_OF_BLOCKS[blocks], 0


def _is_folded(state: Mapping[str, Tensor]) -> bool:
    # What others fold keeps some batch norms, what we fold keeps none.
    return any("reparam" in name for name in state) or not any(
        name.endswith("running_mean") for name in state
    )


def _of_fit(path: Path, *, ema: bool) -> MobileCLIP:
    content = checkpoints.load(path)
    try:
        config = content["hyper_parameters"]["model"]
        name, image_size = config["name"], config["image_size"]
        tensors: Mapping[str, Tensor] = content["state_dict"]
    except (KeyError, TypeError):
        raise ValueError(f"{path} is no checkpoint of `fit`: it does not name its model") from None
    averaged = ema and any(key.startswith(AVERAGE) for key in tensors)
    prefix = AVERAGE if averaged else NETWORK
    logger.info("%s: %s of the weights", path, "moving average" if averaged else "last state")
    model = build_model(name, image_size=image_size)
    state = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    load_state(model, state, source=str(path))
    return model.eval()
