"""Weights of a classifier from a file, and the start of a fine-tuning run from them.

Nothing is unpickled: safetensors, our own checkpoints (verified), or torch files of tensors only.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dataset_reinforcement.config import ModelConfig
from tenfold import checkpoints

logger = logging.getLogger(__name__)

NETWORK = "network."
EMA = "ema.module."
CLASSES = "classes"
"""Key below which a checkpoint of `fit` keeps its class names."""

WRAPPERS = ("state_dict", "model")
"""Keys below which other libraries' checkpoint files keep the weights."""

_DESCRIBING = {"name", "classes", "image_size", "mean", "std"}


class SavedClassifier(NamedTuple):
    """Weights by name; configuration and class names, which only checkpoints of `fit` have."""

    weights: dict[str, Tensor]
    config: ModelConfig | None
    classes: tuple[str, ...] = ()


def weights_file(path: Path) -> Path:
    """Return the file of weights that `path` names: itself, or a run folder's newest checkpoint.

    Raises:
        CheckpointError: It is a folder without a checkpoint that verifies.
    """
    return checkpoints.find(path) if path.is_dir() else path


def read_weights(path: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Read the weights of a classifier, named as `build_model`'s module names them.

    Args:
        path: `.safetensors`, a run folder or checkpoint of `fit`, or a torch file of tensors.
        ema: Whether to take the moving average of a checkpoint of `fit`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no weights, no moving average, or more than tensors and plain values.
    """
    return read_classifier(path, ema=ema).weights


def read_classifier(path: Path, *, ema: bool = False) -> SavedClassifier:
    """Read what `read_weights` reads, and what a checkpoint of `fit` says of its model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no weights, no moving average, or more than tensors and plain values.
    """
    path = weights_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights at {path}")
    if path.suffix == ".safetensors":
        content: Any = checkpoints.load_weights(path)
    else:
        content = _load_torch(path)
    tensors = _tensors(content)
    prefix = EMA if ema else NETWORK
    if any(name.startswith(NETWORK) for name in tensors):
        tensors = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    elif ema:
        raise ValueError(f"{path} is no checkpoint of `fit` and has no moving average")
    if not tensors:
        raise ValueError(f"{path} has no {'moving average' if ema else 'weights'}")
    return SavedClassifier(tensors, fit_config(content), saved_classes(content))


def fit_config(content: Any) -> ModelConfig | None:
    """Return the model's configuration in a checkpoint of `fit`, None in any other content."""
    try:
        saved = content["hyper_parameters"]["model"]
        if not saved.keys() >= _DESCRIBING:
            return None
    except (AttributeError, KeyError, TypeError):
        return None
    listed = {name: tuple(value) for name, value in saved.items() if isinstance(value, list)}
    return ModelConfig(**{**saved, **listed, "init_from": None})


def saved_classes(content: Any) -> tuple[str, ...]:
    """Return the class names in a checkpoint of `fit`, none in any other content."""
    if fit_config(content) is None:
        return ()
    return tuple(content.get(CLASSES, ()))


def start_from(network: nn.Module, path: Path) -> None:
    """Load the body of `network` from what `read_weights` reads; the head stays random.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The body has other tensors than the file.
    """
    if not path.exists():
        raise FileNotFoundError(f"model.init_from {path} does not exist")
    saved = read_weights(path)
    head = _head_names(network)
    own = {name: tensor for name, tensor in network.state_dict().items() if name not in head}
    body = {name: tensor for name, tensor in saved.items() if name not in head}
    unlike = [
        name
        for name in sorted(own.keys() | body.keys())
        if name not in own or name not in body or own[name].shape != body[name].shape
    ]
    if unlike:
        raise ValueError(
            f"model.init_from {path} does not fit the model: {len(unlike)} tensors differ, first "
            f"{unlike[0]}; give the model.name that the file was trained with"
        )
    network.load_state_dict(body, strict=False)
    logger.info("body of %d tensors from %s, a new head of %d", len(body), path, len(head))


def _head_names(network: nn.Module) -> set[str]:
    head = {id(tensor) for tensor in network.get_classifier().parameters()}  # type: ignore[operator]
    return {name for name, tensor in network.named_parameters() if id(tensor) in head}


def _load_torch(path: Path) -> Any:
    if checkpoints.manifest_path(path).is_file():
        return checkpoints.load(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types; none of them names the file
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} cannot be read safely: {reason}") from error


def _tensors(content: Any) -> dict[str, Tensor]:
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        return {}
    plain = {n.replace("_orig_mod.", ""): t for n, t in content.items() if isinstance(t, Tensor)}
    return {name.removeprefix("module."): tensor for name, tensor in plain.items()}
